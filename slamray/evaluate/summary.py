"""Accuracies of scored pairs, and how sure they are: summaries, intervals, differences of two checkpoints."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from slamray.data.item_pairs import ItemPair

Average = Literal["items", "parts"]
INTERVALS = "Wilson's where every item is one pair, otherwise that of a bootstrap over items"  # the rule, for readers
RESAMPLES = 10_000  # of a bootstrap; the ends of a 95 % interval are then each the mean of many; chosen, not tuned


@dataclass(frozen=True)
class PairScore:
    """A pair of one metric and the scores of its sides; correct is 1, 0, or 0.5 for a tie.

    item: pairs of one item say the same in several voices; empty: the pair is an item by itself.
    """

    pair_id: str
    metric: str
    part: str
    item: str
    ll_chosen: float
    ll_rejected: float
    correct: float


@dataclass(frozen=True)
class ItemSummary:
    """Accuracy of one metric, or of one of its parts, over items, with its interval (see `summarise_items`).

    An item is one or more pairs (a sentence in several voices) and counts once, with the mean of its pairs. `average`
    says how the figure is made: the mean over items, or the mean of the parts' means.
    """

    metric: str
    part: str
    average: Average
    n: int
    pairs: int
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


def item_values(scores: Sequence[PairScore], average: Average) -> np.ndarray:
    """A value for each item of one metric, in the order of scores, whose mean is the metric's figure.

    An item's value is the mean of its pairs; where parts weigh alike, times the weight of an item of its part.
    """
    parts = {score.item or score.pair_id: score.part for score in scores}
    if average == "items" or not parts:
        return _by_item(scores)
    n_items = Counter(parts.values())
    return _by_item(scores) * [len(parts) / (len(n_items) * n_items[part]) for part in parts.values()]


def _by_item(scores: Sequence[PairScore]) -> np.ndarray:
    """The mean of each item's pairs, items in the order of scores; an empty item is the pair itself."""
    found: dict[str, list[float]] = {}
    for score in scores:
        found.setdefault(score.item or score.pair_id, []).append(score.correct)
    return np.array([np.mean(correct) for correct in found.values()])


def summarise_items(
    scores: Sequence[PairScore], average: Average = "items", confidence: float = 0.95, seed: int = 0
) -> list[ItemSummary]:
    """The figure of one metric's scored pairs, then that of each of its parts if there are several.

    The interval is Wilson's where every item is one pair. Where items have several pairs (a word in several sentences),
    which are not independent, or the figure is a mean of parts, it is that of a bootstrap over items, whose draws
    depend on seed, metric and part alone, not on the order of scores. ties counts pairs.
    """
    (metric,) = {score.metric for score in scores}
    by_part = {part: [one for one in scores if one.part == part] for part in sorted({one.part for one in scores})}
    values = {part: _by_item(members) for part, members in by_part.items()}
    whole = _by_item(scores)
    strata = list(values.values()) if average == "parts" else [whole]

    def summary(part: str, strata: Sequence[np.ndarray], members: Sequence[PairScore], n: int) -> ItemSummary:
        accuracy = float(np.mean([stratum.mean() for stratum in strata]))
        if len(strata) == 1 and n == len(members):
            low, high = wilson(accuracy, n, confidence)
        else:
            draws = int.from_bytes(hashlib.sha256(f"{seed}/{metric}/{part}".encode()).digest()[:8], "big")
            low, high = bootstrap(strata, confidence, draws)
        ties = sum(one.correct == 0.5 for one in members)
        return ItemSummary(metric, part, average, n, len(members), ties, accuracy, low, high)

    found = [summary("all", strata, scores, len(whole))]
    if len(by_part) > 1:
        found += [summary(part, [values[part]], members, len(values[part])) for part, members in by_part.items()]
    return found


def bootstrap(
    strata: Sequence[np.ndarray], confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Percentile interval of the mean of the strata's means; items are drawn with replacement inside each stratum.

    strata: the values of each stratum's items, in any order. Values are few (0, 1/2, 1, or quarters of four voices), so
    the number of each in a resample is drawn at once, from a multinomial: the same distribution, and fast at 63,000
    items. Where all items agree the interval has no width, however few they are: read n beside it.
    """
    generator = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for stratum in strata:
        values, counts = np.unique(stratum, return_counts=True)
        drawn = generator.multinomial(len(stratum), counts / len(stratum), resamples)
        means += drawn @ values / len(stratum) / len(strata)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


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


def compare(before: Sequence[PairScore], after: Sequence[PairScore], confidence: float = 0.95) -> list[Difference]:
    """Accuracy of `after` minus that of `before` for each metric, paired by pair_id, over items.

    The interval is the normal one of the mean of the paired differences (-1 .. 1), whose variance is what the two
    models disagree on: much narrower than the difference of two independent accuracies.
    """
    earlier = {score.pair_id: score.correct for score in before}
    assert earlier.keys() == {score.pair_id for score in after}, "the two checkpoints were scored on different items"
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    found = []
    for metric in dict.fromkeys(score.metric for score in after):
        scores = [score for score in after if score.metric == metric]
        new, old = _by_item(scores), _by_item([replace(score, correct=earlier[score.pair_id]) for score in scores])
        mean = float((new - old).mean())
        half = z * float((new - old).std(ddof=1)) / math.sqrt(len(new)) if len(new) > 1 else 1.0
        low, high = max(-1.0, mean - half), min(1.0, mean + half)
        found.append(Difference(metric, len(new), float(old.mean()), float(new.mean()), mean, low, high))
    return found


@dataclass(frozen=True)
class PassageGain:
    """How much likelier endings are after their own passage than after another one, in nats a token.

    Sharper than the share of pairs that are right: an ending is compared with itself, after two passages. n: endings.
    low, high: of the mean, with the confidence of the other intervals (normal).
    """

    n: int
    nats: float
    low: float
    high: float


def passage_gain(pairs: Sequence[ItemPair], scores: Sequence[PairScore], confidence: float) -> PassageGain | None:
    """Of pairs whose wrong endings are the right ones of others, as topic cloze's are; None where no two are."""
    sides = {pair.pair_id: pair for pair in pairs}
    own = {sides[score.pair_id].chosen: score.ll_chosen for score in scores}
    other = {sides[score.pair_id].rejected: score.ll_rejected for score in scores}
    gains = np.array([own[ending] - other[ending] for ending in sorted(own.keys() & other.keys())])
    if len(gains) < 2:
        return None
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * float(gains.std(ddof=1)) / math.sqrt(len(gains))
    mean = float(gains.mean())
    return PassageGain(len(gains), mean, mean - half, mean + half)
