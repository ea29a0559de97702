"""Kernel of the score and evaluation stages: one measurement of one checkpoint. It knows rows and files, not Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel

from slamray.config.base import asset_path
from slamray.config.evaluation import ScoringSettings
from slamray.data.items import ItemPair
from slamray.evaluate.pairs import judge_pairs, perplexity
from slamray.model import generate
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.unit_lm import load_unit_lm
from slamray.speech.audio import to_flac
from slamray.speech.decoders.table import load_decoder
from slamray.stage.folder import Folder
from slamray.stage.tables import read_shards
from slamray.stages import corpus, items, packed, published, units
from slamray.stages.speech_kernels import one_thread
from slamray.stages.tasks import AUDIO, PAIRS, PERPLEXITY, Task, TaskDone
from slamray.tokens.rows import RowStore
from slamray.tokens.vocabulary import Vocabulary, reconcile


class Measure:
    """Kernel: one task on one checkpoint, its result as JSON.

    folders: by stage name; which of them are needed depends on the tasks. The model that was used last is kept, for
    tasks come in the order of checkpoints.
    """

    def __init__(
        self,
        folders: Mapping[str, Folder],
        scoring: ScoringSettings,
        rate_hz: float,
        vocabulary: Vocabulary,
        device: str,
        batch_tokens: int,
    ) -> None:
        one_thread()
        self._loaded: tuple[str, PreTrainedModel] | None = None
        self._folders, self._scoring, self._vocabulary = folders, scoring, vocabulary
        self._rate_hz, self._device, self._batch_tokens = rate_hz, device, batch_tokens
        self._known: dict[str, tuple[list[ItemPair], dict[str, np.ndarray]]] = {}

    def __call__(self, task: Task) -> TaskDone:
        model = self._load(task.model)
        if task.kind == PERPLEXITY:
            result: Any = self._perplexity(model)
        elif task.kind == PAIRS:
            result = self._pairs(model, task)
        else:
            result = self._continue(model, task.folder)
        task.folder.write_json(task.file, result)
        return TaskDone(task.file)

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
        rows = RowStore(self._folders["packed"].fetch(packed.VALIDATION))
        if rows.vocabulary is not None:
            reconcile(self._vocabulary, rows.vocabulary, "speech.encoder", str(rows.folder))
        return perplexity(model, rows.pieces(), self._batch_tokens)

    def _pairs(self, model: PreTrainedModel, task: Task) -> list[dict[str, Any]]:
        if task.source not in self._known:
            folder = self._folders[task.source]
            pairs = published.read(folder) if task.source == "published" else list(items.read(folder).pairs)
            self._known[task.source] = pairs, units.by_id(folder)
        pairs, known = self._known[task.source]
        asked = [pair for pair in pairs if pair.metric == task.metric]
        asked = asked[task.start : None if task.stop < 0 else task.stop]
        spoken = [p for p in asked if all(u in known and len(known[u]) for u in (*p.prompt, *p.chosen, *p.rejected))]
        return judge_pairs(model, spoken, known, self._vocabulary, self._scoring.normalise, self._batch_tokens)

    def _continue(self, model: PreTrainedModel, out: Folder) -> dict[str, Any]:
        sampling = self._scoring.sampling
        chosen = generate.choose_prompts(self._prompts(), sampling.prompts, sampling.seed)
        made = generate.continue_units(model, chosen, sampling)
        vocoder = load_decoder(Path(asset_path(self._scoring.vocoder)))
        for continuation in made[: self._scoring.audio_samples]:
            sound = vocoder(np.concatenate([continuation.prompt, continuation.units]))
            out.write(f"{AUDIO}/{continuation.prompt_id}.flac", to_flac(sound, vocoder.rate_hz))
        samples = [{"prompt_id": c.prompt_id, "prompt": c.prompt.tolist(), "units": c.units.tolist()} for c in made]
        return generate.describe(made) | {"samples": samples}

    def _prompts(self) -> list[generate.Prompt]:
        """The beginnings of the validation documents."""
        table = read_shards(self._folders["units"], ["utterance_id", "units", "durations"])
        wanted = [document.doc_id for document in corpus.read(self._folders["corpus"], "validation")]
        table = table.filter(pc.is_in(table["utterance_id"], pa.array(wanted, pa.string())))
        seconds, rate_hz = self._scoring.sampling.prompt_seconds, self._rate_hz
        return [
            generate.cut_prompt(
                row["utterance_id"], np.array(row["units"]), np.array(row["durations"]), seconds, rate_hz
            )
            for row in table.to_pylist()
        ]
