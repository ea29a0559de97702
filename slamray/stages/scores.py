"""Stages `scores_*`: one checkpoint measured: perplexity, every metric's pairs, sampled continuations, their sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from slamray.config.compute import Compute
from slamray.config.evaluation import EvaluateSettings
from slamray.evaluate.summary import as_rows, summarise
from slamray.stage import store, tables
from slamray.stage.stage import Asking, Folders
from slamray.stage.work import Pool, Row, Stream
from slamray.stages import items, tasks, training
from slamray.tokens.vocabulary import Vocabulary

SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()), ("metric", pa.string()), ("part", pa.string()),
        ("item", pa.string()),
        ("ll_chosen", pa.float64()), ("ll_rejected", pa.float64()), ("correct", pa.float64()),
    ]
)  # fmt: skip


def _measuring(**args: Any) -> Callable[[Row], Row]:
    from slamray.stages.scores_kernel import Measure  # imported on the actor: the driver loads no torch

    return Measure(**args)


def run(
    folders: Folders,
    out: Path,
    checkpoint: str,
    config: EvaluateSettings,
    rate_hz: float,
    vocabulary: Vocabulary,
    compute: Compute,
) -> Asking:
    """Measure a checkpoint, named by its stage; per-item scores to Parquet, summaries to the facts."""
    metrics = list(dict.fromkeys(pair.metric for pair in items.read(folders["items"]).pairs))
    work = [tasks.make_task(checkpoint, tasks.CONTINUE, out)]
    work += [
        tasks.make_task(checkpoint, f"{tasks.PAIRS}:{metric}", out, source="items", metric=metric, start=0, stop=-1)
        for metric in metrics
    ]
    work += [tasks.make_task(checkpoint, tasks.PERPLEXITY, out)]
    models = {checkpoint: folders[checkpoint] / training.MODEL}
    shared = {name: folder for name, folder in folders.items() if name != checkpoint}
    yield from measure(f"scores_{checkpoint}", work, models, shared, config, rate_hz, vocabulary, compute)
    rows = [row for metric in metrics for row in store.read_json(tasks.task_file(out, f"{tasks.PAIRS}:{metric}"))]
    tables.write_table(out / tasks.SCORES, pa.Table.from_pylist(rows, SCHEMA))
    parts = [row | {"part": f"{row['metric']}/{row['part']}"} for row in rows if row["part"] != "all"]
    continued = store.read_json(tasks.task_file(out, tasks.CONTINUE))
    return {
        "perplexity": store.read_json(tasks.task_file(out, tasks.PERPLEXITY)),
        "pairs": {row["metric"]: row for row in as_rows(summarise(rows, confidence=config.interval))},
        "parts": {row["metric"]: row for row in as_rows(summarise(parts, by="part", confidence=config.interval))},
        "pairs_without_sound": len(items.read(folders["items"]).pairs) - len(rows),
        "continuations": {key: value for key, value in continued.items() if key != "samples"},
    }


def measure(
    name: str,
    work: Sequence[dict[str, Any]],
    models: Mapping[str, Path],
    folders: Folders,
    config: EvaluateSettings,
    rate_hz: float,
    vocabulary: Vocabulary,
    compute: Compute,
) -> Iterator[Stream]:
    """Do the tasks that have not left their result yet, in one stream over the score actors. models: by checkpoint.

    rate_hz, vocabulary: of the encoder that heard what is scored; a model of other units is refused.
    What the actors are given (folders, config) is equal for all checkpoints of a run, so that these share actors.
    """
    todo = [task | {"model": str(models[task["checkpoint"]])} for task in work if not tasks.is_done(task)]
    if todo:
        cuda = compute.device == "cuda"
        args = {
            "folders": {key: str(folder) for key, folder in folders.items()},
            "config": config.model_dump(),
            "rate_hz": rate_hz,
            "vocabulary": vocabulary.to_json(),
            "device": "cuda" if cuda else "cpu",
            "batch_tokens": compute.score_batch_tokens,
        }
        pool = Pool(_measuring, args, compute.score_actors, gpus=1 if cuda else 0)
        yield Stream(name, todo, [pool], total=len(work), unit="tasks")
