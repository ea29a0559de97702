"""Which learning rate for which batch? Pre-training at a constant budget; a line for each batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from slamray.commands.sweep_space import Axis
from slamray.config.base import Settings

KEYS = {"learning rate": "pretrain.optim.learning_rate", "tokens a step": "pretrain.tokens_per_step"}


class Space(Settings):
    """Learning rates, and batches to try each with."""

    learning_rates: tuple[float, ...] = Field(min_length=1, description="peak learning rates of pre-training")
    tokens_per_step: tuple[int, ...] = Field(min_length=1, description="sizes of a global batch in tokens")


def axes(space: Space) -> list[Axis]:
    """Learning rates from left to right, batches as lines."""
    return [
        Axis(name, values) for name, values in zip(KEYS, (space.learning_rates, space.tokens_per_step), strict=True)
    ]


def changes(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The two settings at a point."""
    return {KEYS[name]: value for name, value in values.items()}
