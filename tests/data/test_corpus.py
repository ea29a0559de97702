"""Reading text: doors, normalisation, sentences, splits, and bad rows."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.machine import InProcess

from slamray.config.base import identity
from slamray.config.corpora import CorpusSettings
from slamray.data.ids import split_of
from slamray.data.text import SPLITS, RawDocument, cut_sentences, normalise, read_documents, to_document
from slamray.errors import BadInput
from slamray.stage import tables
from slamray.stage.folder import Folder
from slamray.stages import corpus

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


def test_documents_are_sorted_by_merging_and_an_equal_text_stands_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"text": f"{GOOD} Number {i}."}) for i in [*range(50), *range(20)]]
    config = CorpusSettings(paths=(str(write_jsonl(tmp_path / "a.jsonl", lines)),))
    facts = corpus.run({}, Folder(tmp_path / "one"), InProcess(), config)
    monkeypatch.setattr(corpus, "RUN_DOCUMENTS", 7)
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
