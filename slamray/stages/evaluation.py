"""Stage `evaluation`: many checkpoints by many metrics in one stream, on what was encoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from slamray.config.base import Located, part_of
from slamray.config.evaluation import ScoringSettings
from slamray.config.tree import Recipe
from slamray.data.items import ItemPair
from slamray.data.published_sets import KINDS, average_of
from slamray.evaluate.summary import as_rows, summarise_items
from slamray.speech.encoders.base import EncoderFacts
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import items, published, scores
from slamray.stages.checkpoints import MODEL
from slamray.stages.tasks import CONTINUE, PAIRS, PERPLEXITY, SCORES, Task

SUMMARY = "summary.json"
CHUNK_PAIRS = 1000  # the work that a kill can lose, seconds to minutes; chosen, not tuned
SCHEMA = pa.schema([("checkpoint", pa.string()), *scores.SCHEMA])


@dataclass(frozen=True)
class EvaluationFacts:
    """checkpoints: figures of each by name. table: the same as lines for a terminal."""

    checkpoints: Mapping[str, Any]
    pairs_without_sound: Mapping[str, int]
    table: Sequence[str]


def stage(
    recipe: Recipe, checkpoints: Mapping[str, Located | None], metrics: Sequence[str], inputs: Sequence[Stage]
) -> Stage:
    """checkpoints: by name; None is the checkpoint of the input stage of that name."""
    settings = {
        "checkpoints": dict(checkpoints),
        "metrics": list(metrics),
        "scoring": part_of(recipe.evaluate, ScoringSettings),
        "encoder": check_encoder(recipe.speech.encoder),
    }
    cost = f"{len(checkpoints)} checkpoints by {len(metrics)} metrics"
    return Stage("evaluation", run, settings, tuple(inputs), cost=lambda: cost)


def stages(recipe: Recipe, checkpoints: Sequence[Stage], sets: Sequence[Stage]) -> tuple[Stage, ...]:
    """The run's own checkpoints on its published sets, where it names some."""
    if not sets:
        return ()
    names = {checkpoint.name: None for checkpoint in checkpoints}
    return (stage(recipe, names, sorted(recipe.evaluate.sets), (*checkpoints, *sets)),)


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    checkpoints: Mapping[str, Located | None],
    metrics: Sequence[str],
    scoring: ScoringSettings,
    encoder: EncoderFacts,
) -> EvaluationFacts:
    """Score every checkpoint by every metric: a row for each pair to Parquet, figures to the facts and summary.json."""
    models = {name: str(at.place if at else inputs[name].fetch(MODEL)) for name, at in checkpoints.items()}
    pairs = _pairs(inputs, metrics)
    work = [task for name, model in models.items() for task in _tasks(name, model, str(out / name), pairs, metrics)]
    folders = {name: folder for name, folder in inputs.items() if name not in models}
    scores.measure("evaluation", work, folders, machine, scoring, encoder)
    rows = [{"checkpoint": task.checkpoint, **row} for task in work if task.kind == PAIRS for row in task.result]
    out.write_table(SCORES, pa.Table.from_pylist(rows, SCHEMA))
    found = {name: _figures(name, rows, work, scoring) for name in models}
    out.write_json(SUMMARY, found)
    scored = {metric: sum(row["metric"] == metric for row in rows) // len(models) for _, metric in pairs}
    lost = {metric: len(asked) - scored[metric] for (_, metric), asked in pairs.items()}
    return EvaluationFacts(found, lost, table(found))


def _pairs(inputs: Inputs, metrics: Sequence[str]) -> dict[tuple[str, str], list[ItemPair]]:
    """The pairs of each metric, by the name of the stage that holds them and the metric."""
    found: dict[str, list[ItemPair]] = {}
    if "items" in inputs:
        found["items"] = list(items.read(inputs["items"]).pairs)
    if "published" in inputs:
        found["published"] = published.read(inputs["published"])
    by_metric: dict[tuple[str, str], list[ItemPair]] = {}
    for source, pairs in found.items():
        for pair in pairs:
            if pair.metric in metrics:
                by_metric.setdefault((source, pair.metric), []).append(pair)
    return by_metric


def _tasks(
    checkpoint: str,
    model: str,
    out: str,
    pairs: Mapping[tuple[str, str], Sequence[ItemPair]],
    metrics: Sequence[str],
) -> list[Task]:
    """The long ones first; pairs in chunks."""
    work = [Task(checkpoint, model, kind, out) for kind in (CONTINUE, PERPLEXITY) if kind in metrics]
    return work + [
        Task(checkpoint, model, PAIRS, out, source, metric, start, start + CHUNK_PAIRS)
        for (source, metric), asked in pairs.items()
        for start in range(0, len(asked), CHUNK_PAIRS)
    ]


def _figures(
    checkpoint: str, rows: Sequence[Mapping[str, Any]], work: Sequence[Task], scoring: ScoringSettings
) -> dict[str, Any]:
    """One checkpoint's figures: `metrics` (the figure of each metric, then its parts), perplexity, continuations."""
    found: dict[str, Any] = {"metrics": []}
    scored = [row for row in rows if row["checkpoint"] == checkpoint]
    for metric in dict.fromkeys(row["metric"] for row in scored):
        average = average_of(metric) if metric.partition("-")[0] in KINDS else "items"
        own = [row for row in scored if row["metric"] == metric]
        found["metrics"] += as_rows(summarise_items(own, average, scoring.interval))
    for task in work:
        if task.checkpoint == checkpoint and task.kind == PERPLEXITY:
            found["perplexity"] = task.result
        if task.checkpoint == checkpoint and task.kind == CONTINUE:
            found["continuations"] = scores.figures_of(task.result)
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines for the terminal: a row for each metric and part, a column for each checkpoint."""
    width = max(24, *(len(name) + 2 for name in found))
    lines = [f"{'':<32}{'items':>8}" + "".join(f"{name:>{width}}" for name in found)]
    first, *_ = found.values()
    for i, row in enumerate(first["metrics"]):
        name = row["metric"] if row["part"] == "all" else f"  {row['part']}"
        cells = [_cell(figures["metrics"][i]) for figures in found.values()]
        lines.append(f"{name:<32}{row['n']:>8,}" + "".join(f"{cell:>{width}}" for cell in cells))
    if "perplexity" in first:
        shown = [f"{figures['perplexity']['perplexity']:.2f}" for figures in found.values()]
        lines.append(f"{'validation perplexity':<32}{'':>8}" + "".join(f"{cell:>{width}}" for cell in shown))
    if "continuations" in first:
        bleu = [figures["continuations"]["auto_bleu"] for figures in found.values()]
        shown = ["-" if value is None else f"{100 * value:.2f}" for value in bleu]
        lines.append(f"{'Auto-BLEU of units':<32}{'':>8}" + "".join(f"{cell:>{width}}" for cell in shown))
    return [*lines, "accuracy in %, bootstrap intervals over items; ties, of pairs, where there are any"]


def _cell(row: Mapping[str, Any]) -> str:
    ties = f" ties {row['ties']:,}" if row["ties"] else ""
    return f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]{ties}"
