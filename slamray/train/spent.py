"""What a training has spent, and the share of its budget that this is."""

from __future__ import annotations

from dataclasses import dataclass

from slamray.config.budget import Budget
from slamray.config.compute import Compute
from slamray.errors import BadInput


@dataclass(frozen=True)
class Spent:
    """What was spent so far, over all restarts. Seconds are optimiser time: no validation, checkpoint or start-up."""

    steps: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def plus(self, tokens: int, flops: float, seconds: float) -> Spent:
        """One optimiser step more."""
        return Spent(self.steps + 1, self.tokens + tokens, self.flops + flops, self.seconds + seconds)


def progress(budget: Budget, spent: Spent) -> float:
    """Share of the budget that is spent, in [0, 1]; schedules are functions of this number."""
    amounts = {"steps": spent.steps, "tokens": spent.tokens, "flops": spent.flops, "time": spent.seconds}
    return min(1.0, amounts[budget.kind] / budget.amount)


def rows_per_step(tokens_per_step: int, row_tokens: int, key: str) -> int:
    """Packed rows in an optimiser step. `key` names tokens_per_step for the message when the numbers do not divide."""
    rows, rest = divmod(tokens_per_step, row_tokens)
    if rest or not rows:
        raise BadInput(
            f"{key}={tokens_per_step} is no multiple of a row's {row_tokens} tokens (pack.context x "
            "pack.contexts_per_row); change one of them"
        )
    return rows


def fit_rows(rows_per_step: int, contexts_per_row: int, compute: Compute) -> int:
    """The micro-batch of pre-training, in rows; compute.micro_batch bounds it in contexts."""
    return fit_micro_batch(rows_per_step, max(1, compute.micro_batch // contexts_per_row), compute.workers)


def fit_micro_batch(batch: int, at_most: int, workers: int) -> int:
    """The largest divisor of a step's batch (rows or pairs) that is at most `at_most` and gives every worker one.

    1 where there are more workers than rows: those without one repeat another's, which then counts 0
    (tokens/sampler.py). The one place where this number is derived. It follows from the recipe and the profile alone,
    so that a run that goes on with fewer workers keeps its micro-batches.
    """
    return max(size for size in range(1, max(1, min(at_most, batch // workers)) + 1) if batch % size == 0)


def fit_pairs(pairs_per_step: int, compute: Compute) -> int:
    """The micro-batch of DPO, in which every pair counts once: the workers must share a step evenly."""
    share, rest = divmod(pairs_per_step, compute.workers)
    if rest or not share:
        raise BadInput(f"dpo.pairs_per_step={pairs_per_step} is no multiple of compute.workers={compute.workers}")
    return fit_micro_batch(share, compute.dpo_micro_batch, 1)
