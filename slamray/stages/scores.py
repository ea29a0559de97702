"""Stages `scores_*`: one checkpoint measured: perplexity, every metric's pairs, sampled continuations, their sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slamray import store
from slamray.config import EvaluateConfig
from slamray.evaluate.summary import as_rows, summarise
from slamray.runtime.engine import Engine
from slamray.runtime.pool import Pool, Row
from slamray.stage import Facts, Folders
from slamray.stages import items, tables, training

SCORES = "scores.parquet"
AUDIO = "audio"
SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()), ("metric", pa.string()), ("part", pa.string()),
        ("ll_chosen", pa.float64()), ("ll_rejected", pa.float64()), ("correct", pa.float64()),
    ]
)  # fmt: skip


def _measuring(**args: Any) -> Callable[[Row], Row]:
    from slamray.stages.scores_kernel import Measure  # imported on the actor: the driver loads no torch

    return Measure(**args)


def run(folders: Folders, out: Path, checkpoint: str, config: EvaluateConfig, rate_hz: float, engine: Engine) -> Facts:
    """Measure a checkpoint, named by its stage; per-item scores to Parquet, summaries to the facts."""
    metrics = list(dict.fromkeys(pair.metric for pair in items.read(folders["items"]).pairs))
    tasks = ["continue", *(f"pairs:{metric}" for metric in metrics), "perplexity"]
    todo = [{"task": task} for task in tasks if not task_file(out, task).exists()]
    cuda = engine.compute.device == "cuda"
    if todo:
        args = {
            "model": str(folders[checkpoint] / training.MODEL),
            "folders": {key: str(folder) for key, folder in folders.items()},
            "config": config.model_dump(),
            "rate_hz": rate_hz,
            "out": str(out),
            "device": "cuda" if cuda else "cpu",
        }
        pool = Pool(_measuring, args, engine.compute.score_actors, gpus=1 if cuda else 0)
        engine.stream(f"scores_{checkpoint}", todo, [pool], total=len(tasks), unit="tasks")
    rows = [row for metric in metrics for row in store.read_json(task_file(out, f"pairs:{metric}"))]
    tables.write_table(out / SCORES, pa.Table.from_pylist(rows, SCHEMA))
    parts = [row | {"part": f"{row['metric']}/{row['part']}"} for row in rows if row["part"] != "all"]
    continued = store.read_json(task_file(out, "continue"))
    return {
        "perplexity": store.read_json(task_file(out, "perplexity")),
        "pairs": {row["metric"]: row for row in as_rows(summarise(rows, confidence=config.interval))},
        "parts": {row["metric"]: row for row in as_rows(summarise(parts, by="part", confidence=config.interval))},
        "pairs_without_sound": len(items.read(folders["items"]).pairs) - len(rows),
        "continuations": {key: value for key, value in continued.items() if key != "samples"},
    }


def read(folder: Path) -> list[dict[str, Any]]:
    """One row for each item."""
    rows: list[dict[str, Any]] = pq.read_table(folder / SCORES).to_pylist()
    return rows


def task_file(out: Path, task: str) -> Path:
    """Where a task's result lies."""
    return out / "tasks" / f"{task.replace(':', '-')}.json"
