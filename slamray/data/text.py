"""Read documents from files, normalise their text and cut it into sentences, once for every later stage.

A source is JSON lines (.jsonl, .json, with .gz), Parquet, or a folder of plain text; it is local or at any path that
fsspec can open, so a Hugging Face data set is `hf://datasets/roneneldan/TinyStories/**/*.parquet`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from slamray.data.ids import split_of, text_id
from slamray.errors import BadInput

SPLITS = TRAIN, VALIDATION, EVALUATION = "train", "validation", "evaluation"
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".txt")

# Typographic characters that TTS lexicons and BPE tokenisers know only in their plain form.
_PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": "-",
        "\u2026": "...",
        "\u00a0": " ",
    }
)
_CONTROL = {code: " " for code in range(128) if not chr(code).isprintable()}
_ABBREVIATED = "mr mrs ms dr prof st mt ft gen gov sen rep capt lt col sgt rev jr sr vs"
_TITLES = frozenset(_ABBREVIATED.split())  # a full stop after one of these ends no sentence
_END = re.compile(r"[.!?]+[\"')\]]*\s+")


@dataclass(frozen=True)
class RawDocument:
    """A row as it was read: its place (`file:line` or `file:row`) and its text, or the reason why it has none."""

    place: str
    text: str | None
    reason: str = ""


@dataclass(frozen=True)
class TextDocument:
    """A document ready to be spoken: sentences joined by one space are the text."""

    doc_id: str
    sentences: tuple[str, ...]
    source: str
    split: str

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def normalise(text: str) -> str:
    """Unicode NFC, plain quotes and dashes, no control characters, one space between words."""
    if text.isascii():  # most stories: the same, ten times as fast
        return " ".join(text.translate(_CONTROL).split())
    text = unicodedata.normalize("NFC", text).translate(_PLAIN)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def cut_sentences(text: str) -> tuple[str, ...]:
    """Cut normalised text after . ! ? (and closing quotes), not after a title, an initial, or before a small letter."""
    sentences, start = [], 0
    for match in _END.finditer(text):
        following = text[match.end() : match.end() + 1]
        word = text[start : match.start()].rsplit(" ", 1)[-1].lstrip("\"'([")
        abbreviated = match.group().startswith(". ") and (
            word.lower() in _TITLES or (len(word) == 1 and word.isupper() and word != "I")
        )
        if abbreviated or following.islower():
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return tuple(sentence for sentence in sentences if any(c.isalnum() for c in sentence))


def read_documents(path: str, text_column: str) -> Iterator[RawDocument]:
    """Every row of a file, good or bad, in the file's order."""
    name = path.rsplit("/", 1)[-1]
    try:
        if path.endswith(".parquet"):
            with fsspec.open(path, "rb") as file:
                yield from _read_parquet(file, name, text_column)
        else:
            with fsspec.open(path, "rb", compression="gzip" if path.endswith(".gz") else None) as file:
                yield from _read_text(file, name) if path.endswith(".txt") else _read_json(file, name, text_column)
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise BadInput(f"{path}: cannot be read ({str(error).splitlines()[0]}); repair or remove the file") from error


def _read_json(file: IO[bytes], name: str, column: str) -> Iterator[RawDocument]:
    for number, line in enumerate(file, start=1):
        place = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield RawDocument(place, None, f"not JSON ({error})")
            continue
        yield _from_value(place, row.get(column) if isinstance(row, dict) else None, column)


def _read_parquet(file: IO[bytes], name: str, column: str) -> Iterator[RawDocument]:
    parquet = pq.ParquetFile(file)
    if column not in parquet.schema_arrow.names:
        raise BadInput(f"corpus.text_column: {name} has no column {column!r}; it has {parquet.schema_arrow.names}")
    number = 0
    for batch in parquet.iter_batches(columns=[column]):
        for value in batch.column(0).to_pylist():
            yield _from_value(f"{name}:{number}", value, column)
            number += 1


def _read_text(file: IO[bytes], name: str) -> Iterator[RawDocument]:
    try:
        yield RawDocument(name, file.read().decode("utf-8"))
    except UnicodeDecodeError as error:
        yield RawDocument(name, None, f"not UTF-8 text ({error.reason} at byte {error.start})")


def _from_value(place: str, value: Any, column: str) -> RawDocument:
    if isinstance(value, str):
        return RawDocument(place, value)
    return RawDocument(place, None, f"no text in column {column!r}")


def to_document(
    raw: RawDocument, min_words: int, max_words: int, validation_share: float, evaluation_share: float
) -> TextDocument | str:
    """A document, or the reason why the row is not one."""
    if raw.text is None:
        return raw.reason
    words = raw.text.count(" ") + 1
    if words > 2 * max_words:  # before any work on a text of absurd length
        return f"{words} words, more than corpus.max_words={max_words}"
    text = normalise(raw.text)
    sentences = cut_sentences(text)
    words = len(text.split())
    if not sentences:
        return "no words in the text"
    if not min_words <= words <= max_words:
        return f"{words} words, outside corpus.min_words={min_words} .. corpus.max_words={max_words}"
    doc_id = text_id(text)
    return TextDocument(
        doc_id, sentences, raw.place.rsplit(":", 1)[0], split_of(doc_id, validation_share, evaluation_share)
    )
