"""Scores of pairs: against log-softmax by hand, known answers, and independence of the batch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from slamray.data.item_pairs import ItemPair
from slamray.evaluate.pair_scores import correctness, judge_pairs, pair_documents, perplexity
from slamray.evaluate.summary import ItemSummary, PairScore, compare, summarise_items, wilson
from slamray.model.log_likelihood import log_likelihoods
from slamray.tokens.documents import Document, join_units, unit_document
from slamray.tokens.rows import RowStore, write_rows
from slamray.tokens.vocabulary import BOS, FIRST_UNIT, Vocabulary

N_UNITS = 20
VOCABULARY = Vocabulary.of_units(N_UNITS)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=N_UNITS + FIRST_UNIT, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=256, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


class Likes(nn.Module):
    """A model that gives unit 0 the logit `weight` at every place and everything else 0."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation="sdpa")
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int = 0, **_: object) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, N_UNITS + FIRST_UNIT)
        logits[..., FIRST_UNIT] = self.weight
        return SimpleNamespace(logits=logits[:, -logits_to_keep:])


def sequences(n: int = 12) -> list[Document]:
    draw = np.random.default_rng(0)
    return [unit_document(draw.integers(0, N_UNITS, draw.integers(1, 60)), VOCABULARY) for _ in range(n)]


def pair(name: str, prompt: tuple[str, ...] = (), metric: str = "words") -> ItemPair:
    return ItemPair(name, metric, "all", prompt, (f"{name}+",), (f"{name}-",), "", "", "")


def scored(number: int, correct: float) -> PairScore:
    """A pair that is an item by itself."""
    return PairScore(str(number), "words", "all", "", 0.0, 0.0, correct)


def zero_against_others(n: int = 7) -> tuple[list[ItemPair], dict[str, np.ndarray]]:
    """Pairs whose right side is unit 0 and 3 in turn and whose wrong side never holds a 0, of the same length."""
    units = {f"{i}+": np.array([0, 3] * (i + 1)) for i in range(n)} | {
        f"{i}-": np.array([5, 3] * (i + 1)) for i in range(n)
    }
    return [pair(str(i)) for i in range(n)], units


def test_log_likelihood_is_the_sum_of_log_softmax_over_all_tokens_but_the_first(model: PreTrainedModel) -> None:
    for document, total, count in zip(sequences(), *log_likelihoods(model, sequences()), strict=True):
        tokens = document.ids
        with torch.no_grad():
            logits = model(torch.as_tensor(tokens.astype(np.int64))[None]).logits[0].double().numpy()
        expected = sum(logits[i, tokens[i + 1]] - math.log(np.exp(logits[i]).sum()) for i in range(len(tokens) - 1))
        assert count == len(tokens) - 1  # the final special is a target, the first is not
        assert total == pytest.approx(expected, rel=1e-5)


def test_scores_do_not_depend_on_the_batch(model: PreTrainedModel) -> None:
    alone, _ = log_likelihoods(model, sequences(), batch_tokens=1)
    together, _ = log_likelihoods(model, sequences(), batch_tokens=32 * 64)
    np.testing.assert_allclose(alone, together, rtol=1e-5)


def test_a_model_that_prefers_the_right_side_gets_one_its_mirror_zero_and_a_constant_one_half_all_ties() -> None:
    pairs, units = zero_against_others()
    for weight, accuracy, ties in ((2.0, 1.0, 0), (-2.0, 0.0, 0), (0.0, 0.5, 7)):
        (summary,) = summarise_items(judge_pairs(Likes(weight), pairs, units, VOCABULARY))
        assert (summary.accuracy, summary.ties, summary.n) == (accuracy, ties, 7)


def test_mean_and_sum_differ_by_the_number_of_targets(model: PreTrainedModel) -> None:
    pairs, units = [pair("a")], {"a+": np.arange(9), "a-": np.arange(4)}
    mean, total = (judge_pairs(model, pairs, units, VOCABULARY, normalise)[0] for normalise in ("mean", "sum"))
    assert total.ll_chosen == pytest.approx(10 * mean.ll_chosen)
    assert total.ll_rejected == pytest.approx(5 * mean.ll_rejected)


def test_the_prompt_belongs_to_the_scored_sequence(model: PreTrainedModel) -> None:
    units = {"p": np.array([4, 5]), "a+": np.array([6]), "a-": np.array([7])}
    score = judge_pairs(model, [pair("a", prompt=("p",))], units, VOCABULARY, "sum")[0]
    sums, _ = log_likelihoods(model, [unit_document(np.array([4, 5, 6]), VOCABULARY)])
    assert score.ll_chosen == pytest.approx(sums[0])


