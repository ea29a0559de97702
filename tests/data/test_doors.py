"""Each corpus in its published layout, made here of a few files: what is listed, what is left out, what is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from support.listed import listed

from slamray.config.listing import find_files
from slamray.config.outside import listing_content
from slamray.data.published_corpora import cut_by_vad
from slamray.data.recordings import published_split
from slamray.errors import BadInput

RATE_HZ = 16_000


def sound(seconds: float, pitch_hz: float = 220) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def write(path: Path, content: str | float, **options: Any) -> Path:
    """A text file, or that many seconds of sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    else:
        soundfile.write(path, sound(content), RATE_HZ, **options)
    return path


def write_parquet(path: Path, rows: int, columns: tuple[str, ...] = ("audio",), **more: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flac = write(path.parent / "x.flac", 0.5)
    audio = [{"bytes": flac.read_bytes(), "path": "x.flac"}] * rows
    flac.unlink()
    pq.write_table(pa.table({**dict.fromkeys(columns, audio), **more}), path, row_group_size=2)


def test_librispeech_lists_flac_with_transcripts_and_its_own_split(tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    for part in ("train-clean-100", "dev-clean", "dev-other", "test-clean"):
        write(root / part / "19" / "198" / "19-198-0000.flac", 0.5)
        write(root / part / "19" / "198" / "19-198-0001.flac", 0.5)
        write(
            root / part / "19" / "198" / "19-198.trans.txt", "19-198-0000 NORTHANGER ABBEY\n19-198-0001 THIS LITTLE\n"
        )
    listing = listed("librispeech", root)
    assert [(r.split, r.text) for r in listing.recordings] == [
        *[("validation", "NORTHANGER ABBEY"), ("validation", "THIS LITTLE")] * 2,
        ("train", "NORTHANGER ABBEY"), ("train", "THIS LITTLE"),
    ]  # fmt: skip
    assert listing.dropped == {"test part": 2}
    assert len({r.utterance_id for r in listing.recordings}) == 6
    with pytest.raises(BadInput, match=r"no folder of 19/198/19-198-0000.flac is called train"):
        listed("librispeech", root / "train-clean-100" / "19")


def test_a_part_given_by_itself_keeps_its_split_and_its_ids(tmp_path: Path) -> None:
    for place in ("a", "b"):
        write(tmp_path / place / "dev-other" / "7" / "8" / "7-8-0000.flac", 0.5)
    first, second = (listed("librispeech", tmp_path / place / "dev-other").recordings for place in ("a", "b"))
    assert first[0].split == "validation" and first[0].utterance_id == second[0].utterance_id
    with pytest.raises(BadInput, match=r"recorded.librispeech: dev-other/7/8/7-8-0000.flac is found twice"):
        listed("librispeech", tmp_path / "a" / "dev-other", tmp_path / "b" / "dev-other")


def test_librispeech_as_parquet(tmp_path: Path) -> None:
    for split in ("train.100", "validation", "test"):
        write_parquet(tmp_path / "librispeech_asr" / "clean" / split / "0000.parquet", 3, text=["A", "B", "C"])
    listing = listed("librispeech", tmp_path / "librispeech_asr")
    assert [(r.split, r.parquet_row, r.text_column) for r in listing.recordings] == [
        *[("train", row, "text") for row in range(3)], *[("validation", row, "text") for row in range(3)],
    ]  # fmt: skip
    assert listing.dropped == {"test part": 3}


def test_voiced_stretches_are_joined_as_cut_by_vad_does() -> None:
    # By hand after the script: 20 + 30 fit into 60, + 20 does not; 70 is a piece by itself; then what is left.
    voiced = [(0.0, 20.0), (21.0, 51.0), (60.0, 80.0), (81.0, 151.0), (152.0, 153.0)]
    assert cut_by_vad(voiced, 60) == [voiced[:2], voiced[2:3], voiced[3:4], voiced[4:]]
    assert cut_by_vad([], 60) == []


def test_librilight_is_cut_by_its_voice_activity_and_a_missing_json_is_named(tmp_path: Path) -> None:
    book = tmp_path / "small" / "100" / "sea_fairies_0812_librivox_64kb_mp3"
    about = {"speaker": "100", "book_meta": {"id": "2488"}, "snr": 7.2, "voice_activity": [[0.5, 1.0], [1.5, 3.0]]}
    write(book / "01_baum_64kb.flac", 4.0)
    write(book / "01_baum_64kb.json", json.dumps(about))
    write(book / "02_baum_64kb.flac", 1.0)
    write(book / "03_baum_64kb.flac", 1.0)
    write(book / "03_baum_64kb.json", json.dumps(about | {"voice_activity": [[2.0, 1.0]]}))
    write(book / "04_baum_64kb.flac", 1.0)
    write(book / "04_baum_64kb.json", "{")
    write(book / "05_baum_64kb.flac", 1.0)
    write(book / "05_baum_64kb.json", json.dumps(about | {"voice_activity": []}))
    listing = listed("librilight", tmp_path / "small")
    good = [r for r in listing.recordings if not r.reason]
    assert [(list(r.cuts), r.split) for r in good] == [([(0.5, 1.0), (1.5, 3.0)], "")]
    reasons = sorted(r.reason for r in listing.recordings if r.reason)
    assert [reason.partition(": ")[0].rpartition("/")[2] for reason in reasons] == [
        f"0{n}_baum_64kb.flac" for n in (2, 3, 4)
    ]
    assert "no .json beside it" in reasons[0] and "does not end after its start" in reasons[1]
    assert listing.dropped == {"no voice in the recording": 1}


def test_what_cut_by_vad_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    for piece in ("0000", "0001"):
        write(tmp_path / "cut" / "100" / "2488" / f"01_baum_64kb_{piece}.wav", 1.0)
    recordings = listed("librilight", tmp_path / "cut").recordings
    assert len(recordings) == 2 and not any(r.cuts or r.reason for r in recordings)


SWC = """<article><meta><prop group="DC" key="DC.language" value="en"/></meta><d>
 <section level="2"><sectiontitle><s>{title}</s></sectiontitle><sectioncontent><p>
  <s><t>The<n pronunciation="the" start="1000" end="1200"/></t>
     <t>cat<n pronunciation="cat" start="1200" end="1700"/></t><t>.</t></s>
  <s><t>In<n pronunciation="in" start="2000" end="2100"/></t>
     <t>1996<n pronunciation="nineteen" start="2200" end="2500"/>
     <n pronunciation="ninety six" start="2500" end="2900"/></t></s>
  <s><t>Lost<n pronunciation="lost"/></t><t>words<n pronunciation="words" start="3000" end="3200"/></t></s>
 </p></sectioncontent></section></d></article>"""


def swc(title: str = '<t>Cats<n pronunciation="cats" start="100" end="600"/></t>') -> str:
    return SWC.replace("{title}", title)


def test_swc_lists_sentences_that_are_aligned_throughout_with_word_times(tmp_path: Path) -> None:
    root = tmp_path / "english"
    write(root / "Cat" / "aligned.swc", swc())
    write(root / "Cat" / "audio.ogg", 4.0)
    listing = listed("swc", root)
    title, cat, year = listing.recordings
    assert title.text == "Cats" and cat.text == "The cat" and list(cat.cuts) == [(1.0, 1.7)]
    assert [(w, round(a, 3), round(b, 3)) for w, a, b in cat.words] == [("The", 0, 0.2), ("cat", 0.2, 0.7)]
    assert [(w, round(a, 3), round(b, 3)) for w, a, b in year.words] == [("In", 0, 0.1), ("1996", 0.2, 0.9)]
    assert listing.dropped == {"sentence not aligned throughout": 1}


def test_swc_in_several_files_is_one_clock_and_sentences_over_a_seam_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "english" / "Cat" / "aligned.swc", swc())
    for number, seconds in ((1, 0.5), (2, 1.45), (10, 2.0)):
        write(tmp_path / "english" / "Cat" / f"audio{number}.ogg", seconds)
    listing = listed("swc", tmp_path / "english")
    assert [(Path(r.path).name, [round(edge, 3) for edge in r.cuts[0]]) for r in listing.recordings] == [
        ("audio2.ogg", [0.5, 1.2]), ("audio10.ogg", [0.05, 0.95]),
    ]  # fmt: skip
    assert listing.dropped["sentence over two files"] == 1


def test_swc_keeps_to_english_and_names_a_broken_article(tmp_path: Path) -> None:
    write(tmp_path / "swc" / "german" / "Katze" / "aligned.swc", swc())
    write(tmp_path / "swc" / "english" / "Dog" / "aligned.swc", "<article><d>")
    write(tmp_path / "swc" / "english" / "Dog" / "audio.ogg", 1.0)
    write(tmp_path / "swc" / "english" / "Mute" / "aligned.swc", swc())
    listing = listed("swc", tmp_path / "swc")
    assert listing.dropped["article in another language"] == 1
    broken, mute = sorted(r.reason for r in listing.recordings)
    assert "english/Dog/aligned.swc" in broken and mute.endswith("english/Mute/aligned.swc: no audio*.ogg beside it")


STM = """;; LABEL "o" "Overall" "Overall"
{talk} 1 {talk} 0.00 1.00 <o,f0,male> i 'm here (2) to <unk> talk
{talk} 1 inter_segment_gap 1.00 1.50 <o,,unknown> ignore_time_segment_in_scoring
{talk} 1 {talk} 1.50 3.25 <o,f0,male> about sleep
"""


def tedlium_release(root: Path) -> Path:
    for folder, talk in (
        ("data", "AlGore_2009"), ("data", "Heldout_2010"), ("legacy/train", "AlGore_2009"),
        ("legacy/dev", "Heldout_2010"), ("legacy/test", "Test_2011"),
    ):  # fmt: skip
        write(root / folder / "stm" / f"{talk}.stm", STM.replace("{talk}", talk))
        write(root / folder / "sph" / f"{talk}.sph", 3.5, format="NIST", subtype="PCM_16")
    return root


def test_tedlium_lists_segments_and_trains_on_no_talk_of_dev_or_test(tmp_path: Path) -> None:
    listing = listed("tedlium", tedlium_release(tmp_path / "TEDLIUM_release-3"))
    assert [(Path(r.path).stem, r.split, list(r.cuts), r.text) for r in listing.recordings] == [
        ("AlGore_2009", "train", [(0.0, 1.0)], "i'm here to talk"),
        ("AlGore_2009", "train", [(1.5, 3.25)], "about sleep"),
        ("Heldout_2010", "validation", [(0.0, 1.0)], "i'm here to talk"),
        ("Heldout_2010", "validation", [(1.5, 3.25)], "about sleep"),
    ]
    assert listing.dropped == {"talk that is elsewhere too": 2, "segment not to be scored": 2, "test part": 1}


def test_tedlium_names_a_line_that_is_no_segment_and_a_talk_without_sound(tmp_path: Path) -> None:
    root = tmp_path / "TEDLIUM_release-3"
    write(root / "data" / "stm" / "A.stm", "A 1 A 5.0 4.0 <o,f0,male> backwards\nA 1 A five\n")
    write(root / "data" / "sph" / "A.sph", 1.0, format="NIST", subtype="PCM_16")
    write(root / "data" / "stm" / "B.stm", "B 1 B 0.0 1.0 <o,f0,male> silent\n")
    reasons = [r.reason for r in listed("tedlium", root).recordings]
    assert "data/stm/A.stm:1: not a segment" in reasons[0] and "data/stm/A.stm:2: not a segment" in reasons[1]
    assert reasons[2].endswith("no B.sph in the folder sph beside it")


def test_peoples_speech_and_stinystories_are_parquet_split_by_file(tmp_path: Path) -> None:
    for split in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001"):
        write_parquet(tmp_path / "ps" / "clean" / f"{split}.parquet", 2, text=["a", "b"])
        times = [[{"word": "a", "start_time": 0.0, "end_time": 0.2}], []]
        write_parquet(tmp_path / "st" / "data" / f"{split}.parquet", 2, text=["a", "b"], aligned_text=times)
    for name, folder, words in (("peoples_speech", "ps", ""), ("stinystories", "st", "aligned_text")):
        listing = listed(name, tmp_path / folder)
        assert [r.split for r in listing.recordings] == ["train"] * 4 + ["validation"] * 2
        assert {(r.text_column, r.words_column) for r in listing.recordings} == {("text", words)}
        assert listing.dropped == {"test part": 2}
    with pytest.raises(BadInput, match=r"test-00000-of-00001.parquet: no column aligned_text; it has audio text"):
        listed("stinystories", tmp_path / "ps")


def test_voxpopuli_lists_english_segments_and_knows_transcribed_ones(tmp_path: Path) -> None:
    root = tmp_path / "voxpopuli"
    write(root / "unlabelled_data" / "en" / "2019" / "20190114-0900-PLENARY_en_0.ogg", 0.5)
    write(root / "unlabelled_data" / "de" / "2019" / "20190114-0900-PLENARY_de_0.ogg", 0.5)
    write(root / "raw_audios" / "en" / "2019" / "20190114-0900-PLENARY_en.ogg", 0.5)
    head = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\n"
    for split in ("train", "dev", "test"):
        write(root / "transcribed_data" / "en" / f"asr_{split}.tsv", f"{head}s-{split}\tHi!\thi\t7\t{split}\tmale\n")
        write(root / "transcribed_data" / "en" / "2019" / f"s-{split}.ogg", 0.5)
    write(root / "transcribed_data" / "en" / "2019" / "s-lost.ogg", 0.5)
    listing = listed("voxpopuli", root)
    found = {Path(r.path).stem: (r.text, r.split, r.reason) for r in listing.recordings}
    assert found["20190114-0900-PLENARY_en_0"] == ("", "", "")
    assert found["s-train"] == ("hi", "train", "") and found["s-dev"] == ("hi", "validation", "")
    assert "s-lost.ogg: in no asr_*.tsv" in found["s-lost"][2] and len(found) == 4
    assert listing.dropped == {"file in another language": 1, "whole session": 1, "test part": 1}


def test_voxpopuli_as_parquet(tmp_path: Path) -> None:
    for language in ("en", "de"):
        for split in ("train", "validation"):
            write_parquet(tmp_path / "vp" / language / split / "0000.parquet", 1, normalized_text=["hi"])
    assert [r.split for r in listed("voxpopuli", tmp_path / "vp").recordings] == ["train", "validation"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("LibriSpeech/dev-other/1/2/1-2-0.flac", "validation"), ("x/train.360/0000.parquet", "train"),
        ("test_sets/data/train-00000-of-2.parquet", "train"), ("x/en/partial-train/0.parquet", "train"),
        ("small/100/the_trainer/a.flac", ""), ("a/contest/b.flac", ""),
    ],
)  # fmt: skip
def test_a_published_split_is_a_word_of_the_last_part_that_has_one(name: str, split: str) -> None:
    assert published_split(name) == split


