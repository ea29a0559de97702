"""Kernels of the GenPPL stages: one step on one chunk of prompts. They know rows and files, not Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from slamray.config.base import asset_path
from slamray.config.evaluation import SamplingSettings
from slamray.evaluate.generative_perplexity import Judge, Transcriber
from slamray.model.sampling import Prompt, continue_units
from slamray.model.unit_lm import load_unit_lm
from slamray.speech.audio import RATE_HZ, from_pcm, resample, to_flac, to_pcm
from slamray.speech.decoders.table import load_decoder
from slamray.speech.fetch import place_of
from slamray.stage.folder import Folder
from slamray.stages.genppl import PROMPTS, Chunk, chunk_file
from slamray.stages.speech_kernels import one_thread

AUDIO = "audio"


@dataclass(frozen=True)
class ChunkOfSound:
    """A chunk as 16-bit audio at 16 kHz: prompt and continuation, and the continuation alone."""

    chunk: Chunk
    whole: tuple[bytes, ...]
    alone: tuple[bytes, ...]


class Continue:
    """Kernel: sample the continuations of a chunk. A chunk draws from a stream of its own, by seed and number."""

    def __init__(self, model: str, sampling: SamplingSettings, device: str) -> None:
        one_thread()
        loaded = load_unit_lm(Folder(model).fetch())
        self._model = loaded.to(torch.device(device)).eval()  # type: ignore[arg-type]
        self._sampling = sampling

    def __call__(self, chunk: Chunk) -> Chunk:
        prompts = [Prompt(p["prompt_id"], np.array(p["units"], np.uint16)) for p in read_prompts(chunk)]
        seed = self._sampling.seed * 1_000_003 + chunk.number  # a prime, so that no two seeds share streams
        made = continue_units(self._model, prompts, self._sampling.model_copy(update={"seed": seed}))
        rows = [{"prompt_id": c.prompt_id, "units": c.units.tolist(), "ended": c.ended} for c in made]
        return leave(chunk, "continued", rows)


class Vocode:
    """Kernel: a chunk's continuations to sound; that of the first few is kept to be listened to."""

    def __init__(self, vocoder: str, samples: int) -> None:
        one_thread()
        self._vocoder, self._samples = load_decoder(place_of(vocoder, "evaluate.vocoder")), samples

    def __call__(self, chunk: Chunk) -> ChunkOfSound:
        out = Folder(chunk.out)
        continued = out.read_json(chunk_file(chunk.number, "continued"))
        whole, alone = [], []
        for number, (prompt, said) in enumerate(zip(read_prompts(chunk), continued, strict=True)):
            whole.append(self._speak([*prompt["units"], *said["units"]]))
            alone.append(self._speak(said["units"]))
            if chunk.number == 0 and number < self._samples:
                out.write(f"{AUDIO}/{number:03d}.flac", to_flac(from_pcm(whole[-1])))
        return ChunkOfSound(chunk, tuple(whole), tuple(alone))

    def _speak(self, units: list[int]) -> bytes:
        return to_pcm(resample(self._vocoder(np.array(units, np.uint16)), self._vocoder.rate_hz, RATE_HZ))


class Transcribe:
    """Kernel: the audio of a chunk to texts."""

    def __init__(self, model: str, revision: str | None, device: str) -> None:
        one_thread()
        self._transcribe = Transcriber(asset_path(model), revision, device)

    def __call__(self, heard: ChunkOfSound) -> Chunk:
        whole, alone = ([from_pcm(pcm) for pcm in part] for part in (heard.whole, heard.alone))
        texts = zip(whole, self._transcribe(whole), self._transcribe(alone), strict=True)
        rows = [{"seconds": len(audio) / RATE_HZ, "text": text, "text_alone": last} for audio, text, last in texts]
        return leave(heard.chunk, "heard", rows)


class JudgeTexts:
    """Kernel: the likelihoods of a chunk's texts."""

    def __init__(self, model: str, revision: str | None, device: str) -> None:
        one_thread()
        self._judge = Judge(asset_path(model), revision, device)

    def __call__(self, chunk: Chunk) -> Chunk:
        heard = Folder(chunk.out).read_json(chunk_file(chunk.number, "heard"))
        pairs = zip(self._judge([r["text"] for r in heard]), self._judge([r["text_alone"] for r in heard]), strict=True)
        rows = [
            {"nll": both.nll, "tokens": both.tokens, "nll_alone": last.nll, "tokens_alone": last.tokens}
            for both, last in pairs
        ]
        return leave(chunk, "judged", rows)


def read_prompts(chunk: Chunk) -> list[dict[str, Any]]:
    """prompt_id and units of each prompt of the chunk."""
    with pq.ParquetFile(Folder(chunk.out).fetch(PROMPTS)) as file:
        rows: list[dict[str, Any]] = file.read_row_group(chunk.number).to_pylist()
    return rows


def leave(chunk: Chunk, step: str, rows: list[dict[str, Any]]) -> Chunk:
    """Write a step's result for the chunk."""
    Folder(chunk.out).write_json(chunk_file(chunk.number, step), rows)
    return chunk
