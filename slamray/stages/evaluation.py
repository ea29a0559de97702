"""Stage `evaluation`: many checkpoints by many metrics in one stream, on what was encoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from slamray.config.compute import Compute
from slamray.config.evaluation import EvaluateSettings
from slamray.data.items import Pair
from slamray.data.published_sets import KINDS, average_of
from slamray.evaluate.summary import as_rows, summarise_items
from slamray.stage import store, tables
from slamray.stage.stage import Asking, Folders
from slamray.stages import items, published, scores, tasks
from slamray.tokens.vocabulary import Vocabulary

SUMMARY = "summary.json"
CHUNK_PAIRS = 1000  # the work that a kill can lose, seconds to minutes; chosen, not tuned
SCHEMA = pa.schema([("checkpoint", pa.string()), *scores.SCHEMA])


def run(
    folders: Folders,
    out: Path,
    models: Mapping[str, Path],
    metrics: Sequence[str],
    config: EvaluateSettings,
    rate_hz: float,
    vocabulary: Vocabulary,
    compute: Compute,
) -> Asking:
    """Score every checkpoint by every metric: a row for each pair to Parquet, figures to the facts and summary.json.

    models: folder of each checkpoint. metrics: names of sets, of the recipe's own items, or the kinds of tasks.
    """
    pairs = {
        (source, metric): [pair for pair in found if pair.metric == metric]
        for source, found in _pairs(folders).items()
        for metric in dict.fromkeys(pair.metric for pair in found)
        if metric in metrics
    }
    work = [task for name in models for task in _tasks(name, out / name, pairs, metrics)]
    yield from scores.measure("evaluation", work, models, folders, config, rate_hz, vocabulary, compute)
    rows = [
        {"checkpoint": task["checkpoint"], **row}
        for task in work
        if task["task"].startswith(tasks.PAIRS)
        for row in store.read_json(tasks.task_file(Path(task["out"]), task["task"]))
    ]
    tables.write_table(out / tasks.SCORES, pa.Table.from_pylist(rows, SCHEMA))
    found = {
        name: _figures([r for r in rows if r["checkpoint"] == name], out / name, metrics, config) for name in models
    }
    store.write_json(out / SUMMARY, found)
    lost = {metric: len(asked) - sum(r["metric"] == metric for r in rows) // len(models) for (_, metric), asked in
            pairs.items()}  # fmt: skip
    return {"checkpoints": found, "pairs_without_sound": lost, "table": table(found)}


def _pairs(folders: Folders) -> dict[str, list[Pair]]:
    """All pairs by the name of the stage that holds them."""
    found = {"items": list(items.read(folders["items"]).pairs)} if "items" in folders else {}
    return found | ({"published": published.read(folders["published"])} if "published" in folders else {})


def _tasks(
    checkpoint: str, out: Path, pairs: Mapping[tuple[str, str], Sequence[Pair]], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """The long ones first; pairs in chunks."""
    work = [tasks.make_task(checkpoint, kind, out) for kind in (tasks.CONTINUE, tasks.PERPLEXITY) if kind in metrics]
    return work + [
        tasks.make_task(
            checkpoint, f"{tasks.PAIRS}:{metric}:{start:06d}", out,
            source=source, metric=metric, start=start, stop=start + CHUNK_PAIRS,
        )
        for (source, metric), asked in pairs.items()
        for start in range(0, len(asked), CHUNK_PAIRS)
    ]  # fmt: skip


def _figures(
    rows: Sequence[dict[str, Any]], out: Path, metrics: Sequence[str], config: EvaluateSettings
) -> dict[str, Any]:
    """One checkpoint's figures: `metrics` (the figure of each metric, then its parts), perplexity, continuations."""
    found: dict[str, Any] = {"metrics": []}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        average = average_of(metric) if metric.partition("-")[0] in KINDS else "items"
        own = [row for row in rows if row["metric"] == metric]
        found["metrics"] += as_rows(summarise_items(own, average, config.interval))
    if tasks.PERPLEXITY in metrics:
        found["perplexity"] = store.read_json(tasks.task_file(out, tasks.PERPLEXITY))
    if tasks.CONTINUE in metrics:
        continued = store.read_json(tasks.task_file(out, tasks.CONTINUE))
        found["continuations"] = {key: value for key, value in continued.items() if key != "samples"}
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
