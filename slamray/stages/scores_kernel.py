"""Kernel of the score and evaluation stages: one measurement of one checkpoint. It knows rows and files, not Ray."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import PreTrainedModel

from slamray.config.base import asset_path
from slamray.config.evaluation import EvaluateSettings
from slamray.data.items import Pair
from slamray.evaluate.pairs import judge_pairs, perplexity
from slamray.model import generate
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.unit_lm import load_unit_lm
from slamray.speech.decoders.source_filter import load_vocoder
from slamray.stage import store, tables
from slamray.stages import corpus, items, packed, published, tasks, units
from slamray.tokens.rows import RowStore
from slamray.tokens.vocabulary import Vocabulary, reconcile


class Measure:
    """Kernel: one task on one checkpoint, its result as JSON in a file of the task's name.

    folders: by stage name; which of them are needed depends on the tasks. The model that was used last is kept, for
    tasks come in the order of checkpoints.
    """

    def __init__(
        self,
        folders: dict[str, str],
        config: dict[str, Any],
        rate_hz: float,
        vocabulary: dict[str, Any],
        device: str,
        batch_tokens: int,
    ) -> None:
        torch.set_num_threads(1)
        self._loaded: tuple[str, PreTrainedModel] | None = None
        self._folders = {name: Path(folder) for name, folder in folders.items()}
        self._config = EvaluateSettings(**config)
        self._vocabulary = Vocabulary.from_json(vocabulary, "the encoder's vocabulary")
        self._rate_hz, self._device, self._batch_tokens = rate_hz, device, batch_tokens
        self._known: dict[str, tuple[list[Pair], dict[str, np.ndarray]]] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        model, out = self._load(row["model"]), Path(row["out"])
        kind = row["task"].partition(":")[0]
        result: Any
        if kind == tasks.PERPLEXITY:
            result = self._perplexity(model)
        elif kind == tasks.PAIRS:
            result = self._pairs(model, row["source"], row["metric"], row["start"], row["stop"])
        else:
            result = self._continue(model, out / tasks.AUDIO)
        store.write_json(tasks.task_file(out, row["task"]), result)
        return {"task": row["task"]}

    def _load(self, folder: str) -> PreTrainedModel:
        if self._loaded is None or self._loaded[0] != folder:
            self._loaded = None  # before the next one takes its place
            known = read_unit_vocabulary(Path(folder), "evaluate")
            reconcile(known, self._vocabulary, folder, "speech.encoder")
            model = load_unit_lm(Path(folder))  # float32: a score must not depend on its batch
            model.to(torch.device(self._device))  # type: ignore[arg-type]  # wrapped in a way mypy cannot follow
            self._loaded = folder, model.eval()
        return self._loaded[1]

    def _perplexity(self, model: PreTrainedModel) -> dict[str, float]:
        rows = RowStore(self._folders["packed"] / packed.VALIDATION)
        if rows.vocabulary is not None:
            reconcile(self._vocabulary, rows.vocabulary, "speech.encoder", str(rows.folder))
        return perplexity(model, rows.pieces(), self._batch_tokens)

    def _pairs(self, model: PreTrainedModel, source: str, metric: str, start: int, stop: int) -> list[dict[str, Any]]:
        if source not in self._known:
            folder = self._folders[source]
            pairs = published.read(folder) if source == "published" else list(items.read(folder).pairs)
            self._known[source] = pairs, units.by_id(folder)
        pairs, known = self._known[source]
        asked = [pair for pair in pairs if pair.metric == metric][start : None if stop < 0 else stop]
        spoken = [p for p in asked if all(u in known and len(known[u]) for u in (*p.prompt, *p.chosen, *p.rejected))]
        return judge_pairs(model, spoken, known, self._vocabulary, self._config.normalise, self._batch_tokens)

    def _continue(self, model: PreTrainedModel, audio: Path) -> dict[str, Any]:
        config = self._config.sampling
        table = tables.read_shards(self._folders["units"] / tables.SHARDS)
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
        made = generate.continue_units(model, generate.choose_prompts(prompts, config.prompts, config.seed), config)
        vocoder = load_vocoder(Path(asset_path(self._config.vocoder)))
        for continuation in made[: self._config.audio_samples]:
            sound = vocoder(np.concatenate([continuation.prompt, continuation.units]))
            buffer = io.BytesIO()
            soundfile.write(buffer, sound, vocoder.rate_hz, format="FLAC")
            store.write_atomic(audio / f"{continuation.prompt_id}.flac", buffer.getvalue())
        return generate.describe(made) | {
            "samples": [
                {"prompt_id": c.prompt_id, "prompt": c.prompt.tolist(), "units": c.units.tolist()} for c in made
            ]
        }
