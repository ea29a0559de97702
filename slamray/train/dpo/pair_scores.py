"""Log-likelihoods of preference pairs before training: of the reference, and of pairs held out.

Shapes: P pairs; the 2 are chosen and rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn

from slamray.config.compute import Compute
from slamray.model.shared_prompt import pair_rows, side_log_likelihoods
from slamray.train.dpo.pairs import PairTokens
from slamray.train.memory import SCORED_AT_ONCE, pair_attention
from slamray.train.ranks import rank_and_world


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[None]:
    """Matrix products in bfloat16 where dtype says so; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")


@torch.no_grad()
def score_pairs(model: nn.Module, pairs: Sequence[PairTokens], compute: Compute) -> npt.NDArray[np.float64]:
    """`side_log_likelihoods` (P, 2) of any number of pairs; the model's attention is pair_attention(compute).

    Under ZeRO 3 every rank makes as many forward passes.

    Batches are formed by length over all pairs and dealt to the ranks of the process group in turn, so the values do
    not depend on their number; every rank gets all of them.
    """
    device = next(model.parameters()).device
    rank, world = rank_and_world()
    batch = SCORED_AT_ONCE * compute.dpo_micro_batch
    order = sorted(range(len(pairs)), key=lambda index: (pairs[index].row, index))
    scores_P2 = torch.zeros(len(pairs), 2, dtype=torch.float64, device=device)
    training = model.training
    model.eval()
    for first in range(0, len(order), world * batch):
        own = order[first + rank * batch :][:batch]
        if not own and compute.zero_stage < 3:
            continue
        rows = pair_rows([pairs[index].sides for index in own or order[:batch]]).to(device)
        with autocast(device, compute.precision):
            found_P2 = side_log_likelihoods(model, rows, pair_attention(compute))
        if own:  # else the forward pass was a collective, in which this rank took part
            scores_P2[own] = found_P2
    model.train(training)
    if world > 1:
        dist.all_reduce(scores_P2)
    return scores_P2.cpu().numpy()
