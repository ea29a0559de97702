"""AdamW, AdEMAMix and AdaLomo, and their schedules as functions of progress: the share of the budget that is spent.

Progress lies in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from slamray.config.training import AdaLomoSettings, AdEMAMixSettings, OptimSettings
from slamray.errors import BadInput
from slamray.model.unit_lm import whole_shape


def learning_rate(config: OptimSettings, progress: float) -> float:
    """Learning rate of the step that starts at `progress`.

    With progress = step / steps these are transformers' schedules: linear warm-up, then
    cosine        get_cosine_with_min_lr_schedule_with_warmup(min_lr=floor)
    linear        get_polynomial_decay_schedule_with_warmup(lr_end=floor, power=1)
    inverse_sqrt  get_inverse_sqrt_schedule with its default time scale, the warm-up: peak * sqrt(warm-up / progress)
    constant      get_constant_schedule_with_warmup
    wsd           get_wsd_schedule(decay_type="1-sqrt"): stable, then decay to the floor over the last decay_share
    """
    assert 0.0 <= progress <= 1.0, progress
    peak, warmup = config.learning_rate, config.warmup_share
    if progress < warmup:
        return peak * progress / warmup
    if config.schedule == "constant":
        return peak
    if config.schedule == "inverse_sqrt":
        if warmup == 0:
            raise BadInput("optim.warmup_share=0: inverse_sqrt takes its time scale from the warm-up; give it a share")
        return peak * math.sqrt(warmup / progress)
    if config.schedule in ("cosine", "linear"):
        share = (progress - warmup) / (1.0 - warmup)
        if config.schedule == "linear":
            return peak + (config.floor_learning_rate - peak) * share
        return config.floor_learning_rate + (peak - config.floor_learning_rate) * 0.5 * (
            1.0 + math.cos(math.pi * share)
        )
    start = config.decay_start
    if progress < start or start == 1.0:
        return peak
    share = (progress - start) / (1.0 - start)
    return config.floor_learning_rate + (peak - config.floor_learning_rate) * (1.0 - math.sqrt(share))


def set_schedules(optimiser: torch.optim.Optimizer, config: OptimSettings, progress: float) -> float:
    """Give the optimiser what the step that starts at `progress` uses; returns the learning rate."""
    rate = learning_rate(config, progress)
    for group in optimiser.param_groups:
        group["lr"] = rate
        if config.name == "ademamix":
            group["alpha"], beta3 = slow_mean(config.ademamix, config.beta1, progress)
            group["betas"] = (config.beta1, config.beta2, beta3)
    return rate


def slow_mean(config: AdEMAMixSettings, beta1: float, progress: float) -> tuple[float, float]:
    """AdEMAMix's alpha and beta3: alpha rises linearly, beta3 from beta1 so that its half-life does (2409.03137, 3)."""
    share = 1.0 if config.warmup_share == 0 else min(1.0, progress / config.warmup_share)
    if share == 1.0 or beta1 == 0 or config.beta3 == 0:
        return config.alpha * share, config.beta3
    log_1, log_3 = math.log(beta1), math.log(config.beta3)
    return config.alpha * share, min(math.exp(log_1 * log_3 / ((1.0 - share) * log_3 + share * log_1)), config.beta3)


def make_optimiser(model: torch.nn.Module, config: OptimSettings) -> torch.optim.Optimizer:
    """The optimiser over the trainable parameters; biases and norms (one dimension) are not decayed, as in HF Trainer.

    AdEMAMix is pytorch-optimizer's, with our warm-up of alpha and beta3 in place of its own, which counts steps: a
    budget need not know its steps. AdaLomo is our own, see there.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if len(whole_shape(p)) >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if len(whole_shape(p)) < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas, rate, epsilon = (config.beta1, config.beta2), config.learning_rate, config.epsilon
    if config.name == "adalomo":
        return AdaLomo(groups, rate, config.adalomo)
    if config.name == "ademamix":
        from pytorch_optimizer.optimizer.ademamix import AdEMAMix  # more than a second, for those who use it

        slow = config.ademamix
        return AdEMAMix(
            groups, rate, (*betas, slow.beta3), alpha=slow.alpha, eps=epsilon, weight_decouple=True, foreach=False
        )
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=epsilon, fused=True)


class AdaLomo(torch.optim.Optimizer):
    """AdaLomo (arXiv 2310.10195, algorithm 1; lomo-optim 0.1.1) as an optimiser that steps on accumulated gradients.

    A matrix's second moment is kept as the means of its rows and of its columns; its update is scaled to a root mean
    square of at most `clip_threshold` and then by the matrix's own root mean square, so that the learning rate is
    relative. The published code updates inside the backward pass, once for each micro-batch, and needs a second pass to
    clip: at odds with accumulation. State: `step` and, float32, `rows` and `columns`, or `square` of vectors.
    """

    def __init__(self, params: Any, lr: float, config: AdaLomoSettings) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})
        self.config = config

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group["lr"], group["weight_decay"])
        return loss

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, lr: float, weight_decay: float) -> None:
        state, config = self.state[parameter], self.config
        if not state:
            state["step"] = torch.tensor(0.0)
            shapes = {"rows": parameter.shape[:-1], "columns": parameter.shape[:-2] + parameter.shape[-1:]}
            for name, shape in shapes.items() if parameter.ndim >= 2 else [("square", parameter.shape)]:
                state[name] = torch.zeros(shape, dtype=torch.float32, device=parameter.device)
        state["step"] += 1
        new_share = float(state["step"]) ** config.decay_rate
        square = gradient.square() + config.epsilon_gradient
        if parameter.ndim >= 2:
            state["rows"].lerp_(square.mean(dim=-1), new_share)
            state["columns"].lerp_(square.mean(dim=-2), new_share)
            rows = (state["rows"] / state["rows"].mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
            update = rows * state["columns"].rsqrt().unsqueeze(-2) * gradient
        else:
            state["square"].lerp_(square, new_share)
            update = state["square"].rsqrt() * gradient
        update /= (_root_mean_square(update) / config.clip_threshold).clamp_(min=1.0)
        step = lr * _root_mean_square(parameter).clamp_(min=config.epsilon_weight)
        if weight_decay:
            parameter.mul_(1.0 - step * weight_decay)
        parameter.sub_(update.mul_(step))


def _root_mean_square(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float().norm(2) / math.sqrt(tensor.numel())


def state_bytes(config: OptimSettings, shapes: Sequence[tuple[int, ...]]) -> int:
    """Bytes of the optimiser's state over parameters of these shapes, float32."""
    sizes = [math.prod(shape) for shape in shapes]
    if config.name == "adalomo":
        numbers = [
            size if len(shape) < 2 else size // shape[-1] + size // shape[-2]
            for shape, size in zip(shapes, sizes, strict=True)
        ]
        return 4 * sum(numbers)
    return 4 * sum(sizes) * (3 if config.name == "ademamix" else 2)


def step_bytes(config: OptimSettings, shapes: Sequence[tuple[int, ...]]) -> int:
    """Bytes of temporary tensors in a step: none in fused AdamW, else of the largest parameter."""
    largest = max(math.prod(shape) for shape in shapes)
    return 4 * largest * {"adamw": 0, "ademamix": 2, "adalomo": 3}[config.name]
