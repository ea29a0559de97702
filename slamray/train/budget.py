"""What a training has spent, and the share of its budget that this is."""

from __future__ import annotations

from dataclasses import dataclass

from slamray.config.budget import Budget
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


def accumulation_steps(tokens_per_step: int, micro_batch: int, context: int, workers: int, keys: str) -> int:
    """Micro-batches of one worker in one optimiser step: the one place where this number is derived.

    `keys` names the dotted keys for the message when the numbers do not divide.
    """
    at_once = micro_batch * context * workers
    if tokens_per_step % at_once or tokens_per_step < at_once:
        raise BadInput(
            f"{keys}: tokens_per_step={tokens_per_step} is not a multiple of "
            f"micro_batch {micro_batch} x context {context} x workers {workers} = {at_once}; change one of them"
        )
    return tokens_per_step // at_once
