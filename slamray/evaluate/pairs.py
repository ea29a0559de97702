"""Score pairs by log-likelihood under a unit LM.

The score of a side is the mean log-likelihood of its whole sequence, prompt included, over all targets up to the final
special (docs/paper.md 1.10, as slamkit does it for sBLIMP and StoryCloze); the sum is an option.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import nn

from slamray.data.items import ItemPair
from slamray.model.log_likelihood import BATCH_TOKENS, log_likelihoods
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
    model: nn.Module,
    pairs: Sequence[ItemPair],
    units: Mapping[str, np.ndarray],
    vocabulary: Vocabulary,
    normalise: Normalise = "mean",
    batch_tokens: int = BATCH_TOKENS,
) -> list[dict[str, Any]]:
    """One row for each pair: pair_id, metric, part, item, ll_chosen, ll_rejected, correct (1, 0, or 0.5 for a tie)."""
    sums, targets = log_likelihoods(model, pair_documents(pairs, units, vocabulary), batch_tokens)
    scores = (sums / targets if normalise == "mean" else sums).reshape(-1, 2)
    return [
        {
            "pair_id": pair.pair_id,
            "metric": pair.metric,
            "part": pair.part,
            "item": pair.item,
            "ll_chosen": float(chosen),
            "ll_rejected": float(rejected),
            "correct": judge(chosen, rejected),
        }
        for pair, (chosen, rejected) in zip(pairs, scores, strict=True)
    ]


def judge(chosen: float, rejected: float) -> float:
    """1.0 if chosen scores higher, 0.0 if lower, 0.5 for a tie (docs/paper.md 1.10)."""
    return 0.5 if abs(chosen - rejected) <= TIE * max(1.0, abs(chosen)) else float(chosen > rejected)


def perplexity(model: nn.Module, documents: Sequence[Document], batch_tokens: int = BATCH_TOKENS) -> dict[str, float]:
    """perplexity, loss (nats per target) and number of targets: exp(sum NLL / targets), e.g. of `RowStore.pieces`.

    documents: whole ones or the pieces of packed rows, since attention does not cross pieces.
    """
    sums, targets = log_likelihoods(model, [document for document in documents if len(document) > 1], batch_tokens)
    loss = -float(sums.sum()) / int(targets.sum())
    return {"perplexity": math.exp(loss), "loss": loss, "targets": int(targets.sum())}
