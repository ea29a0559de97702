"""What a model of text and speech will read, for `--plan`: tokens, epochs and share of each kind and source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slamray.config.shares import Reading, is_read, resolve
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN
from slamray.stage.folder import Folder
from slamray.stage.stage import Stage
from slamray.stages import joint_rows


def lines(recipe: Recipe, stages: Sequence[Stage]) -> list[str]:
    """A line for each kind and source; none of a model of units alone. What is not made yet has no number of tokens."""
    if not recipe.joint.kinds:
        return []
    root, known = Folder(recipe.root), {stage.name: stage for stage in stages}
    there: dict[str, int | None] = {}
    if "packed" in known and known["packed"].is_done(root):
        sources: Mapping[str, Mapping[str, int]] = known["packed"].manifest(root)["facts"][TRAIN]["sources"]
        there = {name: source["tokens"] for name, source in sources.items()}
    shares = {name: share for name, share in recipe.joint.kinds.items() if is_read(share)}
    readings = resolve(shares, there, joint_rows.budget_tokens(recipe) or _flops_tokens(recipe))
    head = "what it reads: share of the tokens, tokens, epochs of what there is"
    return [head, *(f"  {_line(one)}" for one in readings)]


def _flops_tokens(recipe: Recipe) -> float | None:
    """Tokens of a budget in FLOPs, or in time where the machine's speed is known."""
    from slamray.stages import planning, prediction

    parameters = planning.parameters(recipe)
    flops = prediction.budget_flops(recipe, parameters)
    return None if flops is None else flops / 6 / parameters


def _line(one: Reading) -> str:
    share = "?" if one.share is None else f"{100 * one.share:.2f} %"
    read = f"?, as {'its share' if one.share is None else 'the speed of the machine'} is not known yet"
    if one.read is not None:
        read = f"{one.read:,.0f} tokens"
    if one.tokens is None:
        return f"{one.name:<24}{share:>9}  {read}; how many there are is known when they are made"
    epochs = "" if one.epochs is None else f", {one.epochs:.2f} epochs"
    return f"{one.name:<24}{share:>9}  {read} of {one.tokens:,}{epochs}"
