"""Four ways to score an ending: sequences and sums by hand, and what takes part in the softmax."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from slamray.data.item_pairs import ItemPair
from slamray.evaluate.cross_modal import across, judge_across
from slamray.evaluate.metrics import Modality
from slamray.tokens.documents import Document
from slamray.tokens.vocabulary import Vocabulary

# Ids: 0 pads, 1 is <S>, 2 .. 9 are words w2 .. w9; units 0 .. 4 are 10 .. 14; <speech> is 15 and <text> 16.
JOINT = Vocabulary.joint(Vocabulary.of_text(10, 0, 1, "t"), Vocabulary.of_units(5, "u"))
S, SPEECH, TEXT = 1, 15, 16
PAIR = ItemPair("p", "topic_cloze", "all", ("a", "b"), ("good",), ("bad",), "w2 w3", "w4 w5", "w6")
UNITS = {"a": np.array([0, 1]), "b": np.array([1, 2]), "good": np.array([2, 3]), "bad": np.array([4])}


def encode(text: str) -> list[int]:
    return [int(word[1:]) for word in text.split()]


def made(prompt: Modality, ending: Modality, scored: str = "continuation") -> Document:
    return across(PAIR, PAIR.chosen, PAIR.chosen_text, UNITS, encode, JOINT, prompt, ending, scored)  # type: ignore[arg-type]


class Bigrams(nn.Module):
    """A model of which the next token depends on the last one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation="sdpa")
        generator = torch.Generator().manual_seed(0)
        self.table_VV = nn.Parameter(torch.randn(JOINT.size, JOINT.size, generator=generator))

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int = 0, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table_VV[input_ids][:, -logits_to_keep:])

    def nats(self, before: int, token: int, among: range) -> float:
        logits = self.table_VV[before, among.start : among.stop].double()
        return float(logits[token - among.start] - logits.logsumexp(0))


@pytest.mark.parametrize(
    ("prompt", "ending", "ids", "scored"),
    [
        # A unit that goes on over a join stands once: 1 between a and b, 2 between b and the ending.
        ("speech", "speech", [S, SPEECH, 10, 11, 12, 13], [13]),
        ("speech", "text", [S, SPEECH, 10, 11, 12, TEXT, 4, 5], [4, 5]),
        ("text", "speech", [S, TEXT, 2, 3, SPEECH, 12, 13], [12, 13]),
        ("text", "text", [S, TEXT, 2, 3, 4, 5], [4, 5]),
    ],
)
def test_an_ending_follows_its_prompt_in_either_modality(
    prompt: Modality, ending: Modality, ids: list[int], scored: list[int]
) -> None:
    document = made(prompt, ending)
    assert document.ids.tolist() == ids and document.ids[document.targets].tolist() == scored
    whole = made(prompt, ending, "sequence")
    assert whole.ids.tolist() == [*ids, S] and whole.targets.sum() == len(ids)


def test_without_a_prompt_the_ending_stands_alone() -> None:
    pair = ItemPair("p", "grammar", "all", (), ("good",), ("bad",), "", "w4 w5", "w6")
    found = across(pair, pair.chosen, pair.chosen_text, UNITS, encode, JOINT, "text", "text", "continuation")
    assert found.ids.tolist() == [S, TEXT, 4, 5] and found.ids[found.targets].tolist() == [4, 5]


@pytest.mark.parametrize("normalise", ["mean", "sum"])
def test_the_ending_is_scored_among_the_ids_of_its_modality_alone(normalise: str) -> None:
    model = Bigrams()
    (score,) = judge_across(model, [PAIR], UNITS, encode, JOINT, "speech", "text", normalise=normalise)  # type: ignore[arg-type]
    text = range(10)
    chosen = [model.nats(TEXT, 4, text), model.nats(4, 5, text)]
    rejected = [model.nats(TEXT, 6, text)]
    of = math.fsum if normalise == "sum" else (lambda nats: math.fsum(nats) / len(nats))
    assert (score.ll_chosen, score.ll_rejected) == (pytest.approx(of(chosen)), pytest.approx(of(rejected)))
    assert score.correct == float(of(chosen) > of(rejected)) and score.metric == "topic_cloze"


def test_slamkits_rule_is_the_mean_over_the_whole_sequence_among_all_ids() -> None:
    model, every = Bigrams(), range(JOINT.size)
    (score,) = judge_across(model, [PAIR], UNITS, encode, JOINT, "text", "speech", scored="sequence")
    ids = [S, TEXT, 2, 3, SPEECH, 12, 13, S]
    nats = [model.nats(before, token, every) for before, token in itertools.pairwise(ids)]
    assert score.ll_chosen == pytest.approx(math.fsum(nats) / 7)
