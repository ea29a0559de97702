"""Stage `aligned`: the unit LM after DPO on spoken preference pairs."""

from __future__ import annotations

from functools import partial

from slamray.config.compute import Compute
from slamray.config.training import DpoSettings
from slamray.config.tree import Recipe
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine, Metrics, Report
from slamray.stages import planning, preferences
from slamray.stages.checkpoints import ALIGNED, MODEL, PRETRAINED


def stage(recipe: Recipe, pretrained: Stage, pairs: Stage) -> Stage:
    """From the pre-trained checkpoint, on the spoken pairs."""
    return Stage(
        ALIGNED.stage,
        run,
        {"dpo": recipe.dpo},
        (pretrained, pairs),
        cost=lambda: planning.planned_dpo(recipe),
    )


def run(inputs: Inputs, out: Folder, machine: Machine, dpo: DpoSettings) -> Metrics:
    """Align on the training pairs; the held-out ones are scored before and after."""
    model, pairs = inputs[PRETRAINED.stage] / MODEL, inputs["preferences"]
    return machine.train(ALIGNED.stage, partial(_train, dpo, machine.compute, model, pairs, out), out)


def _train(dpo: DpoSettings, compute: Compute, start: Folder, pairs: Folder, out: Folder, report: Report) -> Metrics:
    from slamray.model.saved_vocabulary import read_unit_vocabulary
    from slamray.tokens.vocabulary import FILE, read_vocabulary, reconcile
    from slamray.train.cost import dpo_cost
    from slamray.train.dpo.align import train_dpo

    model = start.fetch()
    if known := read_vocabulary(pairs.fetch(FILE).parent):
        reconcile(read_unit_vocabulary(model, "dpo"), known, str(start), str(pairs))
    training, heldout = preferences.read(pairs, "train"), preferences.read(pairs, "heldout")
    facts = train_dpo(dpo, compute, model, training, heldout, out, report)
    return facts | dpo_cost(dpo, compute.workers, model, training, facts)