def test_a_listing_is_known_by_names_and_sizes_and_not_by_its_place(tmp_path: Path) -> None:
    for place in ("a", "b"):
        write(tmp_path / place / "corpus" / "x" / "1.txt", "one")
        write(tmp_path / place / "corpus" / "x" / ".hidden", "not part of it")
    first, second = (listing_content(find_files([str(tmp_path / p / "corpus")], "k")) for p in ("a", "b"))
    assert first == second and first["files"] == 1 and first["bytes"] == 3
    write(tmp_path / "b" / "corpus" / "x" / "1.txt", "longer")
    assert listing_content(find_files([str(tmp_path / "b" / "corpus")], "k")) != first
    pattern = find_files([str(tmp_path / "a" / "corpus" / "*" / "1.txt")], "k")
    assert [file.name for file in pattern] == ["corpus/x/1.txt"] and pattern[0].read_text() == "one"
    with pytest.raises(BadInput, match=r"recorded.swc: /nowhere names no file"):
        find_files(["/nowhere"], "recorded.swc")


def test_a_corpus_is_read_at_any_address_that_fsspec_opens(tmp_path: Path) -> None:
    import fsspec

    parquet = tmp_path / "train-0.parquet"
    write_parquet(parquet, 2, text=["a", "b"])
    with fsspec.open("memory://hub/sTiny/data/train-0.parquet", "wb") as file:
        file.write(parquet.read_bytes())
    recordings = listed("peoples_speech", "memory://hub/sTiny/data").recordings
    assert [r.path for r in recordings] == ["memory:///hub/sTiny/data/train-0.parquet"] * 2
    assert recordings[0].split == "train"


