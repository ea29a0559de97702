"""The one log-likelihood kernel: a loss mask says which targets count, and neither batch nor padding matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from slamray.model.log_likelihood import log_likelihoods, pair_log_likelihoods, score_batch
from slamray.tokens.documents import Document


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=22,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def documents() -> list[Document]:
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 22, length).astype(np.uint16) for length in rng.integers(2, 70, 15)]
    return [Document(row, None if i % 3 == 0 else rng.random(len(row)) < 0.5) for i, row in enumerate(ids)]


def by_hand(model: PreTrainedModel, document: Document) -> tuple[float, int]:
    """Token by token, without padding, in float64."""
    tokens = torch.as_tensor(document.ids.astype(np.int64))
    with torch.no_grad():
        log_probs = model(tokens[None]).logits[0].double().log_softmax(-1)
    counted = [i for i in range(1, len(tokens)) if document.mask is None or document.mask[i]]
    return sum(float(log_probs[i - 1, tokens[i]]) for i in counted), len(counted)


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_only_what_the_mask_lets_count_is_summed(model: PreTrainedModel, batch_tokens: int) -> None:
    sums, targets = log_likelihoods(model, documents(), batch_tokens)
    expected = [by_hand(model, document) for document in documents()]
    assert sums == pytest.approx([total for total, _ in expected], rel=1e-5, abs=1e-9)
    assert targets.tolist() == [count for _, count in expected]


def pairs() -> list[Document]:
    """Fifteen pairs that begin alike or not at all, and one whose first sequence is the beginning of the other."""
    rng, found = np.random.default_rng(1), []
    for number, shared in enumerate([0, 1, 40, *rng.integers(2, 60, 12)]):
        prompt = rng.integers(1, 22, shared).astype(np.uint16)
        for length in rng.integers(2, 20, 2):
            ids = np.concatenate([prompt, rng.integers(1, 22, length).astype(np.uint16)])
            found.append(Document(ids, None if number % 3 == 0 else np.arange(len(ids)) >= shared))
    whole = rng.integers(1, 22, 30).astype(np.uint16)
    return [*found, Document(whole[:20]), Document(whole)]


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
@pytest.mark.parametrize("drawn", [None, range(1, 22)])
def test_a_pair_scores_as_its_two_sequences_do_one_by_one(
    model: PreTrainedModel, drawn: range | None, batch_tokens: int
) -> None:
    sums, targets = pair_log_likelihoods(model, pairs(), batch_tokens, drawn)
    if drawn is None:
        expected = [by_hand(model, document) for document in pairs()]
        assert sums == pytest.approx([total for total, _ in expected], rel=1e-5, abs=1e-9)
        assert targets.tolist() == [count for _, count in expected]
    else:
        alone, _ = log_likelihoods(model, pairs(), 1, drawn)
        assert sums == pytest.approx(alone, rel=1e-5, abs=1e-9)


def test_what_a_pair_begins_with_is_read_once(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: read.append(given["input_ids"].shape) or forward(**given))
    begin = np.arange(1, 11, dtype=np.uint16)
    sides = [Document(np.append(begin, np.uint16(last))) for last in (11, 12)]
    pair_log_likelihoods(model, sides)
    assert read == [(1, 12)]


def test_one_batch_keeps_the_order_it_was_given(model: PreTrainedModel) -> None:
    with torch.no_grad():
        sums = score_batch(model, documents())
    assert sums.tolist() == pytest.approx([by_hand(model, d)[0] for d in documents()], rel=1e-5, abs=1e-9)


def test_the_models_mode_is_left_as_it_was(model: PreTrainedModel) -> None:
    model.train()
    log_likelihoods(model, documents()[:2])
    assert model.training
    model.eval()
