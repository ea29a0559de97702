"""Stages `scores_*`: one checkpoint of the run, measured by every metric that needs nothing from outside the run."""

from __future__ import annotations

from collections.abc import Sequence

from slamray.config.base import part_of
from slamray.config.evaluation import ScoringSettings
from slamray.config.tree import Recipe
from slamray.evaluate.metrics import run_metrics
from slamray.speech.encoders.base import EncoderFacts
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages.checkpoints import MODEL
from slamray.stages.scoring import SCORES, CheckpointFacts, measure

SCORING = "scoring"  # group of these stages: their rows share the actors


def stage(recipe: Recipe, checkpoint: Stage, tests: Stage, rows: Stage, spoken: Stage) -> Stage:
    """Of one checkpoint, on the test items, the validation rows and the validation utterances."""
    settings = {
        "checkpoint": checkpoint.name,
        "metrics": run_metrics(),
        "scoring": part_of(recipe.evaluate, ScoringSettings),
        "encoder": check_encoder(recipe.speech.encoder),
    }
    inputs = (checkpoint, tests, rows, spoken)
    return Stage(f"scores_{checkpoint.name}", run, settings, inputs, group=SCORING)


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    checkpoint: str,
    metrics: Sequence[str],
    scoring: ScoringSettings,
    encoder: EncoderFacts,
) -> CheckpointFacts:
    """Measure a checkpoint, named by its stage; a row for each pair to Parquet."""
    model = {checkpoint: inputs[checkpoint] / MODEL}
    others = {name: folder for name, folder in inputs.items() if name != checkpoint}
    name = f"scores_{checkpoint}"
    table, facts = measure(name, model, metrics, others, {checkpoint: out}, machine, scoring, encoder)
    out.write_table(SCORES, table)
    return facts[checkpoint]
