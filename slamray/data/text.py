"""Read documents from files, normalise their text and cut it into sentences, once for every later stage.

A source is JSON lines or an array of JSON (.jsonl, .json, with .gz), Parquet, or a folder of plain text; it is local or
at any path that fsspec can open, so a Hugging Face data set is `hf://datasets/roneneldan/TinyStories/**/*.parquet`.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from slamray.config.listing import File
from slamray.data.ids import split_of, text_id
from slamray.data.row_files import read_rows, read_texts
from slamray.given import is_text

SPLITS = TRAIN, VALIDATION, EVALUATION = "train", "validation", "evaluation"
END_OF_STORY = "<|endoftext|>"  # stands between stories in TinyStories' text files, and in what GPT-2's users write
MAX_WORD = 100  # characters; what a voice needs to read a word grows with its square. Chosen, not tuned

# Typographic characters that TTS lexicons and BPE tokenisers know only in their plain form. The apostrophe is every
# sign that people and their programs type for it.
_APOSTROPHES = "\u2018\u2019\u201a\u201b\u00b4\u02b9\u02bb\u02bc\u02bd\u02be\u02c8\u2032\u055a\ua78b\ua78c\uff07"
_QUOTES = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_PLAIN = str.maketrans(
    dict.fromkeys(_APOSTROPHES, "'")
    | dict.fromkeys(_QUOTES, '"')
    | dict.fromkeys(_DASHES, "-")
    | {"\u2026": "...", "\u00a0": " "}
    | {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufb05": "st", "\ufb06": "st"}
)
# What nobody sees: format characters (category Cf: soft hyphens, zero-width spaces, joiners, marks of direction and of
# byte order) and the others that Unicode calls ignorable. A word goes on over them.
_IGNORABLE = [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10)]
_UNSEEN = dict.fromkeys(
    [*_IGNORABLE, *range(0xE0000, 0xE1000), *(c for c in range(sys.maxunicode) if unicodedata.category(chr(c)) == "Cf")]
)
_TYPED_ACCENT = re.compile(r"(?<=\w)`(?=\w)")
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
    """Unicode NFC, plain quotes and dashes, no unseen or control characters, one space between words."""
    if "`" in text:
        text = _TYPED_ACCENT.sub("'", text)
    if text.isascii():  # most stories: the same, ten times as fast
        return " ".join(text.translate(_CONTROL).split())
    text = unicodedata.normalize("NFC", text.translate(_UNSEEN)).translate(_PLAIN)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def long_word(text: str) -> str:
    """Why no voice is given a text: the reason where it holds a word longer than MAX_WORD; else empty."""
    longest = max(text.split(), key=len, default="")
    if len(longest) <= MAX_WORD:
        return ""
    return f"a word of {len(longest)} characters, more than {MAX_WORD}: {longest[:20]}..."


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
    """Every document of a file, good or bad, in the file's order. BadInput names a file that cannot be read."""
    file = File(path.rpartition("/")[2], path, 0)
    if file.has_suffix(".txt"):
        for text in read_texts(file, END_OF_STORY):
            yield RawDocument(text.place, text.value, text.reason)
        return
    for row in read_rows(file, [text_column], "corpus.text_column"):
        value = row.value.get(text_column) if isinstance(row.value, dict) else row.value
        if row.reason:
            yield RawDocument(row.place, None, row.reason)
        else:
            yield from _from_value(row.place, value, text_column)


def _from_value(place: str, value: Any, column: str) -> Iterator[RawDocument]:
    if not isinstance(value, str):
        yield RawDocument(place, None, f"no text in column {column!r}")
    elif not is_text(value):
        yield RawDocument(place, None, f"half a character (a lone surrogate) in column {column!r}")
    elif END_OF_STORY not in value:
        yield RawDocument(place, value)
    else:
        for text in filter(str.strip, value.split(END_OF_STORY)):
            yield RawDocument(place, text)


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
    if reason := long_word(text):
        return reason
    doc_id = text_id(text)
    return TextDocument(
        doc_id, sentences, raw.place.rsplit(":", 1)[0], split_of(doc_id, validation_share, evaluation_share)
    )
