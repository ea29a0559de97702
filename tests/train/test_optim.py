"""Schedules against transformers' own; optimisers against published code; their state across a restart."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pytorch_optimizer.optimizer.ademamix import AdEMAMix
from pytorch_optimizer.optimizer.lomo import AdaLOMO
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_polynomial_decay_schedule_with_warmup,
    get_wsd_schedule,
)

from slamray.config.training import AdaLomoSettings, AdEMAMixSettings, OptimSettings
from slamray.errors import BadInput
from slamray.train.checkpoint import gather_optimiser, read_optimiser, write_optimiser
from slamray.train.optim import AdaLomo, learning_rate, make_optimiser, set_schedules, slow_mean, state_bytes

STEPS, WARMUP = 400, 40
NAMES = ("adamw", "ademamix", "adalomo")


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
    config = OptimSettings.model_validate({"learning_rate": 1e-3, "warmup_share": WARMUP / STEPS, **fields})
    return [learning_rate(config, step / STEPS) for step in range(STEPS)]


def test_cosine_with_floor_equals_transformers() -> None:
    theirs = _theirs(
        get_cosine_with_min_lr_schedule_with_warmup, num_warmup_steps=WARMUP, num_training_steps=STEPS, min_lr=5e-5
    )
    assert _ours(schedule="cosine", floor_learning_rate=5e-5) == pytest.approx(theirs)


def test_linear_with_floor_equals_transformers() -> None:
    theirs = _theirs(
        get_polynomial_decay_schedule_with_warmup,
        num_warmup_steps=WARMUP,
        num_training_steps=STEPS,
        lr_end=1e-4,
        power=1,
    )
    assert _ours(schedule="linear", floor_learning_rate=1e-4) == pytest.approx(theirs)


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
    config = OptimSettings.model_validate({"schedule": schedule})
    assert learning_rate(config, 1.0) == pytest.approx(config.floor_learning_rate)


def test_no_warmup_starts_at_the_peak() -> None:
    assert learning_rate(OptimSettings(warmup_share=0.0), 0.0) == 1e-3


def test_inverse_square_root_without_warmup_is_refused() -> None:
    with pytest.raises(BadInput, match="warmup_share"):
        learning_rate(OptimSettings(schedule="inverse_sqrt", warmup_share=0.0), 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_biases_and_norms_are_not_decayed(name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    model[0].weight.requires_grad_(True)
    decayed, plain = make_optimiser(
        model, OptimSettings.model_validate({"name": name, "weight_decay": 0.1})
    ).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 3)] and decayed["weight_decay"] == 0.1
    assert len(plain["params"]) == 3 and plain["weight_decay"] == 0.0


def small_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))


def loss_of(model: torch.nn.Module, step: int) -> torch.Tensor:
    return model(torch.tensor([[step % 7, 2, 5]])).pow(3).mean() + sum(p.pow(2).sum() for p in model.parameters())


def test_adalomo_is_the_published_one_step_by_step() -> None:
    """pytorch-optimizer's AdaLOMO follows lomo-optim's: it updates in the backward pass, without clipping here."""
    ours, theirs = small_model(), small_model()
    optimiser = AdaLomo([{"params": list(ours.parameters()), "weight_decay": 0.1}], 0.02, AdaLomoSettings())
    published = AdaLOMO(theirs, lr=0.02, weight_decay=0.1, loss_scale=0.0)
    for step in range(6):
        rate = 0.02 / (1 + step)
        optimiser.param_groups[0]["lr"] = rate
        loss_of(ours, step).backward()
        optimiser.step()
        optimiser.zero_grad()
        published.fused_backward(loss_of(theirs, step), rate)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_adalomos_first_step_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    weight.grad = torch.tensor([[1.0, -2.0]])
    AdaLomo([weight], 0.1, AdaLomoSettings()).step()
    # rows: mean of squares 2.5; columns: 1 and 4; so each entry is divided by its own size: an update of +1 and -1, of
    # root mean square 1, scaled by the weight's, sqrt(12.5)
    step = 0.1 * math.sqrt(12.5)
    torch.testing.assert_close(weight.data, torch.tensor([[3.0 - step, 4.0 + step]]))


def test_ademamix_steps_as_its_paper_writes() -> None:
    """Algorithm 1 of 2409.03137, one number; alpha and beta3 held at their end."""
    config = OptimSettings(
        name="ademamix", ademamix=AdEMAMixSettings(warmup_share=0.0), learning_rate=0.1, warmup_share=0.0
    )
    model = torch.nn.Linear(1, 1, bias=False)
    value = float(model.weight.data)
    optimiser = make_optimiser(model, config)
    fast = slow = square = 0.0
    for step in range(1, 4):
        gradient = float(step)
        model.weight.grad = torch.tensor([[gradient]])
        set_schedules(optimiser, config, 0.0)
        optimiser.step()
        fast = 0.9 * fast + 0.1 * gradient
        slow = 0.9999 * slow + 0.0001 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        mixed = fast / (1 - 0.9**step) + 5.0 * slow
        value -= 0.1 * mixed / (math.sqrt(square / (1 - 0.999**step)) + 1e-8)
        assert float(model.weight.data) == pytest.approx(value, rel=1e-5)


def test_the_slow_means_warm_up_over_progress_is_the_published_one_over_steps() -> None:
    for step in (0, 1, 137, 399, 400):
        alpha, beta3 = slow_mean(AdEMAMixSettings(), 0.9, step / STEPS)
        assert alpha == pytest.approx(AdEMAMix.schedule_alpha(STEPS, step, 5.0))
        assert beta3 == pytest.approx(AdEMAMix.schedule_beta3(STEPS, step, 0.9, 0.9999))
    half = slow_mean(AdEMAMixSettings(warmup_share=0.5), 0.9, 0.5)
    assert half == (5.0, 0.9999)


@pytest.mark.parametrize("name", NAMES)
def test_an_optimiser_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    config = OptimSettings.model_validate({"name": name, "learning_rate": 0.05, "weight_decay": 0.1})

    def train(model: torch.nn.Module, optimiser: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            set_schedules(optimiser, config, step / 8)
            loss_of(model, step).backward()
            optimiser.step()
            optimiser.zero_grad()

    model = small_model()
    optimiser = make_optimiser(model, config)
    train(model, optimiser, 0, 4)
    write_optimiser(tmp_path, gather_optimiser(optimiser, model, 0))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    train(model, optimiser, 4, 8)

    again = small_model()
    again.load_state_dict(weights)
    optimiser_again = make_optimiser(again, config)
    read_optimiser(tmp_path, optimiser_again, again, 0)
    train(again, optimiser_again, 4, 8)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


@pytest.mark.parametrize("name", NAMES)
def test_the_states_size_is_what_the_optimiser_holds(name: str) -> None:
    config = OptimSettings.model_validate({"name": name})
    model = small_model()
    optimiser = make_optimiser(model, config)
    loss_of(model, 0).backward()
    optimiser.step()
    held = sum(v.nbytes for state in optimiser.state.values() for v in state.values() if v.ndim)  # counts have none
    assert state_bytes(config, [tuple(p.shape) for p in model.parameters()]) == held
