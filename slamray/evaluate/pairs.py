"""Score pairs by log-likelihood under a unit LM, and say how sure the accuracy is.

The score of a side is the mean log-likelihood of its whole sequence, prompt included, over all targets up to the final
special (recipe.md 1.10, as slamkit does it for sBLIMP and StoryCloze); the sum is an option. Shapes: B batch, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from slamray.evaluate.items import Pair
from slamray.units import PAD, RowStore, to_document, to_tokens

Normalise = Literal["mean", "sum"]
BATCH_TOKENS = 8192  # padded tokens in a forward pass: the memory of the logits, not the result; chosen, not tuned
TIE = 1e-6  # relative: what float32 sums of the same sequence differ by in batches of other shapes


@dataclass(frozen=True)
class Summary:
    """Accuracy of one metric (ties count one half) with its Wilson interval."""

    metric: str
    n: int
    ties: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Accuracy after minus before, on the same items, with its interval."""

    metric: str
    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float


def join_units(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Units of utterances that were encoded one by one, as one sequence: deduplicated across the joins too.

    The same sound goes on over a join (mostly silence), so its unit stands once, as it would in continuous speech.
    """
    units = np.concatenate([np.asarray(part) for part in parts]) if parts else np.zeros(0, np.uint16)
    return units[np.insert(units[1:] != units[:-1], 0, True)] if len(units) else units


def sequence_tokens(parts: Sequence[np.ndarray]) -> np.ndarray:
    """`<S> units <S>` as uint16 token ids of the joined utterances."""
    return to_document(to_tokens(join_units(parts)))


def pair_tokens(pairs: Sequence[Pair], units: Mapping[str, np.ndarray]) -> list[np.ndarray]:
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
    model: nn.Module, pairs: Sequence[Pair], units: Mapping[str, np.ndarray],
    normalise: Normalise = "mean", batch_tokens: int = BATCH_TOKENS,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row for each pair: pair_id, metric, part, ll_chosen, ll_rejected, correct (1.0, 0.0, or 0.5 for a tie)."""
    sums, targets = token_log_likelihoods(model, pair_tokens(pairs, units), batch_tokens)
    scores = (sums / targets if normalise == "mean" else sums).reshape(-1, 2)
    return [
        {
            "pair_id": pair.pair_id, "metric": pair.metric, "part": pair.part,
            "ll_chosen": float(chosen), "ll_rejected": float(rejected), "correct": judge(chosen, rejected),
        }
        for pair, (chosen, rejected) in zip(pairs, scores, strict=True)
    ]  # fmt: skip


def judge(chosen: float, rejected: float) -> float:
    """1.0 if chosen scores higher, 0.0 if lower, 0.5 for a tie (recipe.md 1.10)."""
    return 0.5 if abs(chosen - rejected) <= TIE * max(1.0, abs(chosen)) else float(chosen > rejected)


def summarise(rows: Sequence[Mapping[str, Any]], by: str = "metric", confidence: float = 0.95) -> list[Summary]:
    """A summary of each metric (or of each value of another column) in the order of first appearance."""
    summaries = []
    for metric in dict.fromkeys(row[by] for row in rows):
        correct = [row["correct"] for row in rows if row[by] == metric]
        accuracy = float(np.mean(correct))
        low, high = wilson(accuracy, len(correct), confidence)
        summaries.append(Summary(metric, len(correct), correct.count(0.5), accuracy, low, high))
    return summaries


def wilson(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of n, (0, 1) if n is 0; a tie enters as half a success.

    Unlike the normal interval it has a width at 0 and 1. Half successes vary less than whole ones, so it is on the safe
    side where there are ties.
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def compare(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], confidence: float = 0.95
) -> list[Difference]:
    """Accuracy of `after` minus that of `before` for each metric, paired by pair_id.

    The interval is the normal one of the mean of the paired differences (-1 .. 1), whose variance is what the two
    models disagree on: much narrower than the difference of two independent accuracies.
    """
    earlier = {row["pair_id"]: row["correct"] for row in before}
    assert earlier.keys() == {row["pair_id"] for row in after}, "the two checkpoints were scored on different items"
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    found = []
    for metric in dict.fromkeys(row["metric"] for row in after):
        rows = [row for row in after if row["metric"] == metric]
        old, new = np.array([earlier[row["pair_id"]] for row in rows]), np.array([row["correct"] for row in rows])
        mean = float((new - old).mean())
        half = z * float((new - old).std(ddof=1)) / math.sqrt(len(rows)) if len(rows) > 1 else 1.0
        low, high = max(-1.0, mean - half), min(1.0, mean + half)
        found.append(Difference(metric, len(rows), float(old.mean()), float(new.mean()), mean, low, high))
    return found


def perplexity(model: nn.Module, sequences: Sequence[np.ndarray], batch_tokens: int = BATCH_TOKENS) -> dict[str, float]:
    """perplexity, loss (nats per target) and number of targets: exp(sum NLL / targets), e.g. of `pieces(store)`.

    sequences: token arrays, documents or parts of them as packed; the first token of each is no target, since
    attention does not cross pieces.
    """
    sums, targets = token_log_likelihoods(model, [tokens for tokens in sequences if len(tokens) > 1], batch_tokens)
    loss = -float(sums.sum()) / int(targets.sum())
    return {"perplexity": math.exp(loss), "loss": loss, "targets": int(targets.sum())}


def pieces(store: RowStore) -> list[np.ndarray]:
    """The pieces of all packed rows, each a token array; padding is left behind."""
    rows = zip(store.tokens_RC, store.offsets[:-1], store.offsets[1:], strict=True)
    return [piece for row, a, b in rows for piece in np.split(row, np.cumsum(store.lengths_P[a:b]))[:-1]]


def as_rows(results: Sequence[Summary] | Sequence[Difference]) -> list[dict[str, Any]]:
    """Summaries or differences as plain dicts, for a table or the report."""
    return [asdict(result) for result in results]
