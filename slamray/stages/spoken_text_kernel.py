"""Kernel that turns spans of text into units by a text-to-token model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from slamray.config.joint import Engine, InterleaveSettings, TextToTokenSampling
from slamray.config.model import BaseSettings
from slamray.data.ids import row_seed
from slamray.data.text import TextDocument
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.text_to_units import Request, Spoken, speak_texts
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import load_unit_lm
from slamray.model.vllm_speaker import VllmSpeaker
from slamray.stage.folder import Folder
from slamray.stage.parts import RowReader
from slamray.stage.records import from_table
from slamray.stages.joint_documents import SCHEMA
from slamray.stages.shards import Shard, ShardDone, write_shard
from slamray.stages.speech_kernels import one_thread
from slamray.tokens.interleave import Span, choose_spans, cut_pieces
from slamray.tokens.joint_documents import SpokenText, interleaved_document
from slamray.tokens.vocabulary import Vocabulary, reconcile

ROWS = pa.schema([*SCHEMA, *((name, pa.int64()) for name in ("spans", "not_ended", "loops", "units"))])


class SpeakText:
    """Kernel: a shard of documents to interleaved documents on disk. What a span says depends on its document alone."""

    def __init__(
        self,
        model: str,
        interleave: InterleaveSettings,
        sampling: TextToTokenSampling,
        engine: Engine,
        base: BaseSettings,
        vocabulary: Vocabulary,
        device: str,
        batch: int,
    ) -> None:
        one_thread()
        self._reader, self._encode = RowReader(), TextTokeniser(base.base, base.revision)
        folder = Folder(model).fetch()
        reconcile(read_unit_vocabulary(folder, "spoken_text"), vocabulary, model, "the recipe")
        self._interleave, self._sampling, self._vocabulary = interleave, sampling, vocabulary
        self._speak: Callable[[Sequence[Request]], list[Spoken]]
        if engine == "vllm":
            self._speak = VllmSpeaker(folder, vocabulary, sampling)
        else:
            loaded = load_unit_lm(folder, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
            own = loaded.to(torch.device(device)).eval()  # type: ignore[arg-type]  # wrapped; mypy cannot follow
            self._speak = partial(speak_texts, own, vocabulary=vocabulary, sampling=sampling, batch=batch)

    def __call__(self, shard: Shard) -> ShardDone:
        if shard.is_done:
            return ShardDone(shard.number, 0.0)
        rows, bad = self.say(from_table(self._reader.read(shard.requests), TextDocument))
        write_shard(shard, pa.Table.from_pylist(rows, ROWS), bad)
        return ShardDone(shard.number, 0.0)

    def say(self, documents: Sequence[TextDocument]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
        """Rows of the documents, and the id of each of which no span came to an end, with the reason."""
        pieces = [cut_pieces(document.text) for document in documents]
        spans = [
            choose_spans(len(own), self._interleave, row_seed(self._interleave.seed, document.doc_id))
            for document, own in zip(documents, pieces, strict=True)
        ]
        requests = [
            self._request(document.doc_id, own, span)
            for document, own, wanted in zip(documents, pieces, spans, strict=True)
            for span in wanted
        ]
        said = iter(self._speak(requests))
        rows: list[dict[str, Any]] = []
        bad: list[dict[str, str]] = []
        for document, own, wanted in zip(documents, pieces, spans, strict=True):
            heard = list(itertools.islice(said, len(wanted)))
            if any(one.why == "end" for one in heard):
                rows.append(self._row(document.doc_id, own, wanted, heard))
            else:
                bad.append({"id": document.doc_id, "reason": f"none of {len(wanted)} spans came to an end"})
        return rows, bad

    def _request(self, key: str, pieces: Sequence[str], span: Span) -> Request:
        """`<S> <text> words <speech>`, as a tts document begins."""
        vocabulary = self._vocabulary
        text = self._encode("".join(pieces[span.start : span.stop]).lstrip())
        ids = [vocabulary.bos, vocabulary.text_tag, *text, vocabulary.speech_tag]
        most = self._sampling.most_units_per_piece * (span.stop - span.start)
        return Request(ids, most, row_seed(self._sampling.seed, f"{key}/{span.start}"))

    def _row(self, key: str, pieces: Sequence[str], spans: Sequence[Span], said: Sequence[Spoken]) -> dict[str, Any]:
        kept = [(span, one.units) for span, one in zip(spans, said, strict=True) if one.why == "end"]
        ended = [span for span, _ in kept]
        ids = interleaved_document(_spoken(pieces, kept), ended, self._encode, self._vocabulary).ids
        return {
            "kind": "synthetic",
            "doc_id": key,
            "ids": ids,
            "mask": None,
            "spans": len(spans),
            "not_ended": sum(one.why == "length" for one in said),
            "loops": sum(one.why == "loop" for one in said),
            "units": sum(len(units) for _, units in kept),
        }


def _spoken(pieces: Sequence[str], spans: Sequence[tuple[Span, np.ndarray]]) -> SpokenText:
    """A text of which spans alone have units, all of them at the span's first piece."""
    counts_P = np.zeros(len(pieces), np.int64)
    for span, units in spans:
        counts_P[span.start] = len(units)
    together = np.concatenate([units for _, units in spans])
    return SpokenText(pieces, together, np.concatenate([[0], np.cumsum(counts_P)]))
