"""Attention that stays inside the pieces of a packed row: three ways, of which the machine decides.

    blockwise   plain matrix products in blocks, fastest in training on CPUs
    varlen      torch's variable-length flash attention, for CUDA; on a CPU its reference
    sdpa        torch's fused attention with a mask, everywhere

Legend: B batch, H heads, G key and value heads, Q queries, K keys, C context, D channels of a head; T = B x C tokens of
all rows one after the other, N + 1 boundaries of pieces in them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

BLOCKWISE, VARLEN = "blockwise", "varlen"
PLANNED_VARLEN = "varlen_planned"  # the kernel whatever the device: for fake tensors, which live on a CPU
_QUERIES = 256  # of a block: 128 and 512 were slower at context 512


def register_attention(name: str) -> str:
    """Make one of our attentions known to transformers; its name, for `attn_implementation`. sdpa is transformers'."""
    ours: dict[str, Callable[..., Any]] = {
        BLOCKWISE: blockwise_attention,
        VARLEN: varlen_attention,
        PLANNED_VARLEN: _planned_varlen_attention,
    }
    if name in ours:
        AttentionInterface.register(name, ours[name])
    return name


def inside_pieces(positions_BC: torch.Tensor, boundaries_N: torch.Tensor, attention: str) -> dict[str, Any]:
    """What a model is called with, beside tokens and positions, so that attention is causal and inside a piece.

    positions restart at 0 with each piece; boundaries are those of tokens.rows.Batch.
    """
    if attention not in (VARLEN, PLANNED_VARLEN):
        return {"attention_mask": piece_mask(positions_BC, attention)}
    context = positions_BC.shape[1]  # not the longest piece: a number that never changes, and needs no look at a tensor
    ends = {"cu_seq_lens_q": boundaries_N, "cu_seq_lens_k": boundaries_N}
    return {"attention_mask": None, **ends, "max_length_q": context, "max_length_k": context}


def piece_mask(positions_BC: torch.Tensor, attention: str) -> torch.Tensor | None:
    """The mask that keeps attention causal and inside a piece; positions restart at 0 with each piece.

    (B, 1, C, C): True where allowed for sdpa, a bf16 bias for blockwise. None where none is needed: sdpa has a causal
    kernel when each row is one piece. transformers would make such a mask from the positions for most models, but not
    for OPT (as of 5.23).
    """
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


def blockwise_attention(
    module: torch.nn.Module,
    queries_BHQD: torch.Tensor,
    keys_BGKD: torch.Tensor,
    values_BGKD: torch.Tensor,
    bias_B1QK: torch.Tensor,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers asks of an attention: output (B, Q, H, D) and no weights. `piece_mask` makes the bias.

    torch's fused CPU kernel is slow in the backward pass. One layer of 8 rows x 512 tokens x 4 heads of 64, bf16, one
    core (EPYC with AVX512-BF16), forward and backward: fused kernel 104 ms, plain matrix products 81 ms, plain
    products in blocks of 256 queries 44 ms.
    """
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


def varlen_attention(
    module: torch.nn.Module,
    queries_BHCD: torch.Tensor,
    keys_BGCD: torch.Tensor,
    values_BGCD: torch.Tensor,
    no_mask: None,
    scaling: float,
    *,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int,
    max_length_k: int,
    planned: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The same for rows whose pieces are given by boundaries; the words after scaling are those of transformers.

    The kernel multiplies in bfloat16 and takes nothing wider, and autocast does not know it: under autocast queries
    and keys come here in float32, from RoPE. The output has the type of the values, as sdpa's has.
    """
    kernel = varlen_attn if planned or queries_BHCD.is_cuda else varlen_reference
    queries_THD, keys_TGD, values_TGD = (
        heads.transpose(1, 2).to(torch.bfloat16, memory_format=torch.contiguous_format).flatten(0, 1)
        for heads in (queries_BHCD, keys_BGCD, values_BGCD)
    )
    output_THD = kernel(
        queries_THD,
        keys_TGD,
        values_TGD,
        cu_seq_lens_q,
        cu_seq_lens_k,
        max_length_q,
        max_length_k,
        scale=scaling,
        window_size=(-1, 0),  # causal
    )
    assert isinstance(output_THD, torch.Tensor)
    rows = queries_BHCD.shape[0]
    return output_THD.unflatten(0, (rows, -1)).to(values_BGCD.dtype), None


def _planned_varlen_attention(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    return varlen_attention(*args, **kwargs, planned=True)


@torch.compiler.disable  # its loop is over pieces, so that each batch would be compiled anew
def varlen_reference(
    queries_THD: torch.Tensor,
    keys_TGD: torch.Tensor,
    values_TGD: torch.Tensor,
    boundaries_q: torch.Tensor,
    boundaries_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """`varlen_attn` in plain matrix products, (T, H, D), on any device and in any type: for CPUs, and to compare with.

    The kernel does not look past max_q; here a longer piece is a programmer's error.
    """
    assert window_size == (-1, 0) and torch.equal(boundaries_q, boundaries_k), "causal attention of a piece to itself"
    groups = queries_THD.shape[1] // keys_TGD.shape[1]
    places = boundaries_q.tolist()
    assert places[0] == 0 and places[-1] == len(queries_THD), "pieces leave no token out"
    outputs = []
    for first, last in itertools.pairwise(places):
        if first == last:  # boundaries are filled up to a constant number
            continue
        assert last - first <= min(max_q, max_k), f"a piece of {last - first} tokens, the most is {max_q}"
        queries_HQD = queries_THD[first:last].transpose(0, 1)
        keys_HDK = keys_TGD[first:last].repeat_interleave(groups, dim=1).permute(1, 2, 0)
        values_HKD = values_TGD[first:last].repeat_interleave(groups, dim=1).transpose(0, 1)
        later_QK = torch.ones(last - first, last - first, dtype=torch.bool, device=queries_THD.device).triu(1)
        scores_HQK = (torch.matmul(queries_HQD, keys_HDK).float() * scale).masked_fill(later_QK, -torch.inf)
        weights_HQK = scores_HQK.softmax(dim=-1).to(values_HKD.dtype)
        outputs.append(torch.matmul(weights_HQK, values_HKD).transpose(0, 1))
    return torch.cat(outputs)
