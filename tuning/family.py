"""Which model learns most from equal FLOPs? The paper's figures 2 and 3: by family, size and initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from slamray.commands.sweep_space import Axis
from slamray.config.base import Settings


class Space(Settings):
    """Models, and the FLOPs that each may spend."""

    flops: str = Field(pattern=r"^flops:", description="budget of pre-training, the same for all models")
    families: dict[str, dict[str, Any]] = Field(
        min_length=1, description="{name: {dotted key: value}}, the settings of each model"
    )


def axes(space: Space) -> list[Axis]:
    """The models, by name."""
    return [Axis("family", list(space.families))]


def changes(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The model at a point."""
    return {"pretrain.budget": space.flops, **space.families[values["family"]]}
