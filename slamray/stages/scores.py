"""Stages `scores_*`: one checkpoint of the run, measured by every metric that needs nothing from outside the run."""

from __future__ import annotations

from collections.abc import Sequence

from slamray.config.base import Located, part_of
from slamray.config.evaluation import Scored, ScoringSettings
from slamray.config.model import BaseSettings
from slamray.config.tree import Recipe
from slamray.evaluate.metrics import run_metrics
from slamray.speech.encoders.base import EncoderFacts
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages.checkpoints import MODEL
from slamray.stages.scoring import SCORES, CheckpointFacts, JointText, measure
from slamray.stages.vocabulary import vocabulary_of
from slamray.tokens.vocabulary import Vocabulary

SCORING = "scoring"  # group of these stages: their rows share the actors


def stage(recipe: Recipe, checkpoint: Stage, tests: Stage, rows: Stage, spoken: Stage, texts: Stage) -> Stage:
    """Of one checkpoint, on the test items, the validation rows and the validation utterances.

    texts: the stage of the corpus that a model of text and speech reads.
    """
    known = vocabulary_of(recipe)
    settings = {
        "checkpoint": checkpoint.name,
        "metrics": run_metrics(known.is_joint),
        "scoring": part_of(recipe.evaluate, ScoringSettings),
        "encoder": check_encoder(recipe.speech.encoder),
    }
    if known.is_joint:
        settings |= {"vocabulary": known, "base": Located(lambda: None, part_of(recipe.model, BaseSettings))}
        settings["scored"] = recipe.evaluate.scored
    inputs = (checkpoint, tests, rows, spoken, *((texts,) if known.is_joint else ()))
    return Stage(f"scores_{checkpoint.name}", run, settings, inputs, group=SCORING)


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    checkpoint: str,
    metrics: Sequence[str],
    scoring: ScoringSettings,
    encoder: EncoderFacts,
    vocabulary: Vocabulary | None = None,
    base: Located | None = None,
    scored: Scored = "continuation",
) -> CheckpointFacts:
    """Measure a checkpoint, named by its stage; a row for each pair to Parquet.

    vocabulary, base, scored: of text and speech, whose tokeniser is the base's.
    """
    text = JointText(vocabulary, base.place, scored) if vocabulary and base else None
    model = {checkpoint: inputs[checkpoint] / MODEL}
    others = {name: folder for name, folder in inputs.items() if name != checkpoint}
    name = f"scores_{checkpoint}"
    table, facts = measure(name, model, metrics, others, {checkpoint: out}, machine, scoring, encoder, text)
    out.write_table(SCORES, table)
    return facts[checkpoint]
