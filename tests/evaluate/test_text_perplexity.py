"""What a model forgot of text: the same tokens by it and by its text LM, against sums by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from slamray.config.evaluation import ScoringSettings
from slamray.errors import BadInput
from slamray.evaluate.text_perplexity import LONGEST_TOKENS, measure_text_perplexity
from slamray.tokens.vocabulary import Vocabulary

# Ids: 0 pads, 1 is <S>, 2 .. 9 are text; units 0 .. 4 are 10 .. 14; <speech> is 15 and <text> 16.
JOINT = Vocabulary.joint(Vocabulary.of_text(10, 0, 1, "t"), Vocabulary.of_units(5, "u"))
TEXTS = [[2, 3, 4], [5, 2]]


class Bigrams(nn.Module):
    """A model of which the next token depends on the last one alone."""

    def __init__(self, seed: int, rows: int) -> None:
        super().__init__()
        self.table_VV = nn.Parameter(torch.randn(rows, rows, generator=torch.Generator().manual_seed(seed)))

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table_VV[input_ids])

    def nats(self, ids: Sequence[int], first: int) -> float:
        """Of the ids from place `first` on, among the ten ids of text."""
        found = 0.0
        for before, token in zip(ids[first - 1 :], ids[first:], strict=False):
            logits = self.table_VV[before, :10].detach().double()
            found += float(logits.logsumexp(0) - logits[token])
        return found


def material(texts: Sequence[Sequence[int]], text_lm: Bigrams | None) -> Any:
    return SimpleNamespace(
        vocabulary=JOINT, batch_tokens=100, texts=lambda: iter(texts), text_lm=lambda: text_lm
    )  # fmt: skip


def test_the_same_tokens_are_asked_of_the_model_and_of_its_text_lm() -> None:
    model, text_lm = Bigrams(0, JOINT.size), Bigrams(1, 12)  # a text LM may have rows that no token is of
    found = measure_text_perplexity(model, material(TEXTS, text_lm), ScoringSettings())  # type: ignore[arg-type]
    after = sum(model.nats([1, 16, *text, 1], 2) for text in TEXTS) / 7
    before = sum(text_lm.nats([1, *text, 1], 1) for text in TEXTS) / 7
    assert (found.targets, found.texts) == (7, 2)
    assert (found.loss, found.base_loss) == (pytest.approx(after), pytest.approx(before))
    assert found.perplexity == pytest.approx(math.exp(after)) and found.base_perplexity == pytest.approx(
        math.exp(before)
    )
    assert found.forgotten == pytest.approx(after - before)


def test_a_model_that_began_as_a_shape_has_forgotten_nothing() -> None:
    found = measure_text_perplexity(Bigrams(0, JOINT.size), material(TEXTS, None), ScoringSettings())  # type: ignore[arg-type]
    assert (found.base_loss, found.base_perplexity, found.forgotten) == (None, None, None)


def test_a_long_text_is_cut_and_no_text_is_refused() -> None:
    long = [[2] * (LONGEST_TOKENS + 5)]
    found = measure_text_perplexity(Bigrams(0, JOINT.size), material(long, None), ScoringSettings())  # type: ignore[arg-type]
    assert found.targets == LONGEST_TOKENS + 1
    few = ScoringSettings(perplexity_tokens=4)  # the second text begins before there are so many, the third does not
    assert measure_text_perplexity(Bigrams(0, JOINT.size), material([*TEXTS, [3]], None), few).texts == 2  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"no validation documents; raise corpus.validation_share"):
        measure_text_perplexity(Bigrams(0, JOINT.size), material([], None), ScoringSettings())  # type: ignore[arg-type]
