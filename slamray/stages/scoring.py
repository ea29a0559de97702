"""What stages `scores_*` and `evaluation` have in common: checkpoints measured by metrics, in one stream of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from slamray.config.evaluation import Scored, ScoringSettings
from slamray.config.model import BaseSettings
from slamray.data.item_pairs import ItemPair
from slamray.evaluate.metrics import (
    CORPUS_ITEMS,
    PROMPTS,
    PUBLISHED_SETS,
    TEXTS,
    VALIDATION_PIECES,
    PairMetric,
    ScalarMetric,
    metric_of,
)
from slamray.evaluate.summary import Average, ItemSummary, PairScore, PassageGain, passage_gain, summarise_items
from slamray.speech.encoders.base import EncoderFacts
from slamray.stage.folder import Folder
from slamray.stage.records import from_table, to_table
from slamray.stage.stage import Inputs
from slamray.stage.work import Machine, Pool
from slamray.stages import items, published
from slamray.tokens.vocabulary import Vocabulary

AUDIO = "audio"  # continuations to be listened to
SCORES = "scores.parquet"  # a row for each checkpoint and pair
SCORED = {  # of pairs whose prompt and ending are heard or read, by evaluate.scored
    "continuation": "Scored is the ending alone, among the ids of its modality (evaluate.scored=continuation).",
    "sequence": "Scored is the mean over the whole sequence, among all ids, as in slamkit (evaluate.scored=sequence).",
}
CHUNK_PAIRS = 1000  # the work that a kill can lose, seconds to minutes; chosen, not tuned
# The stages that have made what metrics are measured on.
STAGES = {
    CORPUS_ITEMS: ("items",),
    PUBLISHED_SETS: ("published",),
    VALIDATION_PIECES: ("packed",),
    PROMPTS: ("units",),
    TEXTS: ("corpus", "text_corpus"),
}


@dataclass(frozen=True)
class JointText:
    """What checkpoints of text and speech need besides.

    base: whose tokeniser reads text. scored: what of a pair whose prompt and ending are heard or read.
    """

    vocabulary: Vocabulary
    base: BaseSettings
    scored: Scored


@dataclass(frozen=True)
class Task:
    """One metric of one checkpoint; its result goes below `out`, to a file of the task's name.

    model, out: addresses of folders. Of a metric of pairs: `source` is the stage whose folder holds the pairs, of which
    those from start to stop are scored; of a scalar metric it is empty.
    """

    checkpoint: str
    model: str
    metric: str
    out: str
    source: str = ""
    start: int = 0
    stop: int = 0

    @property
    def file(self) -> str:
        """Where its result lies, below `out`."""
        return f"tasks/{self.metric}-{self.start:06d}.json" if self.source else f"tasks/{self.metric}.json"

    @property
    def folder(self) -> Folder:
        return Folder(self.out)

    @property
    def is_done(self) -> bool:
        return self.folder.exists(self.file)

    @property
    def result(self) -> Any:
        return self.folder.read_json(self.file)


@dataclass(frozen=True)
class TaskDone:
    """A task that has left its result."""

    file: str


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint came to.

    figures: of each metric its facts, an ItemSummary or the record of a scalar metric. parts: of metrics of several
    parts, by metric/part. pairs_without_sound: of each metric, pairs left out because a recording could not be read.
    gains: of metrics that score an ending alone, what it gains from its passage.
    """

    figures: Mapping[str, Any]
    parts: Mapping[str, ItemSummary]
    pairs_without_sound: Mapping[str, int]
    gains: Mapping[str, PassageGain]


def measure(
    name: str,
    checkpoints: Mapping[str, Folder],
    metrics: Sequence[str],
    inputs: Inputs,
    out: Mapping[str, Folder],
    machine: Machine,
    scoring: ScoringSettings,
    encoder: EncoderFacts,
    text: JointText | None = None,
) -> tuple[pa.Table, dict[str, CheckpointFacts]]:
    """Measure checkpoints by metrics: a row for each checkpoint and pair, and what each checkpoint came to.

    name: for the progress line. checkpoints: folders of models by name. inputs: without those of checkpoints, so that
    all checkpoints of a run give their actors the same and share them. out: where a checkpoint's results go. text: of
    checkpoints of text and speech; None of unit LMs.
    """
    pairs = read_pairs(inputs, metrics)
    tasks = [
        task
        for checkpoint, model in checkpoints.items()
        for task in _tasks(checkpoint, str(model), str(out[checkpoint]), pairs, metrics)
    ]
    _stream(name, tasks, inputs, machine, scoring, encoder, text)
    scores = {checkpoint: _scores(checkpoint, tasks) for checkpoint in checkpoints}
    tables = [_table(checkpoint, found) for checkpoint, found in scores.items()]
    alone = text is not None and text.scored == "continuation"
    facts = {name: _facts(scores[name], _scalars(name, tasks), pairs, scoring.interval, alone) for name in checkpoints}
    return pa.concat_tables(tables), facts


