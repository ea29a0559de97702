"""A pair as one row: the prompt once, chosen and rejected behind it, neither of which sees the other.

Both sequences of a pair begin with the same prompt; computed once, it leaves about two thirds of the tokens.

Legend: P pairs of a batch, T tokens of a row, N scored tokens, V vocabulary; the 2 are chosen and rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn

from slamray.config.compute import Compute
from slamray.model.attention import as_mask
from slamray.train.dpo.pairs import PairTokens
from slamray.train.memory import SCORED_AT_ONCE, pair_attention
from slamray.train.ranks import rank_and_world

_PROMPT, _CHOSEN, _REJECTED, _PADDING = range(4)  # the parts of a row
_UNSEEN = 0  # id at padded places, which no other place sees and no score counts: any id would do


@dataclass(frozen=True)
class PairRows:
    """A batch of pairs. The places of N are those of the flattened rows (P x T)."""

    ids_PT: torch.Tensor  # int64
    positions_PT: torch.Tensor  # int64; a rejected side's go on where the prompt's end
    parts_PT: torch.Tensor  # int64
    predicted_by_N: torch.Tensor  # int64: the place whose logits predict each scored token
    targets_N: torch.Tensor  # int64: the scored tokens
    sides_N: torch.Tensor  # int64: 2 x pair, and 1 more for a rejected one

    def to(self, device: torch.device) -> PairRows:
        return PairRows(*(getattr(self, field.name).to(device) for field in fields(self)))


def pair_rows(pairs: Sequence[PairTokens]) -> PairRows:
    """Rows as long as the longest pair needs."""
    width = max(len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs)
    ids_PT, positions_PT = np.full((len(pairs), width), _UNSEEN), np.zeros((len(pairs), width), np.int64)
    parts_PT = np.full((len(pairs), width), _PADDING)
    predicted_by, targets, sides = [], [], []
    for row, pair in enumerate(pairs):
        prompt, chosen, rejected = (len(ids) for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids))
        whole = prompt + chosen + rejected
        ids_PT[row, :whole] = [*pair.prompt_ids, *pair.chosen_ids, *pair.rejected_ids]
        positions_PT[row, :whole] = [*range(prompt + chosen), *range(prompt, prompt + rejected)]
        parts_PT[row, :whole] = np.repeat([_PROMPT, _CHOSEN, _REJECTED], [prompt, chosen, rejected])
        last = row * width + prompt - 1  # the prompt's last place predicts the first token of either side
        predicted_by += [last, *range(last + 1, last + chosen)]
        predicted_by += [last, *range(last + 1 + chosen, last + chosen + rejected)]
        targets += [*pair.chosen_ids, *pair.rejected_ids]
        sides += [2 * row] * chosen + [2 * row + 1] * rejected
    arrays = ids_PT, positions_PT, parts_PT, predicted_by, targets, sides
    return PairRows(*(torch.as_tensor(np.asarray(array, np.int64)) for array in arrays))


def side_log_likelihoods(model: nn.Module, rows: PairRows, attention: str) -> torch.Tensor:
    """Log-likelihoods (P, 2) float64 in nats of both sides given the prompt, summed over their tokens.

    attention: the model's own, one that takes a mask (model.attention.as_mask).
    """
    mask = as_mask(visible(rows.parts_PT), attention)
    logits_PTV = model(
        input_ids=rows.ids_PT, position_ids=rows.positions_PT, attention_mask=mask, use_cache=False
    ).logits
    logits_NV = logits_PTV.flatten(0, 1)[rows.predicted_by_N].float()
    nll_N = nn.functional.cross_entropy(logits_NV, rows.targets_N, reduction="none")
    sums = torch.zeros(2 * len(rows.ids_PT), dtype=torch.float64, device=nll_N.device)
    return -sums.index_add(0, rows.sides_N, nll_N.double()).view(-1, 2)


def visible(parts_PT: torch.Tensor) -> torch.Tensor:
    """(P, 1, T, T) bool, by place and what it attends to: the prompt and its own part, and nothing later."""
    length = parts_PT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=parts_PT.device).tril()
    seen_PTT = (parts_PT[:, :, None] == parts_PT[:, None, :]) | (parts_PT[:, None, :] == _PROMPT)
    return (causal_TT & seen_PTT).unsqueeze(1)


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
        rows = pair_rows([pairs[index] for index in own or order[:batch]]).to(device)
        with autocast(device, compute.precision):
            found_P2 = side_log_likelihoods(model, rows, pair_attention(compute))
        if own:  # else the forward pass was a collective, in which this rank took part
            scores_P2[own] = found_P2
    model.train(training)
    if world > 1:
        dist.all_reduce(scores_P2)
    return scores_P2.cpu().numpy()
