"""Stage `untrained`: the text LM turned into a unit LM (TWIST), before any training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from slamray.config.base import SHAPE
from slamray.config.model import ModelSettings
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import planning
from slamray.stages.checkpoints import MODEL, UNTRAINED
from slamray.stages.vocabulary import vocabulary_of
from slamray.tokens.vocabulary import Vocabulary


@dataclass(frozen=True)
class UntrainedFacts:
    """parameters: of the unit LM, embeddings included."""

    parameters: int


def stage(recipe: Recipe) -> Stage:
    """From the text LM that `model.base` names; it has no inputs."""
    settings: dict[str, Any] = {"model": recipe.model, "seed": recipe.pretrain.seed}
    known = vocabulary_of(recipe)
    settings |= {"vocabulary": known} if known.is_joint else {"n_units": known.n_units}
    if recipe.model.base.startswith(SHAPE):
        settings["shape"] = shape_numbers(recipe.model)
    return Stage(
        UNTRAINED.stage,
        run,
        settings,
        cost=lambda: f"{planning.parameters(recipe):,} parameters",
    )


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    model: ModelSettings,
    seed: int,
    n_units: int = 0,
    vocabulary: Vocabulary | None = None,
    shape: Any = None,
) -> UntrainedFacts:
    """Build the LM on one core, apart from the driver.

    vocabulary: of text and units. Without one, who the units are is not known here: training makes embeddings mean
    units, and marks the model with the rows'. shape: the numbers that the name of a shape stands for.
    """
    known = vocabulary or Vocabulary.of_units(n_units)
    facts: UntrainedFacts = machine.call(UNTRAINED.stage, partial(_build, model, known, seed, out))
    return facts


def _build(model: ModelSettings, vocabulary: Vocabulary, seed: int, out: Folder) -> UntrainedFacts:
    from slamray.model.unit_lm import build_unit_lm, count_parameters, save_unit_lm

    built = build_unit_lm(model, vocabulary, seed)
    out.write_tree(MODEL, partial(save_unit_lm, built))
    return UntrainedFacts(count_parameters(built))


def shape_numbers(model: ModelSettings) -> dict[str, Any]:
    """All the numbers that the name of a shape stands for, so that a changed shape is another model."""
    if model.twist:
        raise BadInput(f"model.base={model.base}: a shape has no weights to start from; say model.twist=false")
    from slamray.model.unit_lm import shape_config  # a second that other bases do not need

    shape = shape_config(model.base).to_dict()
    del shape["transformers_version"]
    return shape
