"""What travels between stages and Ray: rows, pools of kernels, training loops. Needs no Ray to be described."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Metrics = dict[str, Any]
Report = Callable[[Metrics], None]  # what every rank of a loop calls with the same metrics
Loop = Callable[[Report], Metrics]

METRICS = "metrics.jsonl"  # in a training stage's folder: a line for each report
CHECKPOINTS = "checkpoints"  # there too: what a killed loop goes on from, a folder step-N for each
NOTICE = ".save-now"  # there too: asks for a checkpoint at once; the loop removes it when one is written


@dataclass(frozen=True)
class Pool:
    """Actors that do one step: `kernel(**args)` loads its model once, then maps a row to a row.

    Rows hold what Arrow can hold: numbers, strings, bytes, and lists of them. Pools are sized apart from each other;
    Ray Data holds back a fast pool while a slow one is behind.
    """

    kernel: Callable[..., Callable[[Row], Row]]
    args: Mapping[str, Any]
    actors: int
    cpus: float = 1
    gpus: float = 0


@dataclass(frozen=True)
class Stream:
    """Rows to send through pools in turn, in no fixed order; their kernels leave what they make in files.

    name, total, unit: for the progress line; total counts what is left of an earlier run too.
    """

    name: str
    rows: Sequence[Row]
    pools: Sequence[Pool]
    total: int
    unit: str
