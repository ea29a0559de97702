"""Which point of a sweep to choose, and how sure that is: resampled over seeds and test items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
INTERVAL = 0.95

Judged = Mapping[str, npt.NDArray[np.float64]]  # by metric: 1, 0.5 or 0 for each item, in one order for all runs


@dataclass(frozen=True)
class Answer:
    """The point whose objective is greatest, and what the resamples say of it."""

    point: str
    value: float  # mean over seeds, 0..1
    low: float
    high: float
    seeds: int
    sure: float  # share of the resamples in which it is the greatest
    also: tuple[str, ...]  # points that cannot be told apart from it
    points: int  # of all that were compared

    def sentence(self, objective: Sequence[str]) -> str:
        """For people: the recommendation with its confidence."""
        names = [name.replace("_", " ") for name in objective]
        of = names[0] if len(names) == 1 else f"mean of {', '.join(names[:-1])} and {names[-1]}"
        seeds = f"{self.seeds} seed" + ("s" if self.seeds > 1 else "")
        told = f"{of} {100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] over {seeds}"
        sure = f"the best in {self.sure:.0%} of {RESAMPLES:,} resamples of seeds and items"
        if not self.also:
            return f"Recommended: {self.point}: {told}; {sure}, and better than every other point beyond chance."
        others = "any other point" if len(self.also) == self.points - 1 else "; ".join(self.also)
        return f"Best so far: {self.point}: {told}; {sure}. Not told apart from it: {others}."


def choose(judged: Mapping[str, Sequence[Judged]], seed: int = 0) -> Answer:
    """The answer from each point's runs, one for each seed, the same number and order of seeds for all points.

    A resample draws seeds, and items of each metric, with replacement, the same for all points: runs with a seed share
    their data, and their trunk, and all are judged by the same items. A point cannot be told apart from the best when
    the interval of their difference holds 0. Points with fewer seeds than the most are left out.
    """
    most = max(len(runs) for runs in judged.values())
    points = [point for point, runs in judged.items() if len(runs) == most]
    metrics = list(judged[points[0]][0])
    # P points, S seeds, I items of a metric
    scores_PSI = {metric: np.array([[run[metric] for run in judged[point]] for point in points]) for metric in metrics}
    rng = np.random.default_rng(seed)
    drawn_RP = np.empty((RESAMPLES, len(points)))
    for row in drawn_RP:
        seeds = rng.integers(most, size=most)
        means = []
        for scores in scores_PSI.values():
            items = rng.integers(scores.shape[2], size=scores.shape[2])
            means.append(scores[:, seeds][:, :, items].mean(axis=(1, 2)))
        row[:] = np.mean(means, axis=0)
    mean_P = np.mean([scores.mean(axis=(1, 2)) for scores in scores_PSI.values()], axis=0)
    best = int(mean_P.argmax())
    tail = 100 * (1 - INTERVAL) / 2
    low, high = np.percentile(drawn_RP[:, best], [tail, 100 - tail])
    worse_by = np.percentile(drawn_RP[:, [best]] - drawn_RP, tail, axis=0)
    also = tuple(point for place, point in enumerate(points) if place != best and worse_by[place] <= 0)
    sure = float((drawn_RP.argmax(axis=1) == best).mean())
    return Answer(points[best], float(mean_P[best]), float(low), float(high), most, sure, also, len(points))