def librispeech(root: Path, *parts: str, transcript: bytes = b"19-198-0000 NORTHANGER ABBEY\n") -> Path:
    """A recording in each of these parts."""
    for part in parts:
        write(root / part / "19" / "198" / "19-198-0000.flac", 0.2)
        (root / part / "19" / "198" / "19-198.trans.txt").write_bytes(transcript)
    return root


def test_names_in_capitals_are_the_same_names(tmp_path: Path) -> None:
    root = librispeech(tmp_path / "LibriSpeech", "train-clean-100")
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.rename(path.with_name(path.name.upper()))
    assert [(r.split, r.text) for r in listed("librispeech", root).recordings] == [("train", "NORTHANGER ABBEY")]
    book = tmp_path / "small" / "100" / "book"
    write(book / "A.FLAC", 2.0)
    write(book / "A.JSON", json.dumps({"voice_activity": [[0.5, 1.0]]}))
    assert [list(r.cuts) for r in listed("librilight", tmp_path / "small").recordings] == [[(0.5, 1.0)]]
    write(tmp_path / "english" / "Cat" / "ALIGNED.SWC", swc())
    write(tmp_path / "english" / "Cat" / "AUDIO.OGG", 4.0, format="OGG")
    assert len(listed("swc", tmp_path / "english").recordings) == 3


