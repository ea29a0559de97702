"""Metrics of pairs, and perplexity: log-likelihoods under a unit LM.

The score of a side is the mean log-likelihood of its whole sequence, prompt included, over all targets up to the final
special (docs/paper.md 1.10, as slamkit does it for sBLIMP and StoryCloze); the sum is an option.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from slamray.config.evaluation import ScoringSettings
from slamray.data.item_pairs import ItemPair
from slamray.evaluate.metrics import Material
from slamray.evaluate.summary import PairScore
from slamray.model.log_likelihood import BATCH_TOKENS, log_likelihoods, pair_log_likelihoods
from slamray.tokens.documents import Document, join_units, unit_document
from slamray.tokens.vocabulary import Vocabulary

Normalise = Literal["mean", "sum"]
TIE = 1e-6  # relative: what float32 sums of the same sequence differ by in batches of other shapes


def pair_documents(
    pairs: Sequence[ItemPair], units: Mapping[str, np.ndarray], vocabulary: Vocabulary
) -> list[Document]:
    """Chosen and rejected sequence of each pair in turn: 2 * len(pairs) documents. units: by utterance id."""
    sides = [pair.prompt + side for pair in pairs for side in (pair.chosen, pair.rejected)]
    return [unit_document(join_units([units[utterance] for utterance in side]), vocabulary) for side in sides]


def judge_pairs(
    model: PreTrainedModel,
    pairs: Sequence[ItemPair],
    units: Mapping[str, np.ndarray],
    vocabulary: Vocabulary,
    normalise: Normalise = "mean",
    batch_tokens: int = BATCH_TOKENS,
) -> list[PairScore]:
    """The scores of each pair, in their order. units: deduplicated, by utterance id."""
    sums, targets = pair_log_likelihoods(model, pair_documents(pairs, units, vocabulary), batch_tokens)
    scores = (sums / targets if normalise == "mean" else sums).reshape(-1, 2).tolist()
    return [
        PairScore(pair.pair_id, pair.metric, pair.part, pair.item, chosen, rejected, correctness(chosen, rejected))
        for pair, (chosen, rejected) in zip(pairs, scores, strict=True)
    ]


def correctness(chosen: float, rejected: float) -> float:
    """1.0 if chosen scores higher, 0.0 if lower, 0.5 for a tie (docs/paper.md 1.10)."""
    return 0.5 if abs(chosen - rejected) <= TIE * max(1.0, abs(chosen)) else float(chosen > rejected)


@dataclass(frozen=True)
class Perplexity:
    """perplexity: exp(loss). loss: nats per target. targets: how many tokens were predicted."""

    perplexity: float
    loss: float
    targets: int


def perplexity(model: nn.Module, documents: Sequence[Document], batch_tokens: int = BATCH_TOKENS) -> Perplexity:
    """exp(sum NLL / targets), e.g. of `RowStore.pieces`.

    documents: whole ones or the pieces of packed rows, since attention does not cross pieces.
    """
    sums, targets = log_likelihoods(model, [document for document in documents if len(document) > 1], batch_tokens)
    loss = -float(sums.sum()) / int(targets.sum())
    return Perplexity(math.exp(loss), loss, int(targets.sum()))


def measure_perplexity(model: nn.Module, material: Material, scoring: ScoringSettings) -> Perplexity:
    """Metric `perplexity`: of the validation rows."""
    return perplexity(model, material.validation_pieces(), material.batch_tokens)