def test_units_are_deduplicated_across_joins() -> None:
    parts = [
        np.array([1, 2], np.uint16),
        np.array([2, 3], np.uint16),
        np.array([], np.uint16),
        np.array([3], np.uint16),
    ]
    assert join_units(parts).tolist() == [1, 2, 3]
    units = {str(number): part for number, part in enumerate(parts)}
    pair_of_both = ItemPair("a", "words", "all", ("0",), ("1", "2", "3"), ("1",), "", "", "")
    right, wrong = pair_documents([pair_of_both], units | {"1": np.array([2])}, VOCABULARY)
    assert right.ids.tolist() == [BOS, 3, 4, 5, BOS] and wrong.ids.tolist() == [BOS, 3, 4, BOS]


def test_a_tie_counts_one_half_and_is_reported() -> None:
    scores = [scored(i, correct) for i, correct in enumerate((1.0, 0.5, 0.0, 1.0))]
    low, high = wilson(0.625, 4)
    assert summarise_items(scores) == [ItemSummary("words", "all", "items", 4, 4, 1, 0.625, low, high)]
    assert [correctness(-1.0, -2.0), correctness(-2.0, -1.0), correctness(-1.0, -1.0)] == [1.0, 0.0, 0.5]


def test_an_item_with_several_pairs_counts_once_and_widens_the_interval() -> None:
    alone = [scored(i, float(i % 4 > 0)) for i in range(80)]
    # 20 items of three right pairs, 20 items of one wrong pair
    grouped = [replace(score, item=str(i // 4 if i % 4 else 20 + i)) for i, score in enumerate(alone)]
    (one,), (four,) = summarise_items(alone), summarise_items(grouped)
    assert (one.n, one.accuracy, four.n, four.accuracy) == (80, 0.75, 40, 0.5)
    # a share of 40 independent items: half-width 1.96 x sqrt(0.25 / 40) = 0.155
    assert (four.low, four.high) == pytest.approx((0.345, 0.655), abs=0.03)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (5, 10), (163, 250), (500, 500)])
def test_wilson_interval_is_scipys(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(0.95, "wilson")
    assert wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_two_checkpoints_are_compared_item_by_item() -> None:
    before = [scored(i, float(i < 50)) for i in range(100)]
    after = [scored(i, float(i < 60)) for i in reversed(range(100))]
    (found,) = compare(before, after)
    assert (found.before, found.after, found.difference) == pytest.approx((0.5, 0.6, 0.1))
    # ten of a hundred differences are 1: deviation sqrt(100/99 * 0.1 * 0.9), times 1.959964 / sqrt(100)
    assert (found.low, found.high) == pytest.approx((0.1 - 0.059095, 0.1 + 0.059095), abs=1e-5)


def test_perplexity_of_a_uniform_model_is_the_size_of_the_vocabulary(tmp_path: Path) -> None:
    documents = sequences()
    write_rows(tmp_path, documents, VOCABULARY, 32)
    store = RowStore(tmp_path)
    found = perplexity(Likes(0.0), store.pieces())
    assert found.perplexity == pytest.approx(N_UNITS + FIRST_UNIT, rel=1e-5)
    assert found.targets == store.targets_R.sum()


def test_fewer_pieces_are_those_of_rows_evenly_spaced(tmp_path: Path) -> None:
    write_rows(tmp_path, sequences(), VOCABULARY, 32)
    store = RowStore(tmp_path)
    assert store.rows > 3
    found = [tuple(piece.ids) for piece in store.pieces(3 * 32 + 31)]
    rows = [store.tokens_RC[row][: store.tokens_R[row]] for row in (0, (store.rows - 1) // 2, store.rows - 1)]
    assert [token for piece in found for token in piece] == [token for row in rows for token in row]


def test_perplexity_is_that_of_the_packed_rows(model: PreTrainedModel, tmp_path: Path) -> None:
    documents = sequences()
    write_rows(tmp_path, documents, VOCABULARY, 32)
    store = RowStore(tmp_path)
    batch = store.batch(np.arange(store.rows))
    with torch.no_grad():  # transformers keeps packed pieces apart by their positions
        logits = model(
            torch.as_tensor(batch.inputs), position_ids=torch.as_tensor(batch.positions), use_cache=False
        ).logits
    loss = nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.as_tensor(batch.targets).flatten(), ignore_index=-100
    )
    assert perplexity(model, store.pieces()).loss == pytest.approx(float(loss), rel=1e-4)
