"""AdamW and learning-rate schedules as functions of progress: the share of the budget that is spent, in [0, 1]."""

from __future__ import annotations

import math

import torch

from slamray.config import OptimConfig
from slamray.errors import BadInput


def learning_rate(config: OptimConfig, progress: float) -> float:
    """Learning rate of the step that starts at `progress`.

    With progress = step / steps these are transformers' schedules: linear warm-up, then
    cosine        get_cosine_with_min_lr_schedule_with_warmup(min_lr=floor)
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
    if config.schedule == "cosine":
        share = (progress - warmup) / (1.0 - warmup)
        return config.floor_learning_rate + (peak - config.floor_learning_rate) * 0.5 * (
            1.0 + math.cos(math.pi * share)
        )
    decay_start = max(warmup, 1.0 - config.decay_share)
    if progress < decay_start or decay_start == 1.0:
        return peak
    share = (progress - decay_start) / (1.0 - decay_start)
    return config.floor_learning_rate + (peak - config.floor_learning_rate) * (1.0 - math.sqrt(share))


def adamw(model: torch.nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases and norms (one dimension) are not decayed, as in HF Trainer."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
