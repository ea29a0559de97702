"""The stable part of wsd runs of several budgets, trained once: what it and a run that branches off train with.

Warm-up-stable-decay: MiniCPM (2404.06395, section 4); branches of one trunk: Haegele et al. (2405.18392, section 3).
"""

from __future__ import annotations

from slamray.config.budget import Budget, parse_budget, scaled
from slamray.config.training import OptimSettings, PretrainSettings
from slamray.errors import BadInput


def check_trunk(config: PretrainSettings) -> None:
    """BadInput when a run cannot branch off the trunk that it names."""
    if config.trunk is None:
        return
    budget, trunk = parse_budget(config.budget, "pretrain.budget"), parse_budget(config.trunk, "pretrain.trunk")
    optim = config.optim
    if optim.schedule != "wsd":
        raise BadInput(
            f"pretrain.trunk: a {optim.schedule} schedule has no stable part; say pretrain.optim.schedule=wsd"
        )
    if optim.name == "ademamix":
        raise BadInput("pretrain.trunk: AdEMAMix's own warm-ups last the whole budget; choose adamw or adalomo")
    if trunk.kind != budget.kind or trunk.amount < budget.amount:
        raise BadInput(
            f"pretrain.trunk={config.trunk}: give a budget of the kind of pretrain.budget={config.budget}, not smaller"
        )
    warm = branch_optim(config).warmup_share
    if warm > 1.0 - optim.decay_share:
        raise BadInput(
            f"pretrain.budget={config.budget}: warms up until {warm:.0%} of it, with the trunk {config.trunk}, and "
            f"decays from {1.0 - optim.decay_share:.0%}; raise it, or lower pretrain.optim.warmup_share or decay_share"
        )


def branch_optim(config: PretrainSettings) -> OptimSettings:
    """The schedule of a run that branches off: the trunk's warm-up, as a share of the run's own budget."""
    if config.trunk is None:
        return config.optim
    longer = parse_budget(config.trunk, "pretrain.trunk").amount / parse_budget(config.budget, "pretrain.budget").amount
    return config.optim.model_copy(update={"warmup_share": min(1.0, config.optim.warmup_share * longer)})


def trunk_config(config: PretrainSettings) -> tuple[PretrainSettings, str]:
    """What the stable part is trained with, and where it ends: at the decay's start of the run's own budget.

    The first is the same for every budget of one trunk: its learning rate is a function of the share of the trunk that
    is spent, so that it does not matter in how many pieces the trunk is trained.
    """
    assert config.trunk is not None
    budget: Budget = parse_budget(config.budget, "pretrain.budget")
    optim = config.optim
    stable = optim.model_copy(update={"schedule": "constant", "decay_share": 1.0, "floor_learning_rate": 0.0})
    return (
        config.model_copy(update={"budget": config.trunk, "trunk": None, "optim": stable}),
        scaled(budget, branch_optim(config).decay_start),
    )
