"""Attention that stays inside the pieces of a packed row: three ways, of which the machine decides.

    blockwise   plain matrix products in blocks, fastest in training on CPUs
    varlen      torch's variable-length flash attention, for CUDA; on a CPU its reference
    sdpa        torch's fused attention with a mask, everywhere

Legend: B batch, H heads, G key and value heads, Q queries, K keys, C tokens of a row, D channels of a head; T = B x C
tokens of all rows one after the other, N + 1 boundaries of pieces in them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

BLOCKWISE, VARLEN = "blockwise", "varlen"
PLANNED_VARLEN = "varlen_planned"  # the kernel whatever the device: for fake tensors, which live on a CPU
QUERIES = 256  # of a block: 128 and 512 were slower at context 512


@dataclass(frozen=True)
class Block:
    """Queries first .. last of each row, and the keys that they may look at: begin .. last, less what the bias bars."""

    begin: int
    first: int
    last: int
    bias_B1QK: torch.Tensor  # 0, or minus infinity where a query may not look


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


def inside_pieces(
    positions_BC: torch.Tensor, boundaries_N: torch.Tensor, context: int, attention: str
) -> dict[str, Any]:
    """What a model is called with, beside tokens and positions, so that attention is causal and inside a piece.

    positions restart at 0 with each piece; boundaries and context, most tokens of a piece, are those of
    tokens.rows.Batch.
    """
    if attention == BLOCKWISE:
        return {"attention_mask": None, "blocks": query_blocks(positions_BC)}
    if attention == "sdpa":
        return {"attention_mask": piece_mask(positions_BC)}
    # context, not the longest piece: a number that never changes, and needs no look at a tensor
    ends = {"cu_seq_lens_q": boundaries_N, "cu_seq_lens_k": boundaries_N}
    return {"attention_mask": None, **ends, "max_length_q": context, "max_length_k": context}


def piece_mask(positions_BC: torch.Tensor) -> torch.Tensor | None:
    """(B, 1, C, C) for sdpa, True where a place may look; None where each row is one piece: sdpa has a causal kernel.

    transformers would make such a mask from the positions for most models, but not for OPT (as of 5.23).
    """
    starts_BC = positions_BC == 0
    if not starts_BC[:, 1:].any():
        return None
    piece_BC = starts_BC.cumsum(dim=1)
    context = positions_BC.shape[1]
    causal = torch.ones(context, context, dtype=torch.bool, device=positions_BC.device).tril()
    return (causal & (piece_BC[:, :, None] == piece_BC[:, None, :])).unsqueeze(1)


def query_blocks(positions_BC: torch.Tensor) -> list[Block]:
    """The blocks of queries of all rows, each with the keys that it may need."""
    places_C = torch.arange(positions_BC.shape[1], device=positions_BC.device)
    starts_BC = places_C - positions_BC  # of the piece that a place is in
    blocks = []
    for first in range(0, len(places_C), QUERIES):
        last = min(first + QUERIES, len(places_C))  # no query of this block looks at a later key
        begin = int(starts_BC[:, first].min())  # nor at one before its piece
        keys_K, queries_Q = places_C[begin:last], places_C[first:last]
        allowed_BQK = (keys_K <= queries_Q[:, None]) & (keys_K >= starts_BC[:, first:last, None])
        bias_BQK = torch.zeros(allowed_BQK.shape, dtype=torch.bfloat16, device=places_C.device)
        blocks.append(Block(begin, first, last, bias_BQK.masked_fill_(~allowed_BQK, -torch.inf).unsqueeze(1)))
    return blocks


def as_mask(allowed_B1QK: torch.Tensor, attention: str) -> torch.Tensor:
    """A boolean mask as one of transformers' attentions takes it: itself for sdpa, a bias for eager."""
    if attention == "sdpa":
        return allowed_B1QK
    assert attention == "eager", attention
    return torch.zeros(allowed_B1QK.shape, device=allowed_B1QK.device).masked_fill_(~allowed_B1QK, -torch.inf)


def blockwise_attention(
    module: torch.nn.Module,
    queries_BHCD: torch.Tensor,
    keys_BGCD: torch.Tensor,
    values_BGCD: torch.Tensor,
    no_mask: None,
    scaling: float,
    *,
    blocks: Sequence[Block],
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers asks of an attention: output (B, C, H, D) and no weights. `query_blocks` makes the blocks.

    torch's fused CPU kernel is slow in the backward pass. One layer of 8 rows x 512 tokens x 4 heads of 64, bf16, one
    core (EPYC with AVX512-BF16), forward and backward: fused kernel 104 ms, plain matrix products 81 ms, plain
    products in blocks of 256 queries 44 ms.
    """
    groups = queries_BHCD.shape[1] // keys_BGCD.shape[1]
    keys_BHDC = keys_BGCD.repeat_interleave(groups, dim=1).transpose(-1, -2)
    values_BHCD = values_BGCD.repeat_interleave(groups, dim=1)
    outputs = []
    for block in blocks:
        queries_BHQD = queries_BHCD[:, :, block.first : block.last] * scaling
        scores_BHQK = torch.matmul(queries_BHQD, keys_BHDC[..., block.begin : block.last])
        weights_BHQK = (scores_BHQK + block.bias_B1QK).softmax(dim=-1)
        outputs.append(torch.matmul(weights_BHQK, values_BHCD[:, :, block.begin : block.last]))
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
