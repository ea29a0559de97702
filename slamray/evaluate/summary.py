"""Accuracies of scored pairs, and how sure they are: summaries, intervals, differences of two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np


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


def as_rows(results: Sequence[Summary] | Sequence[Difference]) -> list[dict[str, Any]]:
    """Summaries or differences as plain dicts, for a table or the report."""
    return [asdict(result) for result in results]