def test_a_transcript_that_is_no_utf8_is_left_out_and_counted_for_the_sound_is_good(tmp_path: Path) -> None:
    root = librispeech(
        tmp_path / "LibriSpeech", "train-clean-100", transcript="19-198-0000 CAF\xc9\n".encode("latin-1")
    )
    librispeech(root, "dev-clean", transcript="\ufeff19-198-0000 CAF\xc9\n".encode())
    listing = listed("librispeech", root)
    assert [(r.split, r.text, r.reason) for r in listing.recordings] == [
        ("validation", "CAF\xc9", ""),
        ("train", "", ""),
    ]
    assert listing.dropped == {"transcript that is not UTF-8": 1}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_a_table_is_read_as_a_spreadsheet_saves_it(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "transcribed_data" / "en"
    write(folder / "2010" / "a.ogg", 0.2)
    table = "id\traw_text\tnormalized_text\r\na\tCaf\xe9.\tcaf\xe9\r\n"
    (folder / "asr_train.tsv").write_bytes(table.encode(encoding))
    listing = listed("voxpopuli", tmp_path / "transcribed_data")
    text = "" if encoding == "latin-1" else "caf\xe9"
    assert [(r.split, r.text, r.reason) for r in listing.recordings] == [("train", text, "")]
    assert listing.dropped["transcript that is not UTF-8"] == (encoding == "latin-1")


def test_a_table_without_its_column_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "en" / "asr_dev.tsv", "name;text\n")
    with pytest.raises(BadInput, match=r"asr_dev\.tsv: no column id between tabs; it has name;text"):
        listed("voxpopuli", tmp_path / "en")


