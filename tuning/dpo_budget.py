"""How much of the budget should be DPO? The total is constant; each point takes a share of it from pre-training.

The paper's figure 5 goes from 0 to 4 h of 24 (docs/paper.md 1.8). With `trunk` the stable part of pre-training is
trained once for all shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from slamray.commands.sweep_space import Axis
from slamray.config.base import Settings
from slamray.config.budget import parse_budget, scaled
from slamray.config.training import BudgetWord


class Space(Settings):
    """Shares of a total for DPO, and settings of DPO to try with each."""

    total: BudgetWord = Field(description="budget of pre-training and DPO together, without validation and scoring")
    shares: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        min_length=1, description="shares of the total for DPO"
    )
    trunk: bool = Field(
        True, description="pre-train with warm-up-stable-decay on a shared trunk; false: with the recipe's schedule"
    )
    betas: tuple[float, ...] = Field((), description="values of dpo.beta, tried with every share; empty: the recipe's")
    learning_rates: tuple[float, ...] = Field((), description="peak learning rates of DPO; empty: the recipe's")
    max_auto_bleus: tuple[float, ...] = Field(
        (), description="values of preferences.max_auto_bleu; empty: the recipe's"
    )


KEYS = {"beta": "dpo.beta", "learning rate": "dpo.optim.learning_rate", "auto-BLEU": "preferences.max_auto_bleu"}


def axes(space: Space) -> list[Axis]:
    """The shares, in percent, and each setting of DPO that has values to try."""
    others = dict(zip(KEYS, (space.betas, space.learning_rates, space.max_auto_bleus), strict=True))
    shares = Axis("DPO", [round(100 * share, 2) for share in space.shares], " % of the budget")
    return [shares, *(Axis(name, values) for name, values in others.items() if values)]


def changes(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's keys at a point. Without DPO its settings do not matter, so they stay the recipe's."""
    total, share = parse_budget(space.total, "sweep.space.total"), values["DPO"] / 100
    trunk = {"pretrain.trunk": space.total, "pretrain.optim.schedule": "wsd"} if space.trunk else {}
    if share == 0:
        return {"pretrain.budget": space.total, **trunk, "dpo.budget": None}
    others = {key: values[name] for name, key in KEYS.items() if name in values}
    return {"pretrain.budget": scaled(total, 1 - share), **trunk, "dpo.budget": scaled(total, share), **others}
