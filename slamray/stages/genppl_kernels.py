"""Kernels of the GenPPL stages: one step on one chunk of prompts. They know rows and files, not Ray."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from slamray.config.base import asset_path
from slamray.config.evaluation import SamplingSettings
from slamray.evaluate.genppl import RATE_HZ, Judge, Transcriber
from slamray.model.generate import Prompt, continue_units
from slamray.model.unit_lm import load_unit_lm
from slamray.speech.audio import resample
from slamray.speech.decoders.source_filter import load_vocoder
from slamray.stage import store
from slamray.stages.tasks import chunk_file

Row = dict[str, Any]
AUDIO = "audio"


class Continue:
    """Kernel: sample the continuations of a chunk. A chunk draws from a stream of its own, by seed and number."""

    def __init__(self, model: str, sampling: dict[str, Any], device: str, out: str) -> None:
        torch.set_num_threads(1)
        loaded = load_unit_lm(Path(model))
        self._model = loaded.to(torch.device(device)).eval()  # type: ignore[arg-type]
        self._config, self._out = SamplingSettings(**sampling), Path(out)

    def __call__(self, row: Row) -> Row:
        prompts = [Prompt(p["prompt_id"], np.array(p["units"], np.uint16)) for p in json.loads(row["prompts"])]
        seed = self._config.seed * 1_000_003 + row["chunk"]  # a prime, so that no two seeds share streams
        made = continue_units(self._model, prompts, self._config.model_copy(update={"seed": seed}))
        rows = [{"prompt_id": c.prompt_id, "units": c.units.tolist(), "ended": c.ended} for c in made]
        store.write_json(chunk_file(self._out, row["chunk"], "continued"), rows)
        return {"chunk": row["chunk"]}


class Vocode:
    """Kernel: prompt and continuation, and the continuation alone, as 16 kHz 16-bit audio."""

    def __init__(self, vocoder: str, samples: int, out: str) -> None:
        torch.set_num_threads(1)
        self._vocoder, self._samples, self._out = load_vocoder(Path(asset_path(vocoder))), samples, Path(out)

    def __call__(self, row: Row) -> Row:
        prompts = json.loads(row["prompts"])
        continued = store.read_json(chunk_file(self._out, row["chunk"], "continued"))
        whole, alone = [], []
        for number, (prompt, said) in enumerate(zip(prompts, continued, strict=True)):
            whole.append(self._speak([*prompt["units"], *said["units"]]))
            alone.append(self._speak(said["units"]))
            if row["chunk"] == 0 and number < self._samples:
                buffer = io.BytesIO()
                soundfile.write(buffer, np.frombuffer(whole[-1], np.int16), RATE_HZ, format="FLAC")
                store.write_atomic(self._out / AUDIO / f"{number:03d}.flac", buffer.getvalue())
        return {"chunk": row["chunk"], "whole": whole, "alone": alone}

    def _speak(self, units: list[int]) -> bytes:
        audio = resample(self._vocoder(np.array(units, np.uint16)), self._vocoder.rate_hz, RATE_HZ)
        return (np.clip(audio, -1, 1) * 32767).astype(np.int16).tobytes()


class Transcribe:
    """Kernel: the audio of a chunk to texts."""

    def __init__(self, model: str, revision: str | None, device: str, out: str) -> None:
        torch.set_num_threads(1)
        self._transcribe, self._out = Transcriber(asset_path(model), revision, device), Path(out)

    def __call__(self, row: Row) -> Row:
        whole, alone = (
            [np.frombuffer(a, np.int16).astype(np.float32) / 32768 for a in row[k]] for k in ("whole", "alone")
        )
        texts = zip(whole, self._transcribe(whole), self._transcribe(alone), strict=True)
        rows = [{"seconds": len(audio) / RATE_HZ, "text": text, "text_alone": last} for audio, text, last in texts]
        store.write_json(chunk_file(self._out, row["chunk"], "heard"), rows)
        return {"chunk": row["chunk"]}


class JudgeTexts:
    """Kernel: the likelihoods of a chunk's texts."""

    def __init__(self, model: str, revision: str | None, device: str, out: str) -> None:
        torch.set_num_threads(1)
        self._judge, self._out = Judge(asset_path(model), revision, device), Path(out)

    def __call__(self, row: Row) -> Row:
        heard = store.read_json(chunk_file(self._out, row["chunk"], "heard"))
        pairs = zip(self._judge([r["text"] for r in heard]), self._judge([r["text_alone"] for r in heard]), strict=True)
        rows = [
            {"nll": both.nll, "tokens": both.tokens, "nll_alone": last.nll, "tokens_alone": last.tokens}
            for both, last in pairs
        ]
        store.write_json(chunk_file(self._out, row["chunk"], "judged"), rows)
        return {"chunk": row["chunk"]}
