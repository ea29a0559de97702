"""The machine that stages ask: sends their rows through actors and runs their training loops, on Ray.

Stages that are made side by side each have a seat. Where their rows go through equal pools, they go through one set of
actors, which is started once. What they ask for waits until its devices are free, those of a training for as long as it
may start again (budget.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from slamray.config.compute import Compute
from slamray.progress import Progress
from slamray.runtime.budget import Budget, Devices, of_pools, of_training
from slamray.stage.folder import Folder, Root
from slamray.stage.work import Done, Loop, Metrics, Pool

Observe = Callable[[str, Metrics], None]
CLOSING_SECONDS = 30.0  # Ray ends a process that asks something of it when it is shut down; chosen, not tuned


class Engine:
    """Hands work to Ray; a run with nothing to do never connects.

    `observe(stage name, metrics)` hears every metric of every training loop; it may be replaced between stages.
    """

    def __init__(self, compute: Compute, observe: Observe = lambda stage, metrics: None) -> None:
        self.compute = compute
        self.observe = observe
        self._connected = False
        self._probed = False
        self._training: set[Folder] = set()  # of the stages that train now
        self.budget = Budget(self._devices)

    def seats(self, count: int) -> list[EngineSeat]:
        """A machine for each of several stages that are made side by side."""
        table = _Table(self, count)
        return [EngineSeat(self, table) for _ in range(count)]

    def train(self, name: str, loop: Loop, out: Root) -> Metrics:
        """Run `loop(report) -> facts` on the training workers; rank 0's facts."""
        from slamray.runtime import session, train

        self.connect()
        progress = Progress(name, 1.0, "")

        def heard(metrics: Metrics) -> None:
            self.observe(name, metrics)
            if "progress" in metrics:
                progress.show(min(1.0, metrics["progress"]), f"loss {metrics['loss']:.3f}" if "loss" in metrics else "")

        folder = Folder(out)
        self._training.add(folder)
        try:
            with self.budget.hold(of_training(self.compute)):
                return train.train(loop, self.compute, folder, heard)
        except Exception as error:
            raise session.user_error(error) or error from error
        finally:
            self._training.discard(folder)

    def call(self, name: str, function: Callable[[], Any], gpus: float = 0, cpus: float = 1) -> Any:
        """Run one function on a core of the cluster, and a GPU where it asks for one, apart from the driver."""
        from slamray.runtime import data, session

        self.connect()
        try:
            with self.budget.hold(Devices(cpus, gpus)):
                return data.call(name, function, gpus, cpus)
        except Exception as error:
            raise session.user_error(error) or error from error

    @property
    def training(self) -> list[str]:
        """Names of the stages that train now."""
        return sorted(folder.parent.name for folder in self._training)

    def save_now(self) -> bool:
        """Have what trains now write a checkpoint; whether it did within `compute.notice_seconds`."""
        if not self._training:
            return True
        from slamray.runtime.post import open_post

        posts = [open_post(out) for out in self._training]
        for post in posts:
            post.ask()
        deadline = time.monotonic() + self.compute.notice_seconds
        while any(post.asked() for post in posts):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def connect(self) -> None:
        """Connect to Ray, or start it; BadInput when the cluster can never run this compute. Done once."""
        from slamray.runtime import session  # Ray takes seconds to import, and a finished run needs none of it

        session.connect(self.compute)
        self._connected = True

    def check_root(self, root: Folder) -> None:
        """BadInput when a node of the cluster does not see this folder."""
        from slamray.runtime import nodes

        self.connect()
        nodes.check_root(root)

    def probe(self, needed_bytes: int) -> None:
        """Where training runs on GPUs: BadInput when one of the cluster's cannot train. Done once."""
        from slamray.runtime import gpus

        self.connect()
        if self.compute.device == "cuda" and not self._probed:
            gpus.probe_gpus(self.compute, needed_bytes)
            self._probed = True

    def _devices(self) -> Devices:
        from slamray.runtime import session

        return session.devices(self.compute)

    def close(self) -> None:
        """Leave the cluster, or stop the one that was started here; for a job's end only."""
        if self._connected:
            from slamray.runtime import session

            self.budget.wait(CLOSING_SECONDS)  # a stream whose last row was heard still ends its actors
            session.disconnect()


@dataclass(eq=False)
class _Rows:
    """What one stage sends, and whether it is done."""

    name: str
    rows: Sequence[Any]
    pools: Sequence[Pool]
    total: int
    unit: str
    heard: Done
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class _Table:
    """Joins the rows of the stages that sit at it.

    When everyone who has not left has asked, the rows with the same pools as the first one's go out together.
    """

    def __init__(self, engine: Engine, seats: int) -> None:
        self._engine, self._seats = engine, seats
        self._asked: list[_Rows] = []
        self._sending = False
        self._lock = threading.Lock()

    def ask(self, rows: _Rows) -> None:
        """Wait until these rows are done; raises what went wrong with them."""
        with self._lock:
            self._asked.append(rows)
            self._send_if_complete()
        rows.done.wait()
        if rows.error:
            raise rows.error

    def leave(self) -> None:
        with self._lock:
            self._seats -= 1
            self._send_if_complete()

    def _send_if_complete(self) -> None:
        if self._sending or not self._asked or len(self._asked) < self._seats:
            return
        joined = [one for one in self._asked if one.pools == self._asked[0].pools]
        self._asked = [one for one in self._asked if one not in joined]
        self._sending = True
        threading.Thread(target=self._send, args=(joined,), daemon=True).start()

    def _send(self, joined: list[_Rows]) -> None:
        try:
            self._stream(joined)
        except BaseException as error:  # whatever it is, it is raised in the stages whose rows are missing
            for one in joined:
                one.error = None if one.done.is_set() else error
        for one in joined:
            one.done.set()
        with self._lock:
            self._sending = False
            self._send_if_complete()

    def _stream(self, joined: Sequence[_Rows]) -> None:
        from slamray.runtime import data, session

        self._engine.connect()
        shown = [Progress(one.name, one.total, one.unit) for one in joined]
        missing = [len(one.rows) for one in joined]
        pools = joined[0].pools
        try:
            with self._engine.budget.hold(of_pools(pools, sum(missing))):
                for sender, row in data.stream([one.rows for one in joined], pools):
                    joined[sender].heard(row)
                    missing[sender] -= 1
                    shown[sender].show(joined[sender].total - missing[sender])
                    if not missing[sender]:
                        joined[sender].done.set()
        except Exception as error:
            raise session.user_error(error) or error from error


class EngineSeat:
    """One stage's machine."""

    def __init__(self, engine: Engine, table: _Table) -> None:
        self._engine, self._table = engine, table
        self.compute = engine.compute
        self.train, self.call = engine.train, engine.call

    def rows(
        self,
        name: str,
        rows: Sequence[Any],
        pools: Sequence[Pool],
        total: int,
        unit: str,
        done: Done = lambda row: None,
    ) -> None:
        """Send records through pools in turn; see `stage.work.Machine`."""
        if len(rows):
            self._table.ask(_Rows(name, rows, pools, total, unit, done))

    def leave(self) -> None:
        """The stage has ended."""
        self._table.leave()
