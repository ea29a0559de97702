"""What pre-training and DPO will cost, known before any weight is loaded: for `--plan`, and to refuse what cannot fit.

Shapes come from configurations alone. torch is imported where it is used: a finished run does not need it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slamray.config.base import asset_path
from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.config.tree import Recipe
from slamray.stages.vocabulary import vocabulary_of
from slamray.train.spent import fit_pairs, fit_rows, rows_per_step

PAPER_MFU = 0.32  # 6 N tokens a second over the dense bf16 peak, of the paper's A5000 (docs/paper.md 1.5)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from slamray.train.memory import Memory


def unit_shape(recipe: Recipe) -> PreTrainedConfig:
    """The unit LM's configuration; of a family that is known by name, without the hub."""
    from slamray.model.families import FAMILIES, family_config
    from slamray.model.unit_lm import read_lm_config, unit_lm_config

    config = recipe.model
    known = config.base in FAMILIES
    text = family_config(config.base) if known else read_lm_config(asset_path(config.base), config.revision)
    return unit_lm_config(text, vocabulary_of(recipe), config.rope_theta)


def parameters(recipe: Recipe) -> int:
    """Parameters of the unit LM."""
    from slamray.model.unit_lm import count_config_parameters

    return count_config_parameters(unit_shape(recipe))


def memory(recipe: Recipe) -> Memory:
    """Planned memory of one pre-training worker."""
    from slamray.train.memory import planned_memory

    shape = unit_shape(recipe)
    compute = recipe.compute.model_copy(update={"micro_batch": micro_batch(recipe)})
    return planned_memory(shape, recipe.pretrain.optim, compute, recipe.pack.context, recipe.pack.contexts_per_row)


def micro_batch(recipe: Recipe) -> int:
    """Rows that one worker holds at once in pre-training."""
    rows = rows_per_step(recipe.pretrain.tokens_per_step, recipe.pack.row_tokens, "pretrain.tokens_per_step")
    return fit_rows(rows, recipe.pack.contexts_per_row, recipe.compute)


def fit_to_memory(recipe: Recipe) -> Recipe:
    """The recipe with fewer rows and pairs at once, where the device is known to be too small for what is asked for.

    The batch of a step stays what it is. A recipe that does not fit with one row is left for `check_fits` to refuse.
    """
    if recipe.compute.memory_gb is None:
        return recipe
    from slamray.train.memory import GIB

    limit = recipe.compute.memory_gb * GIB
    while micro_batch(recipe) > 1 and memory(recipe).total > limit:
        recipe = _with(recipe, micro_batch=micro_batch(recipe) * recipe.pack.contexts_per_row // 2)
    aligns = recipe.dpo.budget is not None
    while aligns and pairs_at_once(recipe) > 1 and dpo_memory(recipe).total > limit:
        recipe = _with(recipe, dpo_micro_batch=pairs_at_once(recipe) // 2)
    return recipe


def _with(recipe: Recipe, **compute: int) -> Recipe:
    return recipe.model_copy(update={"compute": recipe.compute.model_copy(update=compute)})


def dpo_memory(recipe: Recipe) -> Memory:
    """Planned memory of one worker of DPO."""
    from slamray.train.memory import planned_dpo_memory

    compute = recipe.compute.model_copy(update={"dpo_micro_batch": pairs_at_once(recipe)})
    return planned_dpo_memory(unit_shape(recipe), recipe.dpo, compute)


def pairs_at_once(recipe: Recipe) -> int:
    """Pairs that one worker holds at once in DPO."""
    return fit_pairs(recipe.dpo.pairs_per_step, recipe.compute)


def device_bytes(recipe: Recipe) -> int:
    """What pre-training and DPO are planned to need of a device, the greater of the two."""
    totals = [memory(recipe).total]
    if recipe.dpo.budget is not None:
        totals.append(dpo_memory(recipe).total)
    return max(totals)


def check_fits(recipe: Recipe) -> None:
    """BadInput when a training is planned to need more than a device has, where the profile says what it has."""
    if recipe.compute.memory_gb is None:
        return
    from slamray.train.memory import check_memory

    ceiling = f"compute.micro_batch ({micro_batch(recipe) * recipe.pack.contexts_per_row})"
    check_memory(memory(recipe), recipe.compute, "pre-training", ceiling)
    if recipe.dpo.budget is not None:
        ceiling = f"compute.dpo_micro_batch ({pairs_at_once(recipe)}) or dpo.context ({recipe.dpo.context})"
        check_memory(dpo_memory(recipe), recipe.compute, "DPO", ceiling)


def planned_pretraining(recipe: Recipe) -> str:
    """Tokens, FLOPs and memory of a device, as far as they can be known before the machine's speed is."""
    from slamray.model.unit_lm import attention_flops_per_token

    count = parameters(recipe)
    attention = attention_flops_per_token(unit_shape(recipe), recipe.pack.context)
    pretrain = recipe.pretrain
    spent = spending(pretrain.budget, pretrain.tokens_per_step, count, attention, expected_speed(recipe.compute))
    return f"{spent}; {micro_batch(recipe)} rows at once on each worker; {memory(recipe)}"


def planned_dpo(recipe: Recipe) -> str:
    """Budget, pairs and memory of a device."""
    dpo = recipe.dpo
    pairs = f"{dpo.budget}, {dpo.pairs_per_step} pairs a step; {pairs_at_once(recipe)} pairs at once on each worker"
    return f"{pairs}; {dpo_memory(recipe)}"


def expected_speed(compute: Compute) -> float | None:
    """FLOPs a second of all workers, at the share of their peak that the paper's run reached, where a peak is known."""
    if compute.peak_tflops is None:
        return None
    return compute.workers * compute.peak_tflops * 1e12 * PAPER_MFU


def spending(
    budget: str,
    tokens_per_step: int,
    parameters: int,
    attention_flops_per_token: float,
    flops_per_second: float | None,
) -> str:
    """What a budget comes to: steps, tokens, FLOPs and hours, the last as far as the machine's speed is known.

    FLOPs are 6 N tokens, as the paper's; with attention: over pieces as long as a row, the most that it can be.
    """
    parsed = parse_budget(budget, "budget")
    per_step = 6 * parameters * tokens_per_step
    exact = per_step + attention_flops_per_token * tokens_per_step
    at_speed = f"at {PAPER_MFU:.0%} of the devices' peak, as in the paper"
    if parsed.kind == "time" and flops_per_second is None:
        return (
            f"{budget} of optimiser time; {tokens_per_step:,} tokens and {per_step:.2e} FLOPs a step "
            f"({exact:.2e} with attention)"
        )
    amount = {
        "steps": parsed.amount,
        "tokens": parsed.amount / tokens_per_step,
        "flops": parsed.amount / per_step,
        "time": parsed.amount * (flops_per_second or 0) / per_step,
    }[parsed.kind]
    steps = math.ceil(amount)
    spent = f"{steps:,} steps, {steps * tokens_per_step:,} tokens, {steps * per_step:.2e} FLOPs"
    spent += f" ({steps * exact:.2e} with attention)"
    if parsed.kind == "time":
        return f"{budget} of optimiser time; {at_speed}: about {spent}"
    hours = f", about {steps * per_step / flops_per_second / 3600:,.1f} h {at_speed}" if flops_per_second else ""
    return spent + hours
