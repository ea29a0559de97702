"""A piece of a packed row does not depend on the others, on every path of attention and in every family of models.

The check is the same for all paths: change the tokens of the first piece of each row and look at the logits of the
others. What it is worth is shown by two attentions that look at the whole row: it must notice them.

Legend: B rows, C context, V vocabulary, T tokens of all rows, H heads, G key and value heads, D channels of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from support.families import SMALL
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.integrations.flash_attention import flash_attention_forward

from slamray.model import attention as ours
from slamray.model.attention import BLOCKWISE, VARLEN, inside_pieces, register_attention, varlen_reference
from slamray.model.unit_lm import unit_lm_config
from slamray.tokens.documents import Document
from slamray.tokens.packing import pack
from slamray.tokens.rows import Batch, RowStore, write_rows
from slamray.tokens.vocabulary import Vocabulary

CONTEXT, LONG = 64, 5 * 64
UNITS = Vocabulary.of_units(20)
PATHS = ["sdpa", VARLEN, BLOCKWISE]
Inside = Callable[[torch.Tensor, torch.Tensor], dict[str, Any]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> RowStore:
    """Three rows of pieces of 50 and 10, of 44 and 20, and of 30, 20 and 10 tokens; two end in padding."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    documents = [Document(rng.integers(2, 22, n).astype(np.uint16)) for n in (50, 44, 30, 20, 20, 10, 10)]
    write_rows(folder, documents, UNITS, CONTEXT)
    store = RowStore(folder)
    assert store.rows == 3 and np.diff(store.offsets).min() >= 2
    return store


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> RowStore:
    """Two rows of five contexts, more than a block of queries; pieces of at most one, padding of more."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(0)
    documents = [Document(rng.integers(2, 22, n).astype(np.uint16)) for n in (64, 60, 50, 44, 40, 33, 30, 20, 20, 10)]
    packing = pack(np.array([len(document) for document in documents]), CONTEXT, LONG)
    write_rows(folder, documents, UNITS, packing)
    store = RowStore(folder)
    assert store.rows == 2 and store.row_tokens == LONG and LONG - store.tokens_R[1] > 2 * CONTEXT
    return store


def model_of(family: str, attention: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = unit_lm_config(SMALL[family], UNITS)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=register_attention(attention)).eval()
    for parameter in model.parameters():  # as families begin, OPT's attention hardly shows in its logits
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.2)
    return model


def logits_of(model: torch.nn.Module, inputs: np.ndarray, batch: Batch, inside: Inside) -> torch.Tensor:
    positions_BC, boundaries_N = torch.from_numpy(batch.positions), torch.from_numpy(batch.boundaries)
    words = inside(positions_BC, boundaries_N)
    with torch.no_grad():
        tokens_BC = torch.from_numpy(inputs)
        return model(input_ids=tokens_BC, position_ids=positions_BC, use_cache=False, **words).logits


def moved(model: torch.nn.Module, store: RowStore, inside: Inside, which: list[int]) -> tuple[float, float]:
    """The greatest change of a logit in the first pieces, and in all others, when the tokens of the first change."""
    batch = store.batch(np.array(which))
    first_BC = np.arange(store.row_tokens) < store.lengths_P[store.offsets[which]][:, None]
    changed = np.where(first_BC, (batch.inputs - 2 + 7) % 20 + 2, batch.inputs)
    change_BCV = logits_of(model, changed, batch, inside) - logits_of(model, batch.inputs, batch, inside)
    first = torch.from_numpy(first_BC)
    return change_BCV[first].abs().max().item(), change_BCV[~first].abs().max().item()


def inside_of(attention: str) -> Inside:
    return lambda positions_BC, boundaries_N: inside_pieces(positions_BC, boundaries_N, CONTEXT, attention)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("attention", PATHS)
def test_a_piece_does_not_change_when_the_piece_before_it_does(rows: RowStore, family: str, attention: str) -> None:
    first, others = moved(model_of(family, attention), rows, inside_of(attention), [0, 1, 2])
    assert first > 1.0 and others == 0.0


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("attention", PATHS)
def test_nor_in_rows_of_several_contexts(long_rows: RowStore, family: str, attention: str) -> None:
    first, others = moved(model_of(family, attention), long_rows, inside_of(attention), [0, 1])
    assert first > 1.0 and others == 0.0


@pytest.mark.parametrize("attention", ["sdpa", BLOCKWISE])
def test_a_piece_of_a_long_row_has_the_logits_that_it_has_alone(long_rows: RowStore, attention: str) -> None:
    model, batch = model_of("qwen2", attention), long_rows.batch(np.arange(2))
    logits_BCV = logits_of(model, batch.inputs, batch, inside_of(attention))
    alone = model_of("qwen2", "eager")
    found = [logits_BCV[row, : long_rows.tokens_R[row]] for row in range(2)]
    with torch.no_grad():
        expected = [alone(torch.from_numpy(piece.ids.astype(np.int64))[None]).logits[0] for piece in long_rows.pieces()]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), atol=1e-4, rtol=1e-4)


def causal_over_the_row(module: Any, queries: Any, keys: Any, values: Any, mask: Any, **words: Any) -> Any:
    groups = queries.shape[1] // keys.shape[1]
    keys, values = (heads.repeat_interleave(groups, dim=1) for heads in (keys, values))
    output = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=words["scaling"])
    return output.transpose(1, 2), None


@pytest.mark.parametrize("family", SMALL)
def test_the_check_notices_attention_that_sees_the_whole_row(rows: RowStore, family: str) -> None:
    AttentionInterface.register("whole_row", causal_over_the_row)
    first, others = moved(model_of(family, "whole_row"), rows, inside_of(VARLEN), [0, 1, 2])
    assert first > 1.0 and others > 1.0


def flash_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' flash attention as it is, over stand-ins for the two functions of the package that it calls."""

    def one_piece_a_row(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float, **_: Any) -> Any:
        return causal_over_the_row(None, *(x.transpose(1, 2) for x in (q, k, v)), None, scaling=softmax_scale)[0]

    def by_boundaries(q: Any, k: Any, v: Any, cu_seqlens_q: Any, softmax_scale: float, **_: Any) -> torch.Tensor:
        most = len(q)
        ends = cu_seqlens_q, cu_seqlens_q
        return varlen_reference(q, k, v, *ends, most, most, scale=softmax_scale, window_size=(-1, 0))

    def loaded(*_: Any) -> Any:
        return (one_piece_a_row, by_boundaries, None, None, None), (lambda **words: words, None)

    monkeypatch.setattr(flash, "lazy_import_flash_attention", loaded)
    AttentionInterface.register("by_positions", flash_attention_forward)


