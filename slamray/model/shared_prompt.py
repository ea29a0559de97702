"""Two sequences that begin alike as one row: what they share once, the rest of each behind it, unseen by the other.

DPO reads its pairs so, where it leaves about two thirds of the tokens, and evaluation reads a passage with both of its
endings.

Legend: P pairs of a batch, T tokens of a row, K of them whose logits are kept, N scored tokens, V vocabulary; the 2 are
chosen and rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from slamray.model.attention import as_mask
from slamray.tokens.documents import Document

_SHARED, _CHOSEN, _REJECTED, _PADDING = range(4)  # the parts of a row
_UNSEEN = 0  # id at padded places, which no other place sees and no score counts: any id would do


@dataclass(frozen=True)
class Sides:
    """Two sequences whose first `shared` ids are the same."""

    chosen: Document
    rejected: Document
    shared: int

    @property
    def row(self) -> int:
        """Tokens of both, what they share counted once."""
        return len(self.chosen) + len(self.rejected) - self.shared


@dataclass(frozen=True)
class PairRows:
    """A batch of pairs. The places of N are those of the flattened rows (P x T)."""

    ids_PT: torch.Tensor  # int64
    positions_PT: torch.Tensor  # int64; a rejected side's go on where the shared part ends
    parts_PT: torch.Tensor  # int64
    predicted_by_N: torch.Tensor  # int64: the place whose logits predict each scored token
    targets_N: torch.Tensor  # int64: the scored tokens
    sides_N: torch.Tensor  # int64: 2 x pair, and 1 more for a rejected one
    first: int  # place of T before which none predicts a scored token, so that no logits are needed

    def to(self, device: torch.device) -> PairRows:
        moved: dict[str, Any] = {name: v.to(device) if torch.is_tensor(v) else v for name, v in vars(self).items()}
        return PairRows(**moved)


def pair_rows(pairs: Sequence[Sides]) -> PairRows:
    """Rows as long as the longest pair needs; a shared id that is a target counts for both sides."""
    width = max(pair.row for pair in pairs)
    ids_PT, positions_PT = np.full((len(pairs), width), _UNSEEN), np.zeros((len(pairs), width), np.int64)
    parts_PT = np.full((len(pairs), width), _PADDING)
    predicted_by, targets, sides = [], [], []
    for row, pair in enumerate(pairs):
        shared, chosen, rejected = pair.shared, len(pair.chosen), len(pair.rejected)
        ids_PT[row, : pair.row] = np.concatenate([pair.chosen.ids, pair.rejected.ids[shared:]])
        positions_PT[row, : pair.row] = [*range(chosen), *range(shared, rejected)]
        lengths = [shared, chosen - shared, rejected - shared]
        parts_PT[row, : pair.row] = np.repeat([_SHARED, _CHOSEN, _REJECTED], lengths)
        places = np.arange(chosen), np.array([*range(shared), *range(chosen, pair.row)], np.int64)
        for side, document in enumerate((pair.chosen, pair.rejected)):
            scored = np.flatnonzero(document.targets)
            predicted_by.append(row * width + places[side][scored - 1])
            targets.append(document.ids[scored])
            sides.append(np.full(len(scored), 2 * row + side))
    predicted_by_N = np.concatenate(predicted_by)
    return PairRows(
        _tensor(ids_PT),
        _tensor(positions_PT),
        _tensor(parts_PT),
        _tensor(predicted_by_N),
        _tensor(np.concatenate(targets)),
        _tensor(np.concatenate(sides)),
        int((predicted_by_N % width).min()),
    )


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    return torch.as_tensor(array.astype(np.int64))


def side_log_likelihoods(model: nn.Module, rows: PairRows, attention: str, drawn: range | None = None) -> torch.Tensor:
    """Log-likelihoods (P, 2) float64 in nats of both sides, summed over their targets.

    attention: the model's own, one that takes a mask (model.attention.as_mask). drawn: the ids that a target is one of,
    and that alone take part in the softmax; None: all ids.
    """
    width, first = rows.ids_PT.shape[1], rows.first
    logits_PKV = model(
        input_ids=rows.ids_PT,
        position_ids=rows.positions_PT,
        attention_mask=as_mask(visible(rows.parts_PT), attention),
        use_cache=False,
        logits_to_keep=width - first,
    ).logits
    kept_N = rows.predicted_by_N - first * (rows.predicted_by_N // width + 1)
    logits_NV, targets_N = logits_PKV.flatten(0, 1)[kept_N], rows.targets_N
    if drawn is not None:
        logits_NV, targets_N = logits_NV[:, drawn.start : drawn.stop], targets_N - drawn.start
    nll_N = nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")
    sums = torch.zeros(2 * len(rows.ids_PT), dtype=torch.float64, device=nll_N.device)
    return -sums.index_add(0, rows.sides_N, nll_N.double()).view(-1, 2)


def visible(parts_PT: torch.Tensor) -> torch.Tensor:
    """(P, 1, T, T) bool, by place and what it attends to: the shared part and its own, and nothing later."""
    length = parts_PT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=parts_PT.device).tril()
    seen_PTT = (parts_PT[:, :, None] == parts_PT[:, None, :]) | (parts_PT[:, None, :] == _SHARED)
    return (causal_TT & seen_PTT).unsqueeze(1)
