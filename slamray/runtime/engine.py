"""What may be asked of the machine: stream rows through actors, run a training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from slamray.config.compute import Compute
from slamray.progress import Progress
from slamray.stage.work import NOTICE, Loop, Metrics, Stream

Observe = Callable[[str, Metrics], None]


class Engine:
    """Hands work to Ray; a run with nothing to do never connects.

    `observe(stage name, metrics)` hears every metric of every training loop; it may be replaced between stages.
    """

    def __init__(self, compute: Compute, observe: Observe = lambda stage, metrics: None) -> None:
        self.compute = compute
        self.observe = observe
        self._connected = False
        self._training: set[Path] = set()  # folders of the stages that train now

    def stream(self, streams: Sequence[Stream]) -> Iterator[int]:
        """Send the rows of all the streams, whose pools are equal, through one set of actors.

        Yields the number of a stream for each of its rows that is done.
        """
        from slamray.runtime import data, session

        self.connect()
        shown = [Progress(stream.name, stream.total, stream.unit) for stream in streams]
        done = [stream.total - len(stream.rows) for stream in streams]
        try:
            for number in data.stream([stream.rows for stream in streams], streams[0].pools):
                done[number] += 1
                shown[number].show(done[number])
                yield number
        except Exception as error:
            raise session.user_error(error) or error from error

    def call(self, name: str, function: Callable[[], Metrics]) -> Metrics:
        """Run one function on one core of the cluster, apart from the driver."""
        from slamray.runtime import data, session

        self.connect()
        try:
            return data.call(name, function)
        except Exception as error:
            raise session.user_error(error) or error from error

    def train(self, name: str, loop: Loop, out: Path, compute: Compute | None = None) -> Metrics:
        """Run `loop(report) -> facts` on the training workers; rank 0's facts."""
        from slamray.runtime import session, train

        self.connect()
        progress = Progress(name, 1.0, "")

        def heard(metrics: dict[str, Any]) -> None:
            self.observe(name, metrics)
            if "progress" in metrics:
                progress.show(min(1.0, metrics["progress"]), f"loss {metrics['loss']:.3f}" if "loss" in metrics else "")

        self._training.add(out)
        try:
            return train.train(loop, compute or self.compute, out, heard)
        except Exception as error:
            raise session.user_error(error) or error from error
        finally:
            self._training.discard(out)

    def save_now(self) -> bool:
        """Have what trains now write a checkpoint; whether it did within `compute.notice_seconds`."""
        notices = [out / NOTICE for out in self._training]
        for notice in notices:
            notice.touch()
        deadline = time.monotonic() + self.compute.notice_seconds
        while any(notice.exists() for notice in notices):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def connect(self) -> None:
        """Connect to Ray, or start it; BadInput when the cluster can never run this compute. Done once."""
        from slamray.runtime import session  # Ray takes seconds to import, and a finished run needs none of it

        session.connect(self.compute)
        self._connected = True

    def close(self) -> None:
        """Leave the cluster, or stop the one that was started here; for a job's end only."""
        if self._connected:
            from slamray.runtime import session

            session.disconnect()
