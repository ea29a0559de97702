"""What a published scaling law says of a recipe's pre-training, for `--plan`; torch is imported where it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slamray.config.budget import parse_budget
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN
from slamray.evaluate.scaling_law import SPEECH, Use
from slamray.stage.folder import Folder
from slamray.stage.stage import Stage
from slamray.stages import planning
from slamray.stages.checkpoints import PRETRAINED


def lines(recipe: Recipe, stages: Sequence[Stage]) -> list[str]:
    """The law's best use of the recipe's FLOPs beside the recipe's own; none where pre-training is done or no part."""
    known = {stage.name: stage for stage in stages}
    root = Folder(recipe.root)
    if PRETRAINED.stage not in known or known[PRETRAINED.stage].is_done(root):
        return []
    parameters = planning.parameters(recipe)
    flops = budget_flops(recipe, parameters)
    if flops is None:
        return [
            f"scaling law: the FLOPs of {recipe.pretrain.budget} are not known before the machine's speed is; a budget "
            "in tokens or flops, or compute.peak_tflops, gives a prediction"
        ]
    tokens = flops / 6 / parameters
    packed = known["packed"]
    unique = packed.manifest(root)["facts"][TRAIN]["tokens"] if packed.is_done(root) else math.inf
    own = SPEECH.predict(parameters, tokens, unique)
    epochs = f" ({tokens / unique:.1f} epochs)" if tokens > unique else ""
    return [
        f"scaling law for {flops:.2e} FLOPs: {_show(SPEECH.optimum(flops))}; this recipe: {_show(own)}{epochs}",
        "  the law is of Llamas from random weights, 500 units of mHuBERT and recordings (docs/paper.md 5.1): it knows "
        "neither TWIST nor synthetic speech, and losses of other units are others",
    ]


def budget_flops(recipe: Recipe, parameters: int) -> float | None:
    """6 N D of the budget of pre-training; None where it is a time and the peak of the device is not known."""
    budget = parse_budget(recipe.pretrain.budget, "pretrain.budget")
    if budget.kind == "flops":
        return budget.amount
    if budget.kind == "time":
        speed = planning.expected_speed(recipe.compute)
        return None if speed is None else budget.amount * speed
    tokens = budget.amount * (recipe.pretrain.tokens_per_step if budget.kind == "steps" else 1)
    return 6.0 * parameters * tokens


def _show(use: Use) -> str:
    parameters, tokens = (_short(count) for count in (use.parameters, use.tokens))
    return f"{parameters} parameters x {tokens} tokens, {use.loss:.3f} nats a unit"


def _short(count: float) -> str:
    """358M, 1.4B; three digits."""
    for size, sign in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{sign}"
    return f"{count:.0f}"
