"""Metrics of pairs, and perplexity: log-likelihoods under a unit LM.

The score of a side is the mean log-likelihood of its whole sequence, prompt included, over all targets up to the final
special (recipe.md 1.10, as slamkit does it for sBLIMP and StoryCloze); the sum is an option. Shapes: B batch, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from slamray.config.evaluation import ScoringSettings
from slamray.data.items import ItemPair
from slamray.evaluate.metrics import Material
from slamray.evaluate.summary import PairScore
from slamray.tokens.documents import join_units, to_document
from slamray.tokens.rows import RowStore
from slamray.tokens.vocabulary import PAD, to_tokens

Normalise = Literal["mean", "sum"]
BATCH_TOKENS = 8192  # padded tokens in a forward pass: the memory of the logits, not the result; chosen, not tuned
TIE = 1e-6  # relative: what float32 sums of the same sequence differ by in batches of other shapes


def sequence_tokens(parts: Sequence[np.ndarray]) -> np.ndarray:
    """`<S> units <S>` as uint16 token ids of the joined utterances."""
    return to_document(to_tokens(join_units(parts)))


def pair_tokens(pairs: Sequence[ItemPair], units: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Chosen and rejected sequence of each pair in turn: 2 * len(pairs) token arrays. units: by utterance id."""
    sides = [pair.prompt + side for pair in pairs for side in (pair.chosen, pair.rejected)]
    return [sequence_tokens([units[utterance] for utterance in side]) for side in sides]


@torch.inference_mode()
def token_log_likelihoods(
    model: nn.Module, sequences: Sequence[np.ndarray], batch_tokens: int = BATCH_TOKENS
) -> tuple[np.ndarray, np.ndarray]:
    """(sum of log-likelihoods float64, number of targets int64) of each token sequence under a causal LM.

    The first token is never a target; padding is neither seen nor counted. Sequences are sorted by length into batches
    of at most batch_tokens padded tokens (always at least one), so the result does not depend on the batch: load the
    model in float32 for that to hold to 1e-5. model: a transformers causal LM; run on the device its weights are on.
    """
    device = next(model.parameters()).device
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    assert len(lengths) == 0 or lengths.min() >= 2, "a sequence needs at least one target"
    order = np.argsort(lengths, kind="stable")
    sums = np.zeros(len(sequences))
    was_training = model.training
    model.eval()
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and lengths[order[end]] * (end + 1 - start) <= batch_tokens:
            end += 1
        rows = order[start:end]
        tokens_BT = torch.full((len(rows), int(lengths[rows].max())), PAD, dtype=torch.long)
        for i, row in enumerate(rows):
            tokens_BT[i, : lengths[row]] = torch.as_tensor(sequences[row].astype(np.int64))
        tokens_BT = tokens_BT.to(device)
        seen_BT = (torch.arange(tokens_BT.shape[1]) < torch.as_tensor(lengths[rows])[:, None]).to(device)
        logits = model(input_ids=tokens_BT, attention_mask=seen_BT.long(), use_cache=False).logits[:, :-1].float()
        nll = nn.functional.cross_entropy(logits.transpose(1, 2), tokens_BT[:, 1:], reduction="none")
        sums[rows] = -(nll.double() * seen_BT[:, 1:]).sum(1).cpu().numpy()
        start = end
    model.train(was_training)
    return sums, lengths - 1


def score_pairs(
    model: nn.Module,
    pairs: Sequence[ItemPair],
    units: Mapping[str, np.ndarray],
    normalise: Normalise = "mean",
    batch_tokens: int = BATCH_TOKENS,
) -> list[PairScore]:
    """The scores of each pair, in their order. units: deduplicated, by utterance id."""
    sums, targets = token_log_likelihoods(model, pair_tokens(pairs, units), batch_tokens)
    scores = (sums / targets if normalise == "mean" else sums).reshape(-1, 2).tolist()
    return [
        PairScore(pair.pair_id, pair.metric, pair.part, pair.item, chosen, rejected, judge(chosen, rejected))
        for pair, (chosen, rejected) in zip(pairs, scores, strict=True)
    ]


def judge(chosen: float, rejected: float) -> float:
    """1.0 if chosen scores higher, 0.0 if lower, 0.5 for a tie (recipe.md 1.10)."""
    return 0.5 if abs(chosen - rejected) <= TIE * max(1.0, abs(chosen)) else float(chosen > rejected)


@dataclass(frozen=True)
class Perplexity:
    """perplexity: exp(loss). loss: nats per target. targets: how many tokens were predicted."""

    perplexity: float
    loss: float
    targets: int


def perplexity(model: nn.Module, sequences: Sequence[np.ndarray], batch_tokens: int = BATCH_TOKENS) -> Perplexity:
    """exp(sum NLL / targets), e.g. of `pieces(store)`.

    sequences: token arrays, documents or parts of them as packed; the first token of each is no target, since
    attention does not cross pieces.
    """
    sums, targets = token_log_likelihoods(model, [tokens for tokens in sequences if len(tokens) > 1], batch_tokens)
    loss = -float(sums.sum()) / int(targets.sum())
    return Perplexity(math.exp(loss), loss, int(targets.sum()))


def measure_perplexity(model: nn.Module, material: Material, scoring: ScoringSettings) -> Perplexity:
    """Metric `perplexity`: of the validation rows."""
    return perplexity(model, material.validation_pieces(), material.batch_tokens)


def pieces(store: RowStore) -> list[np.ndarray]:
    """The pieces of all packed rows, each a token array; padding is left behind."""
    rows = zip(store.tokens_RC, store.offsets[:-1], store.offsets[1:], strict=True)
    return [piece for row, a, b in rows for piece in np.split(row, np.cumsum(store.lengths_P[a:b]))[:-1]]
