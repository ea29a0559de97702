"""A training budget as it is written in a recipe: `steps:200`, `tokens:2e6`, `flops:3e18`, `time:23h30m`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from slamray.errors import BadInput

Kind = Literal["steps", "tokens", "flops", "time"]
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True)
class Budget:
    """How much may be spent: `amount` steps, tokens, FLOPs, or seconds of optimiser time (kind "time")."""

    kind: Kind
    amount: float


def parse_budget(text: str, key: str) -> Budget:
    """`steps:200`, `tokens:2e6`, `flops:3e18` or `time:23h30m`; BadInput names the dotted `key`."""
    kind, colon, amount = text.strip().partition(":")
    if colon and kind == "time":
        return Budget("time", parse_seconds(amount, key))
    if not colon or kind not in ("steps", "tokens", "flops"):
        raise BadInput(f"{key}={text!r}: write steps:200, tokens:2e6, flops:3e18 or time:23h30m")
    try:
        number = float(amount)
    except ValueError:
        raise BadInput(f"{key}={text!r}: {amount!r} is not a number of {kind}") from None
    if not (math.isfinite(number) and number > 0):
        raise BadInput(f"{key}={text!r}: a budget must be positive and finite")
    if kind != "flops" and number != int(number):
        raise BadInput(f"{key}={text!r}: {kind} are whole numbers")
    return Budget("steps" if kind == "steps" else "tokens" if kind == "tokens" else "flops", number)


def parse_seconds(text: str, key: str) -> float:
    """`23h30m`, `5m`, `90s`, `1h2m3s` in seconds; BadInput for a bare number, which does not say its unit."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        raise BadInput(f"{key}={text!r}: write a duration like 23h30m, 5m or 90s")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise BadInput(f"{key}={text!r}: a duration must be positive")
    return total


def scaled(budget: Budget, share: float) -> str:
    """A share of a budget, written as `parse_budget` reads it; steps and tokens are rounded up to whole numbers."""
    amount = budget.amount * share
    if budget.kind == "time":
        return f"time:{amount:.12g}s"
    return f"{budget.kind}:{amount:.12g}" if budget.kind == "flops" else f"{budget.kind}:{math.ceil(amount)}"
