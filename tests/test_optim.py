"""Schedules against transformers' own, and the optimiser's groups."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_wsd_schedule,
)

from slamray.config import OptimConfig
from slamray.errors import BadInput
from slamray.train.optim import adamw, learning_rate

STEPS, WARMUP = 400, 40


def _theirs(make: object, **arguments: object) -> list[float]:
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = make(optimiser, **arguments)  # type: ignore[operator]
    assert isinstance(schedule, LambdaLR)
    rates = []
    for _ in range(STEPS):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    return rates


def _ours(**fields: object) -> list[float]:
    config = OptimConfig.model_validate({"learning_rate": 1e-3, "warmup_share": WARMUP / STEPS, **fields})
    return [learning_rate(config, step / STEPS) for step in range(STEPS)]


def test_cosine_with_floor_equals_transformers() -> None:
    theirs = _theirs(
        get_cosine_with_min_lr_schedule_with_warmup, num_warmup_steps=WARMUP, num_training_steps=STEPS, min_lr=5e-5
    )
    assert _ours(schedule="cosine", floor_learning_rate=5e-5) == pytest.approx(theirs)


def test_inverse_square_root_equals_transformers() -> None:
    theirs = _theirs(get_inverse_sqrt_schedule, num_warmup_steps=WARMUP)
    assert _ours(schedule="inverse_sqrt") == pytest.approx(theirs)


def test_constant_equals_transformers() -> None:
    assert _ours(schedule="constant") == pytest.approx(
        _theirs(get_constant_schedule_with_warmup, num_warmup_steps=WARMUP)
    )


def test_warmup_stable_decay_equals_transformers_after_the_warmup() -> None:
    # transformers warms up from the floor, we from zero as in the other schedules.
    theirs = _theirs(
        get_wsd_schedule,
        num_warmup_steps=WARMUP,
        num_decay_steps=80,
        num_training_steps=STEPS,
        decay_type="1-sqrt",
        min_lr_ratio=0.05,
    )
    ours = _ours(schedule="wsd", decay_share=0.2, floor_learning_rate=5e-5)
    assert ours[WARMUP:] == pytest.approx(theirs[WARMUP:])


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_schedule_ends_on_its_floor(schedule: str) -> None:
    config = OptimConfig.model_validate({"schedule": schedule})
    assert learning_rate(config, 1.0) == pytest.approx(config.floor_learning_rate)


def test_no_warmup_starts_at_the_peak() -> None:
    assert learning_rate(OptimConfig(warmup_share=0.0), 0.0) == 1e-3


def test_inverse_square_root_without_warmup_is_refused() -> None:
    with pytest.raises(BadInput, match="warmup_share"):
        learning_rate(OptimConfig(schedule="inverse_sqrt", warmup_share=0.0), 0.5)


def test_biases_and_norms_are_not_decayed() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    model[0].weight.requires_grad_(True)
    decayed, plain = adamw(model, OptimConfig(weight_decay=0.1)).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 3)] and decayed["weight_decay"] == 0.1
    assert len(plain["params"]) == 3 and plain["weight_decay"] == 0.0