@pytest.mark.parametrize(
    "about",
    ["[0.1, 1.5]", "[null, [0.5, 1]]", "[[0.5, null]]", '[["a", "b"]]', "null", "[[0, 1e999]]", "[[0.1]]"],
)
def test_a_voice_activity_of_another_form_is_that_recordings_quarantine(tmp_path: Path, about: str) -> None:
    book = tmp_path / "small" / "100" / "book"
    write(book / "a.flac", 1.0)
    write(book / "a.json", f'{{"voice_activity": {about}}}')
    (recording,) = listed("librilight", tmp_path / "small").recordings
    assert recording.reason.startswith("small/100/book/a.flac: ") and "voice_activity" in recording.reason


def test_releases_1_and_2_of_tedlium_are_read_as_they_are_laid_out(tmp_path: Path) -> None:
    root = tmp_path / "TEDLIUM_release2"
    for part, talk in (("train", "A_2010"), ("train", "C_2012"), ("dev", "C_2012"), ("test", "D_2013")):
        write(root / part / "sph" / f"{talk}.sph", 1.0, format="NIST")
        stm = f"{talk} 1 {talk} 0.10 0.50 <o,f0,male> it is caf\xe9 time\n{talk} 1 {talk} 0.6 0.9 <o> now\n"
        path = write(root / part / "stm" / f"{talk}.stm", "")
        path.write_bytes(stm.encode("latin-1" if talk == "A_2010" else "utf-8"))
    listing = listed("tedlium", root)
    assert [(r.split, list(r.cuts), r.text) for r in listing.recordings] == [
        ("validation", [(0.1, 0.5)], "it is caf\xe9 time"), ("validation", [(0.6, 0.9)], "now"),
        ("train", [(0.1, 0.5)], ""), ("train", [(0.6, 0.9)], "now"),
    ]  # fmt: skip
    assert listing.dropped == {
        "talk that is elsewhere too": 1, "test part": 1, "transcript that is not UTF-8": 1,
    }  # fmt: skip


def test_a_column_of_sounds_in_a_form_that_is_not_read_is_one_line(tmp_path: Path) -> None:
    parquet = tmp_path / "train-0.parquet"
    for column in (["a.flac"], [[0.1, 0.2]], [{"path": "a.flac"}], [3]):
        pq.write_table(pa.table({"audio": column, "text": ["a"]}), parquet)
        with pytest.raises(BadInput, match=r"train-0\.parquet: column audio holds .*, and sound is read as bytes"):
            listed("peoples_speech", parquet)
