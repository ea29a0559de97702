"""Stage `trunk`: the stable part of pre-training that runs of several budgets have in common, trained once."""

from __future__ import annotations

import hashlib
import json
from functools import partial

from slamray.config.base import identity
from slamray.config.budget import parse_budget
from slamray.config.training import PretrainSettings
from slamray.config.tree import Recipe
from slamray.stage.folder import Folder
from slamray.stage.stage import MANIFEST, Inputs, Stage, read_manifest
from slamray.stage.work import Machine, Metrics
from slamray.stages import pretraining
from slamray.train.trunk_schedule import trunk_config

STATE = "state"  # in its folder: a checkpoint that training goes on from


def stages(recipe: Recipe, untrained: Stage, rows: Stage) -> tuple[Stage, ...]:
    """The trunk, where the recipe names one."""
    if not recipe.pretrain.trunk:
        return ()
    stable, until = trunk_config(recipe.pretrain)
    settings = {"stable": stable, "until": until}
    cost = f"{until}, shared by all runs whose trunk is {recipe.pretrain.trunk}"
    return (Stage("trunk", run, settings, (untrained, rows), cost=lambda: cost),)


def run(inputs: Inputs, out: Folder, machine: Machine, stable: PretrainSettings, until: str) -> Metrics:
    """Train up to `until`, from the end of the longest shorter trunk that lies beside it: same settings, same inputs.

    What comes out is the same (but for budgets of time, which no two runs spend alike). Only one trunk of a family
    trains at a time.
    """
    family = _family(stable, inputs)
    amount = parse_budget(until, "pretrain.trunk").amount
    with out.parent.claim(f".{family}.lock", wait=True):
        after = longest_shorter(out.parent, family, amount)
        loop = partial(pretraining.train, pretraining.folders(inputs, out), stable, machine.compute, after, until)
        facts = machine.train("trunk", loop, out)
    return facts | {"family": family, "until": amount}


def _family(stable: PretrainSettings, inputs: Inputs) -> str:
    known = [identity(stable), sorted(folder.name for folder in inputs.values())]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def longest_shorter(trunks: Folder, family: str, until: float) -> Folder | None:
    """The state of the finished trunk of a family that ends nearest before `until`; None where there is none."""
    found = [(read_manifest(folder)["facts"], folder) for folder in _finished(trunks)]
    shorter = [one for one in found if one[0]["family"] == family and one[0]["until"] < until]
    shorter = [one for one in shorter if one[1].exists(STATE)]
    return max(shorter, key=lambda one: one[0]["until"])[1] / STATE if shorter else None


def _finished(trunks: Folder) -> list[Folder]:
    return [trunks / name.partition("/")[0] for name in trunks.names(f"*/{MANIFEST}")]
