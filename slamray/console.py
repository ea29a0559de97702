"""What a command tells the person who typed it: lines, and bars in a terminal. What libraries say goes to a log.

rich draws the bars: several stages are made at once, and tqdm's bars lose their places when a line is told between.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

PLAIN_TERMINALS = ("", "dumb", "unknown")  # values of TERM that name one which cannot go back in a line


class Console:
    """Lines for the person, and above what is under way a bar for each stage, where the stream is a terminal."""

    def __init__(self, stream: TextIO, draws: bool = False) -> None:
        self._stream = stream
        self._bars: Any = _Bars(stream) if draws and is_terminal(stream) else None

    @property
    def draws(self) -> bool:
        """Whether progress is drawn as bars; else it is told in lines."""
        return self._bars is not None

    def say(self, line: str) -> None:
        """Tell a line, above the bars where there are some."""
        if self._bars:
            self._bars.say(line)
            return
        self._stream.write(line + "\n")
        self._stream.flush()

    def draw(self, name: str, share: float | None, text: str = "") -> None:
        """Draw the bar of a piece of work that is under way; share: of it that is done, None where nobody knows."""
        if self._bars:
            self._bars.draw(name, share, text)

    def end(self, name: str) -> None:
        """Remove a bar."""
        if self._bars:
            self._bars.end(name)

    def close(self) -> None:
        """Remove all bars, and leave the terminal as it was."""
        if self._bars:
            self._bars.close()


class _Bars:
    """rich's bars on a terminal, one for each name; without colours where NO_COLOR is set."""

    def __init__(self, stream: TextIO) -> None:
        from rich import console, progress  # a tenth of a second, for terminals alone

        columns = (
            progress.TextColumn("{task.description:<18}"),
            progress.BarColumn(20),
            progress.TextColumn("{task.fields[text]}"),
        )
        self._bars = progress.Progress(
            *columns,
            console=console.Console(file=stream, highlight=False),
            refresh_per_second=2,  # cores are for the work; chosen, not tuned
            transient=True,  # of a stage that has ended a line stays, and no bar
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks: dict[str, Any] = {}
        self._lock = threading.RLock()  # stages are drawn by threads of their own; a signal comes wherever one is

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, soft_wrap=True)

    def draw(self, name: str, share: float | None, text: str) -> None:
        with self._lock:
            if not self._tasks:
                self._bars.start()
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=None, text=text)
            known: dict[str, Any] = {} if share is None else {"total": 1.0, "completed": share}
            self._bars.update(self._tasks[name], text=text, **known)

    def end(self, name: str) -> None:
        with self._lock:
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
                if not self._tasks:
                    self._bars.stop()

    def close(self) -> None:
        for name in list(self._tasks):
            self.end(name)


class _Log(io.TextIOWrapper):
    """Stands for stderr while libraries speak into a log; knows where the person reads."""

    def __init__(self, path: Path, person: Console) -> None:
        super().__init__(path.open("ab"), encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self.person = person


class _Told(logging.Handler):
    """Warnings of this package are for the person."""

    def emit(self, record: logging.LogRecord) -> None:
        console().say(self.format(record))


def console() -> Console:
    """Where the person reads: stderr or, while libraries speak into a log, what stderr was before."""
    person: Console | None = getattr(sys.stderr, "person", None)
    return person or Console(sys.stderr)


def say(line: str) -> None:
    """Tell the person a line."""
    console().say(line)


def is_terminal(stream: TextIO) -> bool:
    """Whether bars can be drawn there."""
    return stream.isatty() and os.environ.get("TERM", "") not in PLAIN_TERMINALS


@contextmanager
def libraries_into(path: Path) -> Iterator[None]:
    """While it lasts, whatever else writes to stderr, native code and child processes included, writes to this file.

    Inside another such context it changes nothing. The file stays open: libraries keep loggers that write to it.
    """
    if hasattr(sys.stderr, "person"):
        yield
        return
    before, descriptor = sys.stderr, os.dup(2)
    before.flush()
    stream = (
        os.fdopen(os.dup(descriptor), "w", buffering=1, errors="backslashreplace") if _is_stderr(before) else before
    )
    person = Console(stream, draws=True)
    log, told = _Log(path, person), _Told(logging.WARNING)
    logging.getLogger("slamray").addHandler(told)
    os.dup2(log.fileno(), 2)
    sys.stderr = log
    try:
        yield
    finally:
        person.close()
        log.flush()
        sys.stderr = before
        os.dup2(descriptor, 2)
        os.close(descriptor)
        logging.getLogger("slamray").removeHandler(told)


def _is_stderr(stream: TextIO) -> bool:
    """Whether a stream writes to the process's stderr, and not to what a test has put in its place."""
    try:
        return stream.fileno() == 2
    except (OSError, io.UnsupportedOperation):
        return False
