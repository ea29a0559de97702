"""What a run does when it is told to end, by Ctrl-C or by SIGTERM: it saves, says what is kept, and how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from slamray.console import console
from slamray.runtime.engine import Engine
from slamray.stage import claims
from slamray.stage.folder import Root
from slamray.stage.stage import Stage

WHY = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}


@dataclass
class Leaving:
    """The stages of a run; running: names of those that are made now."""

    engine: Engine
    root: Root
    wanted: Sequence[Stage]
    running: list[str] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While it lasts, both signals end the process this way. SIGTERM is the notice of most schedulers."""
        if threading.current_thread() is not threading.main_thread():  # only there may signals be handled
            yield
            return
        before = {number: signal.signal(number, self.leave) for number in WHY}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def leave(self, number: int, frame: object) -> None:
        """End the process: not through threads that still train. Ray's processes end with this one."""
        signal.signal(number, lambda again, frame: os._exit(128 + again))
        there = console()
        there.close()
        if training := self.engine.training:
            there.say(
                f"{', '.join(training)} may write a last checkpoint, within {self.engine.compute.notice_seconds:g} s; "
                "the same signal again ends at once"
            )
        saved = self.engine.save_now()
        claims.give_up_all()
        for line in self.account(WHY[signal.Signals(number)], saved):
            there.say(line)
        sys.stderr.flush()
        os._exit(128 + number)

    def account(self, why: str, saved: bool) -> list[str]:
        """What is kept, and the command that goes on; saved: whether what trained wrote a checkpoint just now."""
        done = sum(stage.is_done(self.root) for stage in self.wanted)
        training = self.engine.training
        lines = [f"{why}: {done} of {len(self.wanted)} stages are done and stay"]
        for name in self.running:
            if name not in training:
                lines.append(f"{name:<18} keeps the shards that it has finished")
            elif saved:
                lines.append(f"{name:<18} has written a checkpoint, and goes on from there")
            else:
                lines.append(
                    f"{name:<18} was not ready in time, and goes on from its checkpoint before, if there is one"
                )
        return [*lines, f"the same command goes on: {command_line()}"]


def command_line() -> str:
    """What was typed, as far as Python knows it."""
    script, *words = sys.argv
    started = ["python", script] if script.endswith(".py") else [os.path.basename(script)]
    return shlex.join([*started, *words])
