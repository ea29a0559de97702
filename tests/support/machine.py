"""A machine that does a stage's work in this process: kernels run one pool after another, rows through Arrow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from slamray.config.compute import Compute
from slamray.stage.folder import Folder, Root
from slamray.stage.records import from_table, to_table
from slamray.stage.work import METRICS, Done, Loop, Metrics, Pool


class InProcess:
    """See `slamray.stage.work.Machine`; it gives itself as every seat.

    Stages side by side take turns: transformers patches torch for the whole process while it loads a model.
    """

    def __init__(self, compute: Compute | None = None) -> None:
        self.compute = compute or Compute()
        self.sent: list[str] = []  # names of the stages that sent rows, a name for each row
        self._turn = threading.Lock()

    def seats(self, count: int) -> list[InProcess]:
        return [self] * count

    def leave(self) -> None:
        """Nobody waits for anybody here."""

    def rows(
        self,
        name: str,
        rows: Sequence[Any],
        pools: Sequence[Pool],
        total: int,
        unit: str,
        done: Done = lambda row: None,
    ) -> None:
        with self._turn:
            self.sent += [name] * len(rows)
            for pool in pools if len(rows) else ():
                kernel, takes, gives = pool.load()
                rows = [kernel(row) for row in from_table(to_table(list(rows), takes), takes)]
                assert all(isinstance(row, gives) for row in rows)
            for row in rows:
                done(asdict(row))

    def train(self, name: str, loop: Loop, out: Root) -> Metrics:
        Folder(out).write(METRICS, b"")
        return loop(lambda metrics: None)

    def call(self, name: str, function: Callable[[], Any], gpus: float = 0, cpus: float = 1) -> Any:
        return function()
