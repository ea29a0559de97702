"""Stages `scores_*`: one checkpoint measured: perplexity, every metric's pairs, sampled continuations, their sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from slamray.config.base import part_of
from slamray.config.evaluation import ScoringSettings
from slamray.config.tree import Recipe
from slamray.evaluate.summary import as_rows, summarise_metrics, summarise_parts
from slamray.speech.encoders.base import EncoderFacts
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine, Pool
from slamray.stages import items
from slamray.stages.checkpoints import MODEL
from slamray.stages.tasks import CONTINUE, PAIRS, PERPLEXITY, SCORES, Task

SCORING = "scoring"  # group of these stages: their rows share the actors
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("pair_id", "metric", "part", "item")),
        *((name, pa.float64()) for name in ("ll_chosen", "ll_rejected", "correct")),
    ]
)


@dataclass(frozen=True)
class ScoresFacts:
    """What one checkpoint came to; pairs and parts: summaries by name."""

    perplexity: Mapping[str, float]
    pairs: Mapping[str, Any]
    parts: Mapping[str, Any]
    pairs_without_sound: int
    continuations: Mapping[str, Any]


def stage(recipe: Recipe, checkpoint: Stage, tests: Stage, rows: Stage, spoken: Stage, documents: Stage) -> Stage:
    settings = {
        "checkpoint": checkpoint.name,
        "scoring": part_of(recipe.evaluate, ScoringSettings),
        "encoder": check_encoder(recipe.speech.encoder),
    }
    inputs = (checkpoint, tests, rows, spoken, documents)
    return Stage(f"scores_{checkpoint.name}", run, settings, inputs, group=SCORING)


def run(
    inputs: Inputs, out: Folder, machine: Machine, checkpoint: str, scoring: ScoringSettings, encoder: EncoderFacts
) -> ScoresFacts:
    """Measure a checkpoint, named by its stage; a row for each pair to Parquet."""
    asked = items.read(inputs["items"]).pairs
    model = str(inputs[checkpoint].fetch(MODEL))
    work = [Task(checkpoint, model, CONTINUE, str(out))]
    work += [
        Task(checkpoint, model, PAIRS, str(out), "items", metric)
        for metric in dict.fromkeys(pair.metric for pair in asked)
    ]
    work += [Task(checkpoint, model, PERPLEXITY, str(out))]
    folders = {name: folder for name, folder in inputs.items() if name != checkpoint}
    measure(f"scores_{checkpoint}", work, folders, machine, scoring, encoder)
    rows = [row for task in work if task.kind == PAIRS for row in task.result]
    out.write_table(SCORES, pa.Table.from_pylist(rows, SCHEMA))
    return ScoresFacts(
        perplexity=work[-1].result,
        pairs={row["metric"]: row for row in as_rows(summarise_metrics(rows, scoring.interval))},
        parts={f"{row['metric']}/{row['part']}": row for row in as_rows(summarise_parts(rows, scoring.interval))},
        pairs_without_sound=len(asked) - len(rows),
        continuations=figures_of(work[0].result),
    )


def figures_of(continued: Mapping[str, Any]) -> dict[str, Any]:
    """What continuations came to, without the continuations themselves."""
    return {key: value for key, value in continued.items() if key != "samples"}


def measure(
    name: str,
    work: Sequence[Task],
    folders: Mapping[str, Folder],
    machine: Machine,
    scoring: ScoringSettings,
    encoder: EncoderFacts,
) -> None:
    """Do the tasks that have not left their result yet, in one stream over the score actors.

    What the actors are given (folders, scoring) is equal for all checkpoints of a run, so that these share actors.
    """
    todo = [task for task in work if not task.is_done]
    cuda = machine.compute.device == "cuda"
    args = {
        "folders": dict(folders),
        "scoring": scoring,
        "rate_hz": encoder.rate_hz,
        "vocabulary": encoder.vocabulary,
        "device": "cuda" if cuda else "cpu",
        "batch_tokens": machine.compute.score_batch_tokens,
    }
    pool = Pool("slamray.stages.scores_kernel:Measure", args, machine.compute.score_actors, gpus=1 if cuda else 0)
    machine.rows(name, todo, [pool], len(work), "tasks")
