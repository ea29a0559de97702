"""What a stage may ask of the machine, and what travels between the two. Needs no Ray to be described."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints

from slamray.config.compute import Compute
from slamray.stage.folder import Root

Metrics = dict[str, Any]
Report = Callable[[Metrics], None]  # what every rank of a loop calls with the same metrics
Loop = Callable[[Report], Metrics]
Done = Callable[[Mapping[str, Any]], None]

METRICS = "metrics.jsonl"  # in a training stage's folder: a line for each report
CHECKPOINTS = "checkpoints"  # there too: what a killed loop goes on from, a folder step-N for each
EACH_STEP = "each_step"  # in a report: a row for each step since the one before, where a loop tells so much
SHARDS = "shards"  # in a stage's folder: units of work that are merged, and removed before the stage is done
NOTICE = ".save-now"  # in its scratch folder: asks for a checkpoint at once; the loop removes it when one is written


@dataclass(frozen=True)
class Pool:
    """Actors that do one step: `kernel(**args)` loads its model once, then maps a row to a row.

    kernel: `package.module:Class`, so that only the actor imports it, or the class itself. Its `__call__` says by its
    annotations which record it takes and which it gives (see records.py). Pools are sized apart from each other; Ray
    Data holds back a fast pool while a slow one is behind.
    """

    kernel: str | Callable[..., Any]
    args: Mapping[str, Any]
    actors: int
    cpus: float = 1
    gpus: float = 0

    def load(self) -> tuple[Callable[[Any], Any], type, type]:
        """The kernel with its model, the record it takes and the one it gives."""
        kernel: Any = pkgutil.resolve_name(self.kernel) if isinstance(self.kernel, str) else self.kernel
        hints = get_type_hints(kernel.__call__)
        gives = hints.pop("return")
        (takes,) = hints.values()
        return kernel(**self.args), takes, gives


class Machine(Protocol):
    """Where a stage's work is done: a cluster, or this process in a test."""

    compute: Compute

    def rows(
        self,
        name: str,
        rows: Sequence[Any],
        pools: Sequence[Pool],
        total: int,
        unit: str,
        done: Done = lambda row: None,
    ) -> None:
        """Send records through pools in turn, in no fixed order; kernels leave what they make in files.

        rows: may make its records when it is asked for a slice of them. name, total, unit: for the progress line; total
        counts what an earlier run has done too. done: hears each record that comes out, as a dict: its
        class may be one that only an actor should import.
        """

    def train(self, name: str, loop: Loop, out: Root) -> Metrics:
        """Run `loop(report) -> facts` on the training workers; rank 0's facts.

        A worker may be on a machine that sees no disk of this one: a loop fetches what it reads by itself.
        """

    def call(self, name: str, function: Callable[[], Any], gpus: float = 0, cpus: float = 1) -> Any:
        """Run one function on one core, and a GPU where it asks for one, apart from this process.

        cpus=0: seconds of work, beside actors that hold every core. A stage that asks for more while its own rows are
        on their way may wait for them.
        """


class Machines(Protocol):
    """Gives a machine to each of several stages that are made side by side."""

    def seats(self, count: int) -> Sequence[Seat]: ...


class Seat(Machine, Protocol):
    """One stage's machine. Rows of stages that sit side by side go through one set of actors where pools are equal."""

    def leave(self) -> None:
        """The stage has ended: nobody waits for its rows any more."""
