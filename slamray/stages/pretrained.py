"""Stage `pretrained`: the unit LM after pre-training on packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from slamray.config.training import PretrainSettings
from slamray.config.tree import Recipe
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine, Metrics
from slamray.stages import planning, pretraining
from slamray.stages.checkpoints import PRETRAINED
from slamray.stages.trunk import STATE


def stage(recipe: Recipe, untrained: Stage, rows: Stage, trunk: Sequence[Stage]) -> Stage:
    """From the untrained checkpoint and the rows, by way of a trunk where there is one."""
    return Stage(
        PRETRAINED.stage,
        run,
        {"pretrain": recipe.pretrain},
        (untrained, rows, *trunk),
        cost=lambda: planning.planned_pretraining(recipe),
    )


def run(inputs: Inputs, out: Folder, machine: Machine, pretrain: PretrainSettings) -> Metrics:
    """Pre-train; where there is a trunk, from its end."""
    after = inputs["trunk"] / STATE if "trunk" in inputs else None
    loop = partial(pretraining.train, pretraining.folders(inputs, out), pretrain, machine.compute, after, None)
    return machine.train(PRETRAINED.stage, loop, out)
