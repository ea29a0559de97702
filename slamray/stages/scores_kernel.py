"""Kernel of the score stages: one measurement of one checkpoint. It knows rows and files, not Ray."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from slamray import store
from slamray.config import EvaluateConfig, asset_path
from slamray.evaluate import generate
from slamray.evaluate.pairs import perplexity, pieces, score_pairs
from slamray.model import load_unit_lm
from slamray.speech.vocode import load_vocoder
from slamray.stages import corpus, items, packed, speech, tables, units
from slamray.stages.scores import AUDIO, task_file
from slamray.units import RowStore


class Measure:
    """Kernel: one task on one checkpoint, its result as JSON in a file of the task's name."""

    def __init__(
        self, model: str, folders: dict[str, str], config: dict[str, Any], rate_hz: float, out: str, device: str
    ) -> None:
        torch.set_num_threads(1)
        loaded = load_unit_lm(Path(model))  # float32: a score must not depend on its batch
        loaded.to(torch.device(device))  # type: ignore[arg-type]  # transformers wraps `to` in a way mypy cannot follow
        self._model = loaded.eval()
        self._folders = {name: Path(folder) for name, folder in folders.items()}
        self._config = EvaluateConfig(**config)
        self._rate_hz, self._out = rate_hz, Path(out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task: str = row["task"]
        kind, _, metric = task.partition(":")
        result: Any
        if kind == "perplexity":
            result = self._perplexity()
        elif kind == "pairs":
            result = self._pairs(metric)
        else:
            result = self._continue()
        store.write_json(task_file(self._out, task), result)
        return {"task": task}

    def _perplexity(self) -> dict[str, float]:
        rows = RowStore(self._folders["packed"] / packed.VALIDATION)
        return perplexity(self._model, pieces(rows))

    def _pairs(self, metric: str) -> list[dict[str, Any]]:
        found = items.read(self._folders["items"])
        pairs, known = [p for p in found.pairs if p.metric == metric], units.by_id(self._folders["items"])
        spoken = [p for p in pairs if all(u in known and len(known[u]) for u in (*p.prompt, *p.chosen, *p.rejected))]
        return score_pairs(self._model, spoken, known, self._config.normalise)

    def _continue(self) -> dict[str, Any]:
        config = self._config.sampling
        table = tables.read_shards(self._folders["units"] / speech.SHARDS)
        wanted = {row["doc_id"] for row in corpus.read(self._folders["corpus"], "validation")}
        prompts = [
            generate.cut_prompt(
                row["utterance_id"],
                np.array(row["units"]),
                np.array(row["durations"]),
                config.prompt_seconds,
                self._rate_hz,
            )
            for row in table.select(["utterance_id", "units", "durations"]).to_pylist()
            if row["utterance_id"] in wanted
        ]
        made = generate.continue_units(
            self._model, generate.choose_prompts(prompts, config.prompts, config.seed), config
        )
        vocoder = load_vocoder(Path(asset_path(self._config.vocoder)))
        for continuation in made[: self._config.audio_samples]:
            audio = vocoder(np.concatenate([continuation.prompt, continuation.units]))
            buffer = io.BytesIO()
            soundfile.write(buffer, audio, vocoder.rate_hz, format="FLAC")
            store.write_atomic(self._out / AUDIO / f"{continuation.prompt_id}.flac", buffer.getvalue())
        return generate.describe(made) | {
            "samples": [
                {"prompt_id": c.prompt_id, "prompt": c.prompt.tolist(), "units": c.units.tolist()} for c in made
            ]
        }
