"""Losses as functions of tensors.

Legend: N targets or frames, V classes, B crops, T deduplicated units,
P preference pairs.
Where a batch is spread over ranks, each computes its part of the sum and divides by the count of the whole batch: parts
and gradients then add up to those of one rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from slamray.tokens.rows import IGNORE


def summed_cross_entropy(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """-sum of log softmax(logits)[target] over targets that are not IGNORE, in nats, float32; targets int64."""
    return F.cross_entropy(logits_NV.float(), targets_N, ignore_index=IGNORE, reduction="sum")


def summed_divergence(logits_NV: torch.Tensor, taught_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Sum of KL(softmax(taught) || softmax(logits)) where the target is not IGNORE, in nats, float32."""
    valid_N = targets_N != IGNORE
    own, taught = (logits.float()[valid_N].log_softmax(-1) for logits in (logits_NV, taught_NV))
    return F.kl_div(own, taught, reduction="sum", log_target=True)


def dpo_loss(gains_P2: torch.Tensor, beta: float) -> torch.Tensor:
    """Mean of -log sigmoid(beta (chosen - rejected)): Rafailov et al. 2023, equation 7.

    gains_P2: log-likelihoods of chosen and rejected less those under the reference.
    """
    return -F.logsigmoid(beta * (gains_P2[:, 0] - gains_P2[:, 1])).mean()


def cluster_loss(logits: Sequence[torch.Tensor], targets: Sequence[torch.Tensor], frames: int) -> torch.Tensor:
    """Cross-entropy a frame, the mean over codebooks: HuBERT's L_m or L_u (Hsu et al. 2021, section II-B).

    logits (N, V) and targets int64 (N,), one of each a codebook; frames: of the whole batch.
    """
    parts = [summed_cross_entropy(one, target_N) / frames for one, target_N in zip(logits, targets, strict=True)]
    return torch.stack(parts).mean()


def duration_loss(log_durations_BT: torch.Tensor, durations_BT: torch.Tensor) -> torch.Tensor:
    """Mean of exp(x) - y x: the Poisson likelihood's. Its minimum is the mean, so that the durations add up right."""
    return F.poisson_nll_loss(log_durations_BT, durations_BT)
