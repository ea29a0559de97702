"""Progress of long work: one line redrawn in a terminal, sparse lines in a job's log."""

from __future__ import annotations

import sys
import time

LOG_SECONDS = 20.0  # at least this long between two lines in a log; chosen, not tuned


class Progress:
    """Shows done of total for one piece of work; `total` may be a share (1.0)."""

    def __init__(self, name: str, total: float, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._began = time.monotonic()
        self._last_shown = 0.0
        self._terminal = sys.stderr.isatty()

    def show(self, done: float, note: str = "") -> None:
        """Draw the state; in a log only the first, the last, and one each LOG_SECONDS."""
        now = time.monotonic()
        finished = done >= self._total
        if not (self._terminal or finished or now - self._last_shown >= LOG_SECONDS):
            return
        self._last_shown = now
        spent = now - self._began
        left = f", {_clock(spent / done * (self._total - done))} left" if 0 < done < self._total else ""
        amount = f"{done:g}/{self._total:g} {self._unit}" if self._unit else ""
        line = f"{self._name:<18} {100 * done / self._total:3.0f} % {amount} in {_clock(spent)}{left} {note}".rstrip()
        if self._terminal:
            sys.stderr.write("\r\x1b[K" + line + ("\n" if finished else ""))
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
