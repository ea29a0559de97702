"""What share of the training tokens should be synthetic stories? The rest is recordings, in given proportions.

Table 1 of the paper has three such points; here the total is constant and the share is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from slamray.commands.sweep_space import Axis
from slamray.config.base import Settings


class Space(Settings):
    """Shares of synthetic stories, and how the recordings divide the rest."""

    synthetic: str = Field("stories", description="name of the synthetic source in pack.mixture")
    recordings: dict[str, float] = Field(
        {"recordings": 1.0}, min_length=1, description="the other sources, and their weights relative to each other"
    )
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        min_length=1, description="shares of synthetic stories"
    )


def axes(space: Space) -> list[Axis]:
    """The shares, in percent."""
    return [Axis("stories", [round(100 * share, 2) for share in space.shares], " % of the tokens")]


def changes(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The mixture at a point."""
    share, total = values["stories"] / 100, sum(space.recordings.values())
    others = {name: (1 - share) * weight / total for name, weight in space.recordings.items()}
    return {"pack.mixture": {space.synthetic: share, **others}}