def read_pairs(inputs: Inputs, metrics: Sequence[str]) -> dict[tuple[str, str], list[ItemPair]]:
    """The pairs of each metric, by the name of the stage that holds them and the metric."""
    found: dict[str, list[ItemPair]] = {}
    if "items" in inputs:
        found["items"] = list(items.read(inputs["items"]).pairs)
    if "published" in inputs:
        found["published"] = published.read(inputs["published"])
    by_metric: dict[tuple[str, str], list[ItemPair]] = {}
    for source, pairs in found.items():
        for metric in metrics:
            if own := pairs_of(pairs, metric):
                by_metric[source, metric] = own
    return by_metric


def pairs_of(pairs: Sequence[ItemPair], metric: str) -> list[ItemPair]:
    """The pairs that a metric is measured on, under its name."""
    row = metric_of(metric)
    _, dash, rest = metric.partition("-")
    source = f"{row.pairs_of}{dash}{rest}" if isinstance(row, PairMetric) and row.pairs_of else metric
    return [pair if source == metric else replace(pair, metric=metric) for pair in pairs if pair.metric == source]


def read_scores(folder: Folder, checkpoint: str) -> list[PairScore]:
    """The score of each pair of a checkpoint, of a stage that has measured it."""
    rows = folder.read_table(SCORES, filters=[("checkpoint", "=", checkpoint)]).drop_columns("checkpoint")
    return from_table(rows, PairScore)


def _tasks(
    checkpoint: str,
    model: str,
    out: str,
    pairs: Mapping[tuple[str, str], Sequence[ItemPair]],
    metrics: Sequence[str],
) -> list[Task]:
    """Scalar metrics first, for each is one task that may take long; pairs in chunks."""
    scalar = [metric for metric in metrics if isinstance(metric_of(metric), ScalarMetric)]
    return [Task(checkpoint, model, metric, out) for metric in scalar] + [
        Task(checkpoint, model, metric, out, source, start, start + CHUNK_PAIRS)
        for (source, metric), members in pairs.items()
        for start in range(0, len(members), CHUNK_PAIRS)
    ]


def _stream(
    name: str,
    tasks: Sequence[Task],
    inputs: Inputs,
    machine: Machine,
    scoring: ScoringSettings,
    encoder: EncoderFacts,
    text: JointText | None,
) -> None:
    """Do the tasks that have not left their result yet."""
    cuda = machine.compute.device == "cuda"
    args = {
        "folders": dict(inputs),
        "scoring": scoring,
        "encoder": encoder,
        "text": text,
        "device": "cuda" if cuda else "cpu",
        "batch_tokens": machine.compute.score_batch_tokens,
    }
    pool = Pool("slamray.stages.scoring_kernel:Measure", args, machine.compute.score_actors, gpus=1 if cuda else 0)
    machine.rows(name, [task for task in tasks if not task.is_done], [pool], len(tasks), "tasks")


def _scores(checkpoint: str, tasks: Sequence[Task]) -> list[PairScore]:
    results = [task.result for task in tasks if task.checkpoint == checkpoint and task.source]
    return [PairScore(**row) for rows in results for row in rows]


def _scalars(checkpoint: str, tasks: Sequence[Task]) -> dict[str, Any]:
    return {task.metric: task.result for task in tasks if task.checkpoint == checkpoint and not task.source}


def _table(checkpoint: str, scores: Sequence[PairScore]) -> pa.Table:
    return to_table(scores, PairScore).add_column(0, "checkpoint", pa.array([checkpoint] * len(scores), pa.string()))


def _facts(
    scores: Sequence[PairScore],
    scalars: Mapping[str, Any],
    pairs: Mapping[tuple[str, str], Sequence[ItemPair]],
    confidence: float,
    alone: bool,
) -> CheckpointFacts:
    """alone: whether a pair's score is that of its ending by itself, of which then a gain is known."""
    figures: dict[str, Any] = {}
    parts: dict[str, ItemSummary] = {}
    lost: dict[str, int] = {}
    gains: dict[str, PassageGain] = {}
    for (_, metric), members in pairs.items():
        scored = [score for score in scores if score.metric == metric]
        lost[metric] = len(members) - len(scored)
        if scored:
            figures[metric], *found = summarise_items(scored, average_of(metric), confidence)
            parts |= {f"{metric}/{one.part}": one for one in found}
        row = metric_of(metric)
        if alone and isinstance(row, PairMetric) and row.across and (gain := passage_gain(members, scored, confidence)):
            gains[metric] = gain
    return CheckpointFacts({**figures, **scalars}, parts, lost, gains)


def average_of(metric: str) -> Average:
    """How the figure of a metric of pairs is made of its items."""
    row = metric_of(metric)
    assert isinstance(row, PairMetric)
    return row.average
