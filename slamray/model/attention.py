"""Attention that stays inside the pieces of a packed row, and a faster one for training on CPUs.

Legend: B batch, H heads, G key and value heads, Q queries, K keys, C context, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

BLOCKWISE = "blockwise"
_QUERIES = 256  # of a block: 128 and 512 were slower at context 512


def piece_mask(positions_BC: torch.Tensor, attention: str) -> torch.Tensor | None:
    """The mask that keeps attention causal and inside a piece; positions restart at 0 with each piece.

    (B, 1, C, C): True where allowed for sdpa, a bf16 bias for blockwise. None where none is needed: flash attention
    reads the positions, and sdpa has a causal kernel when each row is one piece. transformers would make such a mask
    from the positions for most models, but not for OPT (as of 5.23).
    """
    if attention.startswith("flash"):
        return None
    starts_BC = positions_BC == 0
    if attention == "sdpa" and not starts_BC[:, 1:].any():
        return None
    piece_BC = starts_BC.cumsum(dim=1)
    context = positions_BC.shape[1]
    causal = torch.ones(context, context, dtype=torch.bool, device=positions_BC.device).tril()
    allowed = (causal & (piece_BC[:, :, None] == piece_BC[:, None, :])).unsqueeze(1)
    if attention == "sdpa":
        return allowed
    assert attention == BLOCKWISE, attention
    return torch.zeros(allowed.shape, dtype=torch.bfloat16, device=allowed.device).masked_fill_(~allowed, -torch.inf)


def register_blockwise() -> str:
    """Make blockwise attention known to transformers and return its name, for `attn_implementation`.

    torch's fused CPU kernel is slow in the backward pass. One layer of 8 rows x 512 tokens x 4 heads of 64, bf16, one
    core (EPYC with AVX512-BF16), forward and backward: fused kernel 104 ms, plain matrix products 81 ms, plain
    products in blocks of 256 queries 44 ms.
    """
    AttentionInterface.register(BLOCKWISE, blockwise_attention)
    return BLOCKWISE


def blockwise_attention(
    module: torch.nn.Module,
    queries_BHQD: torch.Tensor,
    keys_BGKD: torch.Tensor,
    values_BGKD: torch.Tensor,
    bias_B1QK: torch.Tensor,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers asks of an attention: output (B, Q, H, D) and no weights. `piece_mask` makes the bias."""
    groups = queries_BHQD.shape[1] // keys_BGKD.shape[1]
    keys_BHDK = keys_BGKD.repeat_interleave(groups, dim=1).transpose(-1, -2)
    values_BHKD = values_BGKD.repeat_interleave(groups, dim=1)
    outputs = []
    for first in range(0, queries_BHQD.shape[2], _QUERIES):
        last = min(first + _QUERIES, queries_BHQD.shape[2])  # no query of this block looks at a later key
        scores = torch.matmul(queries_BHQD[:, :, first:last] * scaling, keys_BHDK[..., :last])
        weights = (scores + bias_B1QK[:, :, first:last, :last]).softmax(dim=-1)
        outputs.append(torch.matmul(weights, values_BHKD[:, :, :last]))
    return torch.cat(outputs, dim=2).transpose(1, 2), None
