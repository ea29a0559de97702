"""From a published corpus to units: cuts, texts and word times are those of the sound that is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from support.listed import listed
from support.machine import InProcess

from slamray.config.base import Located, identity
from slamray.config.corpora import PreferencesSettings, RecordedSettings
from slamray.config.load import load_recipe
from slamray.config.model import PackSettings
from slamray.config.speech import EncoderSettings, SpeakingSettings, SpeechSettings
from slamray.data.recordings import Recording
from slamray.errors import BadInput
from slamray.speech.audio import load_audio
from slamray.speech.spans import Span
from slamray.stage import tables
from slamray.stage.folder import Folder
from slamray.stage.parts import Stretches, part_file, parts_of, write_parts
from slamray.stages import packed, preferences, recorded
from slamray.stages.shards import Shard
from slamray.stages.speak_and_listen import Sound
from slamray.stages.speech_kernels import Listen
from slamray.tokens.rows import RowStore, lengths_of
from slamray.tokens.vocabulary import Vocabulary

RATE_HZ = 16_000
VOCABULARY = Vocabulary.of_units(20)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ))).astype(np.float32)


def heard(recordings: Sequence[Recording], folder: Path) -> tuple[list[np.ndarray], list[Sound]]:
    out = Folder(folder)
    write_parts(out, "requests", recordings, Recording)
    sounds = Listen()(Shard(0, Stretches(parts_of(out, "requests"), len(recordings))[0], str(out), 0)).sounds
    return [np.frombuffer(sound.pcm, np.int16) for sound in sounds], list(sounds)


@pytest.fixture
def speech(tiny_encoder: Path) -> SpeechSettings:
    encoder = EncoderSettings(
        model=str(tiny_encoder), centroids=f"{tiny_encoder}/centroids.safetensors", layer=2, pad_samples=40
    )
    return SpeechSettings(encoder=encoder, shard_documents=2, max_bad_share=0.5)


@pytest.mark.parametrize("suffix", ["flac", "sph", "wav"])
def test_cuts_are_joined_and_nothing_else_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(3), RATE_HZ, format="NIST" if suffix == "sph" else None, subtype="PCM_16")
    whole, _ = soundfile.read(path, dtype="float32")
    cut = load_audio(path, cuts=[(0.5, 1.0), (2.0, 2.25)])
    np.testing.assert_array_equal(cut, np.concatenate([whole[8_000:16_000], whole[32_000:36_000]]))
    assert len(load_audio(path, cuts=[(2.5, 3.4)])) == 8_000  # ends are rounded: clipped at the end of the file
    for wrong in ((3.0, 3.5), (2.5, 3.6)):
        with pytest.raises(BadInput, match=rf"{wrong[0]:g} .. {wrong[1]:g} s is asked for, but it is 3 s long"):
            load_audio(path, cuts=[wrong])


def test_rows_of_parquet_bring_their_text_and_word_times(tmp_path: Path) -> None:
    audio = []
    for seed in range(5):
        soundfile.write(tmp_path / "x.flac", noise(0.5, seed), RATE_HZ)
        audio.append({"bytes": (tmp_path / "x.flac").read_bytes(), "path": "x.flac"})
    audio[3] = {"bytes": None, "path": "gone.flac"}
    words: list[Any] = [[{"word": f"w{i}", "start_time": 0.1, "end_time": 0.4}] for i in range(5)]
    words[4] = [{"word": "w", "start_time": None, "end_time": 0.4}]
    table = pa.table({"audio": audio, "text": [f"t{i}" for i in range(5)], "aligned_text": words})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-0.parquet", row_group_size=2)
    recordings = listed("stinystories", tmp_path / "data").recordings
    sounds, about = heard([recordings[i] for i in (4, 0, 3, 1, 2)], tmp_path)  # any order
    by_row = dict(zip((4, 0, 3, 1, 2), about, strict=True))
    for row in range(3):
        assert by_row[row].sentences == (Span(f"t{row}", 0.0, 0.5),)
        assert by_row[row].words == (Span(f"w{row}", 0.1, 0.4),)
    assert np.abs(sounds[1] / 32768 - noise(0.5, 0)).max() < 1e-4
    assert "row 3 holds no audio bytes" in by_row[3].reason
    assert "row 4: its word times are not of the form" in by_row[4].reason


def librispeech(root: Path) -> Path:
    for part, count in (("train-clean-100", 6), ("dev-clean", 3)):
        folder = root / "LibriSpeech" / part / "1" / "2"
        folder.mkdir(parents=True)
        for i in range(count):
            soundfile.write(folder / f"1-2-{i:04d}.flac", noise(0.6, i), RATE_HZ)
        (folder / "1-2.trans.txt").write_text("".join(f"1-2-{i:04d} SENTENCE {i}\n" for i in range(count)))
    (root / "LibriSpeech" / "train-clean-100" / "1" / "2" / "1-2-0009.flac").write_text("not sound")
    return root / "LibriSpeech"


def store_units(out: Folder, ids: Sequence[str], split: str) -> None:
    """Units as a stage leaves them, 27 of each utterance."""
    units = pa.array([[1, 2, 3] * 9] * len(ids), pa.list_(pa.uint16()))
    table = pa.table({"utterance_id": ids, "split": [split] * len(ids), "units": units})
    out.write_table(part_file(tables.UNITS, 0), table)


def encode(config: RecordedSettings, speech: SpeechSettings, out: Folder) -> recorded.CorpusOfRecordingsFacts:
    listening = speech.model_copy(update={"max_bad_share": config.max_bad_share})
    return recorded.run_corpus({}, out, InProcess(), "librispeech", Located(lambda: {}, config), 0, listening)


def test_a_corpus_is_encoded_with_its_split_and_a_bad_file_is_quarantined_counted_and_named(
    tmp_path: Path, speech: SpeechSettings
) -> None:
    config = RecordedSettings(librispeech=(str(librispeech(tmp_path)),), max_bad_share=0.2)
    assert recorded.given_corpora(config) == ["librispeech"]
    out = Folder(tmp_path / "out")
    facts = encode(config, speech, out)
    assert facts.utterances == 9 and facts.quarantined == 1 and facts.dropped == {}
    (bad,) = tables.read_quarantine(out)
    assert "train-clean-100/1/2/1-2-0009.flac: cannot be read as audio" in bad["reason"]
    rows = tables.read_units(out).to_pylist()
    assert {row["sentences"][0]["text"] for row in rows} == {f"SENTENCE {i}" for i in range(6)}
    assert sorted(row["split"] for row in rows) == ["train"] * 6 + ["validation"] * 3
    with pytest.raises(BadInput, match=r"recorded.max_bad_share: 1 of 10 rows are bad"):
        strict = config.model_copy(update={"max_bad_share": 0.01})
        encode(strict, speech, out)


def test_a_corpus_without_a_published_split_is_split_by_hash(tmp_path: Path) -> None:
    ids = [f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in range(20_000)]
    store_units(Folder(tmp_path), ids, "")
    inputs = {"recorded": Folder(tmp_path)}
    lengths = {
        split: len(lengths_of(packed.read_units(inputs, split, 0.01, VOCABULARY)["recordings"]))
        for split in ("train", "validation")
    }
    assert lengths["validation"] / 20_000 == pytest.approx(0.01, abs=0.003) and sum(lengths.values()) == 20_000


def test_sources_are_packed_by_the_mixture(tmp_path: Path, speech: SpeechSettings) -> None:
    config = RecordedSettings(librispeech=(str(librispeech(tmp_path)),), max_bad_share=0.2)
    folder = Folder(tmp_path)
    encode(config, speech, folder / "librispeech")
    ids = [f"{n:016x}" for n in range(8)]
    store_units(folder / "units", ids, "train")
    inputs = {name: folder / name for name in ("units", "librispeech")}
    assert packed.source_names(config) == ["stories", "librispeech"]
    found = packed.read_units(inputs, "train", 0.01, VOCABULARY)
    assert {name: len(lengths_of(own)) for name, own in found.items()} == {"stories": 8, "librispeech": 6}
    mixture = {"stories": 0.25, "librispeech": 0.75}
    facts = packed.run(
        inputs, folder / "packed", InProcess(), PackSettings(context=16, mixture=mixture), 0.01, VOCABULARY
    )
    assert facts["validation"]["documents"] == 3 and facts["train"]["documents"] == 14
    assert facts["train"]["sources"]["stories"]["tokens"] == 8 * 29
    rounds = sum(part.per_round for part in RowStore(tmp_path / "packed" / "train").sources)
    assert facts["train"]["sources"]["stories"]["token_share"] == pytest.approx(0.25, abs=1 / rounds)
    plain = packed.run(inputs, folder / "plain", InProcess(), PackSettings(context=16), 0.01, VOCABULARY)
    assert plain["train"]["documents"] == 14 and not RowStore(tmp_path / "plain" / "train").sources


def spoken_swag(root: Path) -> Path:
    """Columns as published: speaker, three texts, three recordings, auto_bleu2."""
    (root / "SpokenSwag" / "data").mkdir(parents=True)
    for split, count in (("train", 5), ("validation", 3)):
        columns: dict[str, list[Any]] = {"speaker": ["af_heart", "bm_george"] * 3}
        for place, part in enumerate(("prompt", "chosen", "rejected")):
            columns[f"{part}_text"] = [f"{split}{part}{i} says {part}." for i in range(6)]
            columns[part] = []
            for i in range(6):
                soundfile.write(root / "x.wav", noise(0.5, 100 * place + i), RATE_HZ)
                columns[part].append({"bytes": (root / "x.wav").read_bytes(), "path": "x.wav"})
        columns["auto_bleu2"] = [0.0] * 6
        columns["chosen_text"][0] = "a b a b a b a b"  # repeats itself: the filter drops it
        if split == "train":
            columns["chosen"][1] = {"bytes": b"not sound", "path": "x.wav"}
        table = pa.table({name: values[:count] for name, values in columns.items()})
        pq.write_table(table, root / "SpokenSwag" / "data" / f"{split}-00000-of-00001.parquet")
    return root / "SpokenSwag"


def test_spoken_swag_is_encoded_as_published_and_its_validation_split_held_out(
    tmp_path: Path, speech: SpeechSettings
) -> None:
    config = PreferencesSettings(source="spoken_swag", path=str(spoken_swag(tmp_path)))
    out = Folder(tmp_path / "out")
    facts = preferences.run({}, out, InProcess(), config, speech, 0.02, 0.06, VOCABULARY)
    assert (facts.pairs_train, facts.pairs_heldout, facts.pairs_without_sound) == (3, 2, 1)
    assert facts.dropped == {"auto-BLEU-2 too high": 1} and facts.quarantined == 1
    assert "train-00000-of-00001.parquet: row 1" in tables.read_quarantine(out)[0]["reason"]
    rows = preferences.read(out, "train")
    assert {row["prompt_text"] for row in rows} == {f"trainprompt{i} says prompt." for i in (2, 3, 4)}
    assert {row["voice"] for row in rows} == {"af_heart", "bm_george"}
    assert all(row["prompt"] and row["chosen"] and row["rejected"] for row in rows)
    assert identity(config)["path"]["files"] == 2


def test_spoken_swag_without_its_columns_or_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "x" / "train-0.parquet")
    config = PreferencesSettings(source="spoken_swag", path=str(tmp_path / "x"))
    with pytest.raises(BadInput, match=r"train-0.parquet: no column chosen rejected prompt_text"):
        preferences.run({}, Folder(tmp_path / "out"), InProcess(), config, SpeakingSettings(), 0.02, 0.06, VOCABULARY)
    for path, message in ((str(tmp_path), "has no train"), ("", "needs the folder")):
        (tmp_path / "x" / "train-0.parquet").unlink(missing_ok=True)
        (tmp_path / "validation-0.parquet").write_bytes(b"")
        with pytest.raises(BadInput, match=f"preferences.path: .*{message}"):
            preferences.check_source(config.model_copy(update={"path": path}))


def test_a_pair_is_said_by_its_voice_and_the_default_voice_keeps_its_ids() -> None:
    from slamray.data.ids import content_id
    from slamray.data.preference_pairs import PreferencePair

    def pair(voice: str) -> PreferencePair:
        return PreferencePair("p", "Tom ran.", "He fell.", "He flew.", voice, 0.0, "s", "d")

    assert [u.utterance_id for u in preferences._utterances(pair("default"))] == [
        content_id("sentences", (text,)) for text in ("Tom ran.", "He fell.", "He flew.")
    ]
    said = preferences._utterances(pair("bf_emma"))
    assert {u.voice for u in said} == {"bf_emma"}
    assert not {u.utterance_id for u in said} & {u.utterance_id for u in preferences._utterances(pair("am_fenrir"))}


def test_recordings_that_are_all_for_validation_are_named_before_any_is_read(
    tmp_path: Path, speech: SpeechSettings
) -> None:
    flac = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123" / "84-121123-0000.flac"
    flac.parent.mkdir(parents=True)
    flac.write_bytes(b"listed, not read")
    config = RecordedSettings(librispeech=(str(tmp_path / "LibriSpeech"),))
    with pytest.raises(BadInput, match=r"every recording given is of a validation split \(recorded.librispeech: 1\)"):
        recorded.run_corpus(
            {}, Folder(tmp_path / "out"), InProcess(), "librispeech", Located(lambda: {}, config), 0, speech, True
        )
    words = ["speech.train_documents=null", f"recorded.librispeech=[{tmp_path}/LibriSpeech]"]
    for more, alone in (([], True), ([f"recorded.swc=[{tmp_path}]"], False)):
        stage = recorded.stages(load_recipe([*words, *more]))[0]
        assert (getattr(stage.work, "keywords", {}) == {"trains_alone": True}) is alone
