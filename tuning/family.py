"""Which model learns most from equal FLOPs? The paper's figures 2 and 3, by size, with text weights or without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from slamray.commands.sweep_space import Axis
from slamray.config.base import Settings


class Space(Settings):
    """What may be tried."""

    flops: str = Field(pattern=r"^flops:", description="of pre-training, the same for all")
    families: dict[str, dict[str, Any]] = Field(min_length=1, description="name: {dotted key: value} of model")


def axes(space: Space) -> list[Axis]:
    """Families by name."""
    return [Axis("family", list(space.families))]


def changes(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The model of a point."""
    return {"pretrain.budget": space.flops, **space.families[values["family"]]}
