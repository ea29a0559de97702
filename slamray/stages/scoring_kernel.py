"""Kernel of the stages that score: one metric of one checkpoint. It knows rows and files, not Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel

from slamray.config.base import SHAPE
from slamray.config.evaluation import ScoringSettings
from slamray.data.item_pairs import ItemPair
from slamray.data.text import VALIDATION
from slamray.evaluate.cross_modal import judge_across
from slamray.evaluate.metrics import PairMetric, ScalarMetric, metric_of
from slamray.evaluate.pair_scores import judge_pairs
from slamray.evaluate.summary import PairScore
from slamray.model.sampling import Prompt, choose_prompts, cut_prompt
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import load_text_lm, load_unit_lm
from slamray.speech.audio import to_flac
from slamray.speech.decoders.base import Decoder
from slamray.speech.decoders.table import load_decoder
from slamray.speech.encoders.base import EncoderFacts
from slamray.speech.fetch import place_of
from slamray.stage.folder import Folder
from slamray.stage.tables import unit_parts
from slamray.stages import corpus, items, published, units
from slamray.stages.joint_documents import TEXTS as TEXT_STAGES
from slamray.stages.scoring import AUDIO, JointText, Task, TaskDone, pairs_of
from slamray.stages.speech_kernels import one_thread
from slamray.tokens.documents import Document
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
        encoder: EncoderFacts,
        text: JointText | None,
        device: str,
        batch_tokens: int,
    ) -> None:
        one_thread()
        self._loaded: tuple[str, PreTrainedModel] | None = None
        self._folders, self._scoring, self._encoder, self._text = folders, scoring, encoder, text
        self._vocabulary = text.vocabulary if text else encoder.vocabulary
        self._device, self._batch_tokens = device, batch_tokens
        self._known: dict[str, tuple[list[ItemPair], dict[str, np.ndarray]]] = {}

    def __call__(self, task: Task) -> TaskDone:
        model = self._load(task.model)
        found = self._pairs(model, task) if task.source else [self._scalar(model, task)]
        result = [asdict(one) for one in found]
        task.folder.write_json(task.file, result if task.source else result[0])
        return TaskDone(task.file)

    def _load(self, folder: str) -> PreTrainedModel:
        if self._loaded is None or self._loaded[0] != folder:
            self._loaded = None  # before the next one takes its place
            here = Folder(folder).fetch()
            wanted = self._vocabulary
            reconcile(read_unit_vocabulary(here, "evaluate", wanted=wanted), wanted, folder, self._whose)
            model = load_unit_lm(here, wanted=wanted)  # float32: a score must not depend on its batch
            model.to(torch.device(self._device))  # type: ignore[arg-type]  # wrapped in a way mypy cannot follow
            self._loaded = folder, model.eval()
        return self._loaded[1]

    def _scalar(self, model: PreTrainedModel, task: Task) -> Any:
        metric = metric_of(task.metric)
        assert isinstance(metric, ScalarMetric)
        material = RunMaterial(
            self._folders,
            self._scoring,
            self._encoder,
            self._vocabulary,
            self._batch_tokens,
            task.folder,
            self._text,
        )
        return metric.load()(model, material, self._scoring)

    def _pairs(self, model: PreTrainedModel, task: Task) -> list[PairScore]:
        if task.source not in self._known:
            folder = self._folders[task.source]
            pairs = published.read(folder) if task.source == "published" else list(items.read(folder).pairs)
            self._known[task.source] = pairs, units.by_id(folder)
        pairs, known = self._known[task.source]
        chunk = pairs_of(pairs, task.metric)[task.start : task.stop]
        spoken = [p for p in chunk if all(u in known and len(known[u]) for u in (*p.prompt, *p.chosen, *p.rejected))]
        metric, vocabulary, scoring = metric_of(task.metric), self._vocabulary, self._scoring
        if isinstance(metric, PairMetric) and metric.across:
            judge = partial(judge_across, model, spoken, known, self._encode, vocabulary, *metric.across)
            assert self._text is not None, "unit LMs read no text"
            return judge(scored=self._text.scored, normalise=scoring.normalise, batch_tokens=self._batch_tokens)
        return judge_pairs(model, spoken, known, vocabulary, scoring.normalise, self._batch_tokens)

    @cached_property
    def _encode(self) -> TextTokeniser:
        assert self._text is not None, "unit LMs read no text"
        return TextTokeniser(self._text.base.base, self._text.base.revision)

    @property
    def _whose(self) -> str:
        return f"model.base={self._text.base.base} with speech.encoder" if self._text else "speech.encoder"


class RunMaterial:
    """What scalar metrics are measured on (evaluate.metrics.Material), read from the folders of a run's stages."""

    def __init__(
        self,
        folders: Mapping[str, Folder],
        scoring: ScoringSettings,
        encoder: EncoderFacts,
        vocabulary: Vocabulary,
        batch_tokens: int,
        out: Folder,
        text: JointText | None,
    ) -> None:
        self._folders, self._scoring, self._encoder, self._out, self._text = folders, scoring, encoder, out, text
        self.vocabulary, self.batch_tokens = vocabulary, batch_tokens

    def validation_pieces(self) -> Sequence[Document]:
        rows = RowStore(self._folders["packed"].fetch(VALIDATION))
        if rows.vocabulary is not None:
            reconcile(self.vocabulary, rows.vocabulary, "speech.encoder", str(rows.folder))
        return rows.pieces(self._scoring.perplexity_tokens)

    def prompts(self, n: int, seed: int) -> Sequence[Prompt]:
        folder, seconds, rate_hz = self._folders["units"], self._scoring.sampling.prompt_seconds, self._encoder.rate_hz
        known = (
            table.filter(pc.field("split") == VALIDATION) for table in unit_parts(folder, ["utterance_id", "split"])
        )
        chosen = choose_prompts((key for table in known for key in table["utterance_id"].to_pylist()), n, seed)
        of_them = pc.field("utterance_id").isin(pa.array(chosen, pa.string()))
        tables = unit_parts(folder, ["utterance_id", "units", "durations"], of_them)
        rows = {row["utterance_id"]: row for table in tables for row in table.to_pylist()}
        return [
            cut_prompt(key, np.array(rows[key]["units"]), np.array(rows[key]["durations"]), seconds, rate_hz)
            for key in chosen
        ]

    def texts(self) -> Iterator[Sequence[int]]:
        (folder,) = (self._folders[name] for name in TEXT_STAGES if name in self._folders)
        return (self._tokeniser(document.text) for document in corpus.read(folder, VALIDATION))

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokeniser.decode(ids)

    @cached_property
    def _tokeniser(self) -> TextTokeniser:
        assert self._text is not None, "unit LMs read no text"
        return TextTokeniser(self._text.base.base, self._text.base.revision)

    def text_lm(self) -> PreTrainedModel | None:
        assert self._text is not None, "unit LMs read no text"
        base = self._text.base
        return None if base.base.startswith(SHAPE) else load_text_lm(base.base, base.revision)

    def keep_sound(self, name: str, units: np.ndarray) -> None:
        self._out.write(f"{AUDIO}/{name}.flac", to_flac(self._decoder(units), self._decoder.rate_hz))

    @cached_property
    def _decoder(self) -> Decoder:
        return load_decoder(place_of(self._scoring.vocoder, "evaluate.vocoder"))
