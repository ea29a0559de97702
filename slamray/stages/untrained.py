"""Stage `untrained`: the text LM turned into a unit LM (TWIST), before any training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from slamray.config.base import SHAPE
from slamray.config.model import ModelSettings
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import planning
from slamray.stages.checkpoints import MODEL, UNTRAINED


@dataclass(frozen=True)
class UntrainedFacts:
    """parameters: of the unit LM, embeddings included."""

    parameters: int


def stage(recipe: Recipe) -> Stage:
    """From the text LM that `model.base` names; it has no inputs."""
    n_units = check_encoder(recipe.speech.encoder).n_units
    settings: dict[str, Any] = {"model": recipe.model, "n_units": n_units, "seed": recipe.pretrain.seed}
    if recipe.model.base.startswith(SHAPE):
        settings["shape"] = shape_numbers(recipe.model)
    return Stage(
        UNTRAINED.stage,
        run,
        settings,
        cost=lambda: f"{planning.parameters(recipe.model, n_units):,} parameters",
    )


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    model: ModelSettings,
    n_units: int,
    seed: int,
    shape: Any = None,
) -> UntrainedFacts:
    """Build the unit LM on one core, apart from the driver. shape: the numbers that the name of a shape stands for."""
    facts: UntrainedFacts = machine.call(UNTRAINED.stage, partial(_build, model, n_units, seed, out))
    return facts


def _build(model: ModelSettings, n_units: int, seed: int, out: Folder) -> UntrainedFacts:
    from slamray.model.unit_lm import build_unit_lm, count_parameters, save_unit_lm
    from slamray.tokens.vocabulary import Vocabulary

    # Who the units are is not known here: training makes embeddings mean units, and marks the model with the rows'.
    built = build_unit_lm(model, Vocabulary.of_units(n_units), seed)
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
