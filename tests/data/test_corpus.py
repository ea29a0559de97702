"""Reading text: doors, normalisation, sentences, splits, and bad rows."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.machine import InProcess

from slamray.config.base import identity
from slamray.config.corpora import TEXT_SUFFIXES, CorpusSettings
from slamray.config.evaluation import ItemsSettings
from slamray.config.listing import find_files
from slamray.data.ids import split_of
from slamray.data.row_files import read_rows
from slamray.data.text import SPLITS, RawDocument, cut_sentences, normalise, read_documents, to_document
from slamray.errors import BadInput
from slamray.stage import tables
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.stage import Stage
from slamray.stages import corpus, items, units

GOOD = "One day a dog ran home. It was very happy there."


def write_jsonl(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_text_is_normalised_once() -> None:
    assert (
        normalise("  \u201cHi\u201d,\tsaid\nTim\u00a0\u2014 it\u2019s\u2026 ok\x07 ") == '"Hi", said Tim - it\'s... ok'
    )


def test_sentences_end_where_a_reader_ends_them() -> None:
    text = 'Mr. Fox ran. "Stop!" said J. Cat. He did... but why? "Go." She went'
    assert cut_sentences(text) == (
        "Mr. Fox ran.", '"Stop!" said J. Cat.', "He did... but why?", '"Go."', "She went",
    )  # fmt: skip


def test_joined_sentences_are_the_text() -> None:
    text = normalise("Tom had a cat. The cat was big! Was it? Yes. I am I. He left.")
    assert " ".join(cut_sentences(text)) == text


def test_the_split_depends_on_the_id_alone_and_has_the_asked_shares() -> None:
    ids = [hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in range(20_000)]
    splits = [split_of(i, 0.02, 0.06) for i in ids]
    # three standard deviations of a binomial share of 20 000
    assert abs(splits.count("evaluation") / 20_000 - 0.06) < 0.005
    assert abs(splits.count("validation") / 20_000 - 0.02) < 0.003
    assert splits[:100] == [split_of(i, 0.02, 0.06) for i in ids[:100]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no words"),
        ("?!", "no words"),
        ("one two", "2 words, outside corpus.min_words=6"),
        ("word " * 100_000, "words, more than corpus.max_words=2000"),
    ],
)
def test_a_text_that_cannot_be_spoken_has_a_reason(text: str, reason: str) -> None:
    found = to_document(RawDocument("a:1", text), 6, 2000, 0.02, 0.06)
    assert isinstance(found, str) and reason in found


def test_every_door_gives_the_same_documents(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{GOOD} Number {i}."}) for i in range(3)]
    write_jsonl(tmp_path / "a.jsonl", lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    pq.write_table(pa.table({"text": [f"{GOOD} Number {i}." for i in range(3)]}), tmp_path / "c.parquet")
    folder = tmp_path / "d"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.txt").write_text(f"{GOOD} Number {i}.")
    texts = []
    for path in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        texts.append([raw.text for raw in read_documents(str(tmp_path / path), "text")])
    texts.append([raw.text for i in range(3) for raw in read_documents(str(folder / f"{i}.txt"), "text")])
    assert texts[0] == texts[1] == texts[2] == texts[3] == [f"{GOOD} Number {i}." for i in range(3)]


def test_bad_rows_are_quarantined_with_their_place_and_good_rows_kept(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [json.dumps({"text": GOOD}), "{not json", json.dumps({"text": ""}), json.dumps({"other": 1}), json.dumps([1])],
    )
    config = CorpusSettings(paths=(str(path),), max_bad_share=0.9)
    facts = corpus.run({}, Folder(tmp_path / "out"), InProcess(), config)
    assert (facts.documents, facts.quarantined, facts.duplicates) == (1, 4, 0)
    found = tables.read_quarantine(Folder(tmp_path / "out"))
    assert [row["id"] for row in found] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4", "a.jsonl:5"]
    assert "not JSON" in found[0]["reason"]


def test_too_many_bad_rows_name_the_first(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [json.dumps({"text": GOOD}), "{not json"])
    with pytest.raises(BadInput, match=r"corpus.max_bad_share: 1 of 2 rows are bad.*a.jsonl:2: not JSON"):
        corpus.run({}, Folder(tmp_path / "out"), InProcess(), CorpusSettings(paths=(str(path),)))


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("open_runs", [2, 3, 256])
def test_documents_are_sorted_by_merging_and_an_equal_text_stands_once(
    open_runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"text": f"{GOOD} Number {i}."}) for i in [*range(50), *range(20)]]
    config = CorpusSettings(paths=(str(write_jsonl(tmp_path / "a.jsonl", lines)),))
    facts = corpus.run({}, Folder(tmp_path / "one"), InProcess(), config)
    monkeypatch.setattr(corpus, "RUN_DOCUMENTS", 7)  # ten runs
    monkeypatch.setattr(corpus, "OPEN_RUNS", open_runs)
    assert corpus.run({}, Folder(tmp_path / "many"), InProcess(), config) == facts
    assert (facts.documents, facts.duplicates) == (50, 20)
    assert files_below(tmp_path / "one") == files_below(tmp_path / "many")
    ids = [document.doc_id for document in corpus.read(Folder(tmp_path / "many"), "train")]
    assert len(ids) == facts.train and ids == sorted(ids)


def test_the_order_of_the_rows_does_not_change_the_bytes(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{GOOD} Number {i}."}) for i in range(20)]
    for name, rows in (("up", lines), ("down", lines[::-1])):
        (tmp_path / name).mkdir()
        path = write_jsonl(tmp_path / name / "a.jsonl", rows)
        corpus.run({}, Folder(tmp_path / name / "out"), InProcess(), CorpusSettings(paths=(str(path),)))
    up, down = (files_below(tmp_path / name / "out") for name in ("up", "down"))
    assert up == down and set(up) == {f"{split}/part-00000.parquet" for split in SPLITS}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.jsonl", r"corpus.paths: .*missing.jsonl names no file"),
        ("empty", r"corpus.paths: .*empty names no file of kind"),
        ("nosuch://x", r"corpus.paths: cannot read nosuch://x"),
    ],
)
def test_a_corpus_that_is_not_there_is_named(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=message):
        identity(CorpusSettings(paths=(path if "://" in path else str(tmp_path / path),)))


def test_a_parquet_file_without_the_column_lists_what_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"story": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"corpus.text_column: a.parquet has no column 'text'; it has \['story'\]"):
        list(read_documents(str(tmp_path / "a.parquet"), "text"))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps({"text": GOOD}).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(BadInput, match=r"a.jsonl.gz: cannot be read"):
        list(read_documents(str(tmp_path / "a.jsonl.gz"), "text"))


def texts_of(path: Path, column: str = "text") -> list[str | None]:
    return [raw.text for raw in read_documents(str(path), column)]


def test_an_array_of_json_is_read_element_by_element_however_it_is_laid_out(tmp_path: Path) -> None:
    rows = [{"story": f"{GOOD} Number [{i}], {{x}}."} for i in range(200)]
    for name, text in (
        ("one_line.json", json.dumps(rows)),
        ("lines.json", json.dumps(rows, indent=1)),
        ("marked.json", "\ufeff" + json.dumps(rows)),
        ("two.json", json.dumps(rows[:50]) + "\n" + json.dumps(rows[50:], indent=2) + "\n\n"),
        ("texts.json", json.dumps([row["story"] for row in rows])),
    ):
        (tmp_path / name).write_text(text)
        assert texts_of(tmp_path / name, "story") == [row["story"] for row in rows], name
    places = [raw.place for raw in read_documents(str(tmp_path / "lines.json"), "story")]
    assert (places[0], places[-1]) == ("lines.json:1", "lines.json:200")


@pytest.mark.parametrize("text", ['[{"text": "a"}, {"text": "b"', '[{"text": "a"} {"text": "b"}]', '[{"text": "a"}] x'])
def test_an_array_of_json_that_is_damaged_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput, match=r"a\.json: cannot be read \(no array of JSON after its element 1: .*a\.json:1$"):
        texts_of(tmp_path / "a.json")


def test_stories_of_a_text_file_end_at_its_markers_which_nobody_speaks(tmp_path: Path) -> None:
    marker = "<|endoftext|>"
    (tmp_path / "a.txt").write_bytes(f"\ufeffOne.\r\n{marker}\r\nTwo\nmore.{marker}Three.\n{marker}\n".encode())
    found = list(read_documents(str(tmp_path / "a.txt"), "text"))
    assert [(raw.place, normalise(raw.text or "")) for raw in found] == [
        ("a.txt:1", "One."), ("a.txt:2", "Two more."), ("a.txt:3", "Three."),
    ]  # fmt: skip
    (tmp_path / "b.txt").write_bytes(f"One.{marker}caf\xe9{marker}Three.".encode("latin-1"))
    assert [raw.text for raw in read_documents(str(tmp_path / "b.txt"), "text")] == ["One.", None, "Three."]
    write_jsonl(tmp_path / "c.jsonl", [json.dumps({"text": f"One.{marker}Two.{marker}"})])
    assert texts_of(tmp_path / "c.jsonl") == ["One.", "Two."]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_is_read_in_every_encoding_that_says_itself(tmp_path: Path, encoding: str) -> None:
    lines = [json.dumps({"text": f"{GOOD} Caf\u00e9 {i}."}, ensure_ascii=False) for i in range(3)]
    (tmp_path / "a.JSONL").write_bytes("\r\n".join(lines).encode(encoding))
    (tmp_path / "b.Txt").write_bytes("Caf\u00e9.<|endoftext|>Two.".encode(encoding))
    assert texts_of(tmp_path / "a.JSONL") == [f"{GOOD} Caf\u00e9 {i}." for i in range(3)]
    assert texts_of(tmp_path / "b.Txt") == ["Caf\u00e9.", "Two."]


def test_a_file_that_is_damaged_in_its_middle_says_how_far_it_can_be_read(tmp_path: Path) -> None:
    lines = [json.dumps({"text": " ".join(str(i * n * 7919 % 104_729) for i in range(40))}) for n in range(2000)]
    content = bytearray(gzip.compress("\n".join(lines).encode()))
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    message = r"a\.jsonl\.gz: cannot be read \(.*\); .*; it could be read to a\.jsonl\.gz:\d+$"
    with pytest.raises(BadInput, match=message):
        texts_of(tmp_path / "a.jsonl.gz")
    whole = gzip.compress("\n".join(lines[:3]).encode())
    (tmp_path / "c.jsonl.gz").write_bytes(whole[:-40] + bytes(40))  # damaged before anything of it is given out
    with pytest.raises(BadInput, match=r"c\.jsonl\.gz: cannot be read .*; it could be read to c\.jsonl\.gz:2$"):
        texts_of(tmp_path / "c.jsonl.gz")
    (tmp_path / "d.jsonl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(BadInput, match=r"d\.jsonl: a pointer of Git LFS, not the file itself"):
        texts_of(tmp_path / "d.jsonl")
    (tmp_path / "b.jsonl.gz").write_bytes(lines[0].encode())
    with pytest.raises(BadInput, match=r"b\.jsonl\.gz: not compressed by gzip, as its name says"):
        texts_of(tmp_path / "b.jsonl.gz")


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("the ri\u00adver wal\u200bked st\u2060ill \ufeffhere \u200e\u202bnow", "the river walked still here now"),
        ("e\u200d\u0301 A\ufe0f", "\u00e9 A"),
        ("don\u2019t don\u02bct don\u00b4t don`t don\u2032t don\uff07t don\u2018t don\u201bt", " ".join(["don't"] * 8)),
        ("\u201eYes\u201d \u00abno\u00bb", '"Yes" "no"'),
        ("well\u2011known well\u2010known", "well-known well-known"),
        ("\ufb01nd the o\ufb03ce", "find the office"),
        ("a `quoted' word", "a `quoted' word"),
    ],
)
def test_what_nobody_sees_splits_no_word_and_an_apostrophe_is_one_sign(given: str, plain: str) -> None:
    assert normalise(given) == plain


def test_a_row_that_no_voice_can_be_given_is_set_aside_by_its_place(tmp_path: Path) -> None:
    word = "-".join(["ab"] * 160)
    rows = [{"text": GOOD}, {"text": f"{GOOD} It was {word} here."}, {"text": f"{GOOD} \ud800"}]
    path = write_jsonl(tmp_path / "a.jsonl", [*map(json.dumps, rows), "[" * 100_000])
    facts = corpus.run({}, Folder(tmp_path / "out"), InProcess(), CorpusSettings(paths=(str(path),), max_bad_share=0.9))
    assert (facts.documents, facts.quarantined) == (1, 3)
    reasons = {row["id"]: row["reason"] for row in tables.read_quarantine(Folder(tmp_path / "out"))}
    assert reasons["a.jsonl:2"] == "a word of 479 characters, more than 100: ab-ab-ab-ab-ab-ab-ab..."
    assert "lone surrogate" in reasons["a.jsonl:3"] and "not JSON" in reasons["a.jsonl:4"]


def test_a_corpus_that_leaves_a_split_empty_is_named_with_its_key_before_any_speech(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [json.dumps({"text": f"{GOOD} Number {i}."}) for i in range(20)])

    def made(**shares: float) -> dict[str, Folder]:
        out = Folder(tmp_path / "_".join(map(str, shares.values())))
        stage = Stage("corpus", corpus.run, {"corpus": CorpusSettings(paths=(str(path),), **shares)})
        materialise([stage], Path(str(out)), InProcess(), {})
        return {"corpus": stage.folder(out)}

    none = made(evaluation_share=0.0, validation_share=0.0)
    with pytest.raises(BadInput, match=r"corpus.validation_share: of 20 documents 20 train, 0 validate"):
        units.check_splits(True, False, none)
    units.check_splits(True, True, none)  # recordings may validate
    with pytest.raises(BadInput, match=r"corpus.evaluation_share: no document is left for evaluation"):
        items.check_documents(ItemsSettings(), none)
    every = made(evaluation_share=0.0, validation_share=0.999)
    with pytest.raises(BadInput, match=r"corpus.paths: of 20 documents 0 train, 20 validate; bring more text"):
        units.check_splits(True, False, every)
    units.check_splits(False, False, every)  # no text is to be trained on
    few = made(evaluation_share=0.999, validation_share=0.0)
    with pytest.raises(BadInput, match=r"evaluate.items.topic_cloze: no pair can be made of 20 evaluation documents"):
        items.check_documents(ItemsSettings(topic_cloze=10), few)


def test_a_parquet_file_is_not_read_whole_for_its_first_row(tmp_path: Path) -> None:
    path = tmp_path / "long.parquet"
    texts = [os.urandom(500).hex() for _ in range(20_000)]  # 10 MB, which do not compress
    pq.write_table(pa.table({"text": texts}), path, row_group_size=200)
    before = pa.total_allocated_bytes()
    (file,) = find_files([str(path)], "corpus.paths", TEXT_SUFFIXES)
    rows = read_rows(file, ["text"], "corpus.paths")
    assert next(rows).value == {"text": texts[0]}
    assert pa.total_allocated_bytes() - before < path.stat().st_size / 4
