"""What a benchmark of speed prints: two settings measured in turn, their ratio and its spread, as one line of JSON."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """anchor, ours: medians of what was measured; ratio: the median of the pairs' own, low and high the least and
    the greatest of them. commit: with a plus where a file differs from it."""

    what: str
    anchor: float
    ours: float
    ratio: float
    low: float
    high: float
    commit: str


def measure(what: str, anchor: Callable[[], float], ours: Callable[[], float], pairs: int) -> Result:
    """Both in turn, the first of a pair second in the next, so that a machine that slows down harms both alike."""
    taken: dict[bool, list[float]] = {True: [], False: []}  # of the anchor, of the other
    for number in range(pairs):
        for is_anchor in (number % 2 == 0, number % 2 == 1):
            taken[is_anchor].append(anchor() if is_anchor else ours())
    return result_of(what, taken[True], taken[False])


def result_of(what: str, anchors: Sequence[float], ours: Sequence[float]) -> Result:
    """From the measured pairs; a greater figure is a better one."""
    ratios = [b / a for a, b in zip(anchors, ours, strict=True)]
    medians = [statistics.median(values) for values in (anchors, ours, ratios)]
    return Result(what, medians[0], medians[1], medians[2], min(ratios), max(ratios), commit())


def commit() -> str:
    """The commit of this folder, seven digits."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return _git("rev-parse", "HEAD")[:7] + ("+" if changed else "")


def machine() -> str:
    """Cores and the processor's name."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else 'an unknown processor'}"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()
