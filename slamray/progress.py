"""Progress of long work: a bar in a terminal, sparse lines in a job's log, and how long it may still take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from slamray.console import console

LOG_SECONDS = 20.0, 600.0  # between two lines in a log: at least at first, and in a run of days; chosen, not tuned
LOG_SHARE = 0.05  # of what was spent, in between: a day's stage has two hundred lines; chosen, not tuned
WINDOW_SECONDS = 60.0  # the last ones, whose rate is taken to go on; chosen, not tuned
WINDOW_STEPS = 5  # of what ends seldom at least so many are counted; chosen, not tuned


class Pace:
    """How long work may still take, from its rate in its own last seconds.

    What came before the first piece ended, starts of processes and models among it, is in no rate.
    """

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._seen: deque[tuple[float, float]] = deque()  # when, and how much was done then

    def add(self, done: float) -> None:
        """So much is done now."""
        now = self._clock()
        if self._seen and done < self._seen[-1][1]:  # a training that starts again goes on from before
            self._seen.clear()
        if not self._seen or done > self._seen[-1][1]:
            self._seen.append((now, done))
        while len(self._seen) > WINDOW_STEPS and now - self._seen[1][0] > WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def left_seconds(self) -> float | None:
        """None until two more pieces have ended since the first: where actors begin together, they end together."""
        if len(self._seen) < 3:
            return None
        (then, before), (_, done) = self._seen[0], self._seen[-1]
        spent = self._clock() - then
        return (self._total - done) * spent / (done - before)


class Progress:
    """Shows done of total for one piece of work; `total` may be a share (1.0)."""

    def __init__(self, name: str, total: float, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._total, self._unit, self._clock = name, total, unit, clock
        self._pace = Pace(total, clock)
        self._began = clock()
        self._told: float | None = None

    def show(self, done: float, note: str = "") -> None:
        """Draw the state; in a log at the first time, and then so seldom that it stays short."""
        self._pace.add(done)
        there, now = console(), self._clock()
        share = 100 * done / self._total
        amount = f" {done:g}/{self._total:g} {self._unit}" if self._unit else ""
        left = self._pace.left_seconds if done < self._total else None
        about = f", about {clock_of(left)} left" if left is not None else ""
        text = f"{share:3.0f} %{amount} in {clock_of(now - self._began)}{about} {note}".rstrip()
        if there.draws:
            there.draw(self._name, done / self._total, text)
            return
        least, most = LOG_SECONDS
        wanted = min(most, max(least, LOG_SHARE * (now - self._began)))
        if self._told is None or now - self._told >= wanted:
            self._told = now
            there.say(f"{self._name:<18} {text}")


def clock_of(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss, from two days on in days and hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def spent_of(seconds: float) -> str:
    """The same of what is over, with tenths below a minute."""
    return f"{seconds:.1f} s" if seconds < 60 else clock_of(seconds)
