"""Kernel that makes documents of text and speech from a part of the corpus or of units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from slamray.config.joint import InterleaveSettings, Kind
from slamray.config.model import BaseSettings
from slamray.data.ids import row_seed, split_of
from slamray.data.text import TextDocument
from slamray.model.text_tokeniser import TextTokeniser
from slamray.stage.folder import Folder
from slamray.stage.parts import GROUP_ROWS, RowReader, Stretch
from slamray.stage.records import from_table
from slamray.stages.joint_documents import SCHEMA, TEXT, PartDone, PartOfDocuments
from slamray.tokens.documents import Document, unit_document
from slamray.tokens.interleave import choose_spans
from slamray.tokens.joint_documents import (
    SpokenText,
    align,
    asr_document,
    cut_stretches,
    interleaved_document,
    text_document,
    tts_document,
)
from slamray.tokens.vocabulary import Vocabulary, reconcile


class MakeDocuments:
    """Kernel: a part to its documents on disk. The spans of a document depend on its id alone."""

    def __init__(
        self,
        kinds: Sequence[Kind],
        interleave: InterleaveSettings,
        pair_pieces: tuple[int, int],
        base: BaseSettings,
        vocabulary: Vocabulary,
    ) -> None:
        self._kinds, self._interleave, self._pair_pieces = kinds, interleave, pair_pieces
        self._vocabulary, self._reader = vocabulary, RowReader()
        self._encode = TextTokeniser(base.base, base.revision)
        own = Vocabulary.joint(self._encode.vocabulary, vocabulary.units_alone)
        reconcile(own, vocabulary, f"model.base={base.base}", "the recipe")

    def __call__(self, part: PartOfDocuments) -> PartDone:
        rows = self._reader.read(Stretch(part.path, 0, part.rows))
        make = self._texts if part.source == TEXT else self._spoken
        rows = rows if part.source == TEXT else _of_split(rows, part)
        tables: dict[str, list[pa.Table]] = {}
        for start in range(0, len(rows), GROUP_ROWS):  # some at a time: as Python's numbers they are ten times as big
            made = list(make(rows.slice(start, GROUP_ROWS)))
            for kind in {row["kind"] for row in made}:
                own = [row for row in made if row["kind"] == kind]
                tables.setdefault(kind, []).append(pa.Table.from_pylist(own, SCHEMA))
        by_kind = [table for kind in sorted(tables) for table in tables[kind]]
        whole = pa.concat_tables(by_kind) if by_kind else SCHEMA.empty_table()
        Folder(part.out).write_table(part.file, whole, GROUP_ROWS)
        return PartDone(part.file)

    def _texts(self, rows: pa.Table) -> Iterator[dict[str, Any]]:
        for document in from_table(rows, TextDocument):
            yield _row("text", document.doc_id, text_document(document.text, self._encode, self._vocabulary))

    def _spoken(self, rows: pa.Table) -> Iterator[dict[str, Any]]:
        for row in rows.to_pylist():
            key, units = row["utterance_id"], np.array(row["units"], np.uint16)
            if "speech" in self._kinds:
                yield _row("speech", key, unit_document(units, self._vocabulary))
            spoken = spoken_text(row)
            if spoken is not None:
                yield from self._aligned(key, spoken)

    def _aligned(self, key: str, spoken: SpokenText) -> Iterator[dict[str, Any]]:
        rules, vocabulary = self._interleave, self._vocabulary
        seed = row_seed(rules.seed, key)
        if "interleaved" in self._kinds and len(spoken) > 1:
            spans = choose_spans(len(spoken), rules, seed)
            yield _row("interleaved", key, interleaved_document(spoken, spans, self._encode, vocabulary))
        makers: tuple[tuple[Kind, Any], ...] = (("asr", asr_document), ("tts", tts_document))
        for kind, make in makers:
            if kind in self._kinds:
                for span in cut_stretches(len(spoken), self._pair_pieces, row_seed(rules.seed, f"{kind}/{key}")):
                    if len(spoken.units_of(span)):
                        yield _row(kind, f"{key}/{span.start}", make(spoken, span, self._encode, vocabulary))


def spoken_text(row: Mapping[str, Any]) -> SpokenText | None:
    """A row of units as a text whose words are known in it; None where it has no text.

    A sentence whose words were read otherwise than they are written ("$9.99"), or whose words are not known, is one
    piece.
    """
    pieces: list[str] = []
    starts: list[int] = []
    words = row["words"]
    for sentence in row["sentences"]:
        inside = [word for word in words if sentence["start_frame"] <= word["start_frame"] < sentence["end_frame"]]
        written = _written(sentence["text"])
        if [piece.strip() for piece in written] and len(inside) == len(written) and _same(inside, written):
            for piece in written:
                pieces.append(_after(pieces, piece))
            starts += [word["start_frame"] for word in inside]
        elif sentence["text"]:
            pieces.append(_after(pieces, sentence["text"]))
            starts.append(sentence["start_frame"])
    if not pieces:
        return None
    units, durations_T = np.array(row["units"], np.uint16), np.array(row["durations"], np.int64)
    return align(pieces, np.maximum.accumulate(np.array(starts, np.int64)), units, durations_T)


def _written(sentence: str) -> list[str]:
    """Words of a sentence; a sign that stands by itself goes with the word before it."""
    found: list[str] = []
    for token in sentence.split():
        if found and not any(c.isalnum() for c in token):
            found[-1] += f" {token}"
        else:
            found.append(token)
    return found


def _same(words: Sequence[Mapping[str, Any]], written: Sequence[str]) -> bool:
    return all(piece.split(" ", 1)[0] == word["text"] for word, piece in zip(words, written, strict=True))


def _after(pieces: Sequence[str], piece: str) -> str:
    return f" {piece}" if pieces else piece


def _of_split(rows: pa.Table, part: PartOfDocuments) -> pa.Table:
    """Rows of the part's split; a recording whose corpus has no splits is of the one that its id says."""
    known, ids = rows["split"].to_pylist(), rows["utterance_id"].to_pylist()
    of_it = [
        (has or split_of(key, part.validation_share, 0.0)) == part.split for key, has in zip(ids, known, strict=True)
    ]
    return rows.filter(pa.array(of_it, pa.bool_()))


def _row(kind: str, key: str, document: Document) -> dict[str, Any]:
    return {"kind": kind, "doc_id": key, "ids": document.ids, "mask": document.mask}
