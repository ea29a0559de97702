"""Which learning rate for which batch? Pre-training at a constant budget; a line for each batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from slamray.commands.sweep_space import Axis
from slamray.config.base import Settings

KEYS = {"learning rate": "pretrain.optim.learning_rate", "tokens a step": "pretrain.tokens_per_step"}


class Space(Settings):
    """What may be tried."""

    learning_rates: tuple[float, ...] = Field(min_length=1, description="of pre-training, at its peak")
    tokens_per_step: tuple[int, ...] = Field(min_length=1, description="tokens of a global batch")


def axes(space: Space) -> list[Axis]:
    """Rates from left to right, batches as lines."""
    return [
        Axis(name, values) for name, values in zip(KEYS, (space.learning_rates, space.tokens_per_step), strict=True)
    ]


def changes(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The two settings of a point."""
    return {KEYS[name]: value for name, value in values.items()}