def test_the_check_notices_transformers_flash_path_which_goes_by_positions_at_batch_size_1_alone(
    rows: RowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash_on_a_cpu(monkeypatch)
    model = model_of("qwen2", "by_positions")
    by_positions: Inside = lambda positions_BC, boundaries_N: {"attention_mask": None}  # noqa: E731
    assert all(moved(model, rows, by_positions, [row])[1] == 0.0 for row in range(3))
    assert moved(model, rows, by_positions, [0, 1, 2])[1] > 0.01
    assert moved(model, rows, inside_of(VARLEN), [0, 1, 2])[1] == 0.0


def random_heads(tokens: int, heads: int, groups: int, width: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(tokens, n, width, generator=generator, dtype=torch.float64) for n in (heads, groups, groups)
    )


def test_the_reference_is_a_plain_softmax_over_each_piece_alone() -> None:
    queries_THD, keys_TGD, values_TGD = random_heads(12, 4, 2, 8)
    ends = torch.tensor([0, 5, 6, 12, 12, 12], dtype=torch.int32)
    found_THD = varlen_reference(queries_THD, keys_TGD, values_TGD, ends, ends, 64, 64, scale=0.3, window_size=(-1, 0))
    for first, last in ((0, 5), (5, 6), (6, 12)):
        for head in range(4):
            for place in range(first, last):
                scores = [
                    float(queries_THD[place, head] @ keys_TGD[t, head // 2]) * 0.3 for t in range(first, place + 1)
                ]
                shares = np.exp(scores) / np.exp(scores).sum()
                expected = sum(share * values_TGD[first + t, head // 2] for t, share in enumerate(shares))
                torch.testing.assert_close(found_THD[place, head], expected, rtol=1e-6, atol=1e-6)


def test_the_reference_refuses_pieces_that_the_kernel_would_cut() -> None:
    heads = random_heads(12, 4, 2, 8)
    for ends, most in (([0, 12], 11), ([0, 11], 64)):
        tensor = torch.tensor(ends, dtype=torch.int32)
        with pytest.raises(AssertionError):
            varlen_reference(*heads, tensor, tensor, most, most, scale=1.0, window_size=(-1, 0))


def test_the_reference_takes_what_torchs_kernel_takes() -> None:
    ours_, theirs = (list(inspect.signature(one).parameters.values()) for one in (varlen_reference, varlen_attn))
    assert len([p for p in ours_ if p.kind is p.POSITIONAL_OR_KEYWORD]) == 7
    assert [p.kind for p in ours_[:7]] == [p.kind for p in theirs[:7]]
    assert {p.name for p in ours_[7:]} == {"scale", "window_size"} <= {p.name for p in theirs[7:]}


@pytest.mark.parametrize("autocast", [True, False])
def test_the_kernel_gets_bfloat16_and_constant_numbers_whatever_the_model_computes_in(
    rows: RowStore, monkeypatch: pytest.MonkeyPatch, autocast: bool
) -> None:
    seen: list[tuple[Any, ...]] = []

    def spy(*heads: torch.Tensor, **words: Any) -> torch.Tensor:
        seen.append((*(one.dtype for one in heads[:3]), len(heads[3]), *heads[5:]))
        return varlen_reference(*heads, **words)

    monkeypatch.setattr(ours, "varlen_reference", spy)
    model, types = model_of("qwen2", VARLEN), []
    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _, args: types.append(args[0].dtype))
    for which in ([0, 1], [1, 2]):
        batch = rows.batch(np.array(which))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits_of(model, batch.inputs, batch, inside_of(VARLEN))
    wide = 2 * rows.most_pieces + 1
    assert set(seen) == {(*[torch.bfloat16] * 3, wide, CONTEXT, CONTEXT)} and len(seen) == 2 * 2
    assert set(types) == {torch.bfloat16 if autocast else torch.float32}


@pytest.mark.parametrize("family", SMALL)
def test_varlen_is_sdpa_with_our_mask_up_to_bfloat16(rows: RowStore, family: str) -> None:
    """Logits and gradients; bfloat16 keeps 8 bits, so a few thousandths of a size."""
    batch = rows.batch(np.arange(3))
    found = []
    for attention in ("sdpa", VARLEN):
        model = model_of(family, attention)
        positions_BC, boundaries_N = torch.from_numpy(batch.positions), torch.from_numpy(batch.boundaries)
        words = inside_pieces(positions_BC, boundaries_N, CONTEXT, attention)
        tokens_BC = torch.from_numpy(batch.inputs)
        logits_BCV = model(input_ids=tokens_BC, position_ids=positions_BC, use_cache=False, **words).logits
        logits_BCV.logsumexp(-1).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((logits_BCV.detach(), gradient))
    for expected, value in zip(*found, strict=True):
        assert (value - expected).norm() < 0.01 * expected.norm()


def test_boundaries_are_as_many_for_any_rows_and_leave_no_token_out(tmp_path: Path) -> None:
    documents = [Document(np.full(n, 5, np.uint16)) for n in (8, 3, 2, 2, 6)]
    write_rows(tmp_path, documents, UNITS, 8)  # rows of 8; of 6 and 2; of 3 and 2, padded
    store = RowStore(tmp_path)
    by_lengths = {tuple(store.lengths_P[store.offsets[r] : store.offsets[r + 1]]): r for r in range(3)}
    one, full, padded = (by_lengths[lengths] for lengths in ((8,), (6, 2), (3, 2)))
    assert store.batch(np.array([one, padded])).boundaries.tolist() == [0, 8, 11, 16, 16]
    assert store.batch(np.array([padded, full])).boundaries.tolist() == [0, 3, 8, 14, 16]
    assert store.batch(np.array([one, one])).boundaries.dtype == np.int32


def test_padding_of_a_long_row_is_cut_at_contexts(tmp_path: Path) -> None:
    documents = [Document(np.full(n, 5, np.uint16)) for n in (4, 3)]
    write_rows(tmp_path, documents, UNITS, pack(np.array([4, 3]), 4, 16))
    batch = RowStore(tmp_path).batch(np.array([0]))
    assert batch.boundaries.tolist() == [0, 4, 8, 12, 16, 16]
    assert batch.positions.tolist() == [[*range(4)] * 4]
    assert batch.context == 4
