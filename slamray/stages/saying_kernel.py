"""Kernels of saying.py: a model that answers a batch of prompts, and a recogniser that hears what it said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from slamray.data.ids import row_seed
from slamray.evaluate.wer import Recogniser
from slamray.model.sampling import continue_ids, generation_config, greedy_config
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.text_to_units import Request, speak_texts
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import load_unit_lm
from slamray.speech.audio import RATE_HZ, resample
from slamray.speech.decoders.table import load_decoder
from slamray.speech.fetch import place_of
from slamray.stage.folder import Folder
from slamray.stage.records import from_table
from slamray.stages.saying import Batch, Modality, Speaker, Turn
from slamray.stages.speech_kernels import one_thread
from slamray.tokens.vocabulary import reconcile


class Say:
    """Kernel: a batch of turns to what the model says in one modality; no id of the other one is drawn."""

    def __init__(self, speaker: Speaker, modality: Modality, device: str) -> None:
        one_thread()
        self._speaker, self._modality = speaker, modality
        here = Folder(speaker.model).fetch()
        wanted = speaker.vocabulary
        reconcile(read_unit_vocabulary(here, "evaluate", wanted=wanted), wanted, speaker.model, "the recipe")
        model = load_unit_lm(here, wanted=wanted)
        model.to(torch.device(device))  # type: ignore[arg-type]  # wrapped in a way mypy cannot follow
        self._model = model.eval()
        self._text = TextTokeniser(speaker.base.base, speaker.base.revision) if speaker.base else None

    def __call__(self, batch: Batch) -> Batch:
        with pq.ParquetFile(batch.folder.fetch(batch.asked)) as file:
            turns = from_table(file.read_row_group(batch.number), Turn)
        rows = self._write(turns) if self._modality == "text" else self._speak(turns, batch.number)
        batch.folder.write_json(batch.file("said"), rows)
        return batch

    def _write(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        assert self._text is not None, "a model of units alone writes no text"
        vocabulary = self._speaker.vocabulary
        settings = greedy_config(max(turn.most_tokens for turn in turns), vocabulary, "text")
        said = continue_ids(self._model, [turn.ids for turn in turns], settings, vocabulary, 0)
        return [
            _row(turn, self._text.decode(one.ids[: turn.most_tokens].tolist()).strip(), np.zeros(0), one.ended)
            for turn, one in zip(turns, said, strict=True)
        ]

    def _speak(self, turns: Sequence[Turn], number: int) -> list[dict[str, Any]]:
        vocabulary, sampling, speaking = self._speaker.vocabulary, self._speaker.sampling, self._speaker.speaking
        if speaking is not None:
            requests = [Request(turn.ids, turn.most_tokens, row_seed(speaking.seed, turn.key)) for turn in turns]
            spoken = speak_texts(self._model, requests, vocabulary, speaking, len(requests))
            return [_row(turn, "", one.units, one.why == "end") for turn, one in zip(turns, spoken, strict=True)]
        most = max(turn.most_tokens for turn in turns)
        settings = generation_config(sampling.model_copy(update={"max_new_tokens": most}), vocabulary)
        seed = sampling.seed * 1_000_003 + number  # a prime, so that no two seeds share streams
        said = continue_ids(self._model, [turn.ids for turn in turns], settings, vocabulary, seed)
        units = [vocabulary.to_units(one.ids[: turn.most_tokens]) for turn, one in zip(turns, said, strict=True)]
        return [_row(turn, "", own, one.ended) for turn, own, one in zip(turns, units, said, strict=True)]


class Hear:
    """Kernel: units of a batch to sound, and what the recogniser hears in it."""

    def __init__(self, vocoder: str) -> None:
        one_thread()
        self._decoder, self._recognise = load_decoder(place_of(vocoder, "evaluate.vocoder")), Recogniser()

    def __call__(self, batch: Batch) -> Batch:
        rows = batch.folder.read_json(batch.file("said"))
        heard = [row | {"text": self._heard(np.array(row["units"], np.uint16))} for row in rows]
        batch.folder.write_json(batch.file("heard"), heard)
        return batch

    def _heard(self, units: np.ndarray) -> str:
        if not len(units):
            return ""
        return self._recognise(resample(self._decoder(units), self._decoder.rate_hz, RATE_HZ))


def _row(turn: Turn, text: str, units: np.ndarray, ended: bool) -> dict[str, Any]:
    return {"key": turn.key, "text": text, "units": units.astype(int).tolist(), "ended": ended}
