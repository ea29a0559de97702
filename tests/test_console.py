"""The console: what libraries say goes to a log, progress is sparse lines or bars, and what is left is no fable."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slamray.progress import Pace, Progress, clock_of, spent_of

SPEAKS = """
import logging, os, subprocess, sys
from pathlib import Path
early = logging.getLogger("early")
early.addHandler(logging.StreamHandler())
from slamray.console import libraries_into, say
with libraries_into(Path(sys.argv[1])):
    early.warning("a logger from before")
    logging.getLogger("late").addHandler(logging.StreamHandler())
    logging.getLogger("late").warning("a logger from now")
    os.write(2, b"native code\\n")
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('a child\\\\n')"], check=True)
    print("a bar of another library", file=sys.stderr)
    say("for the person")
    logging.getLogger("slamray.stage.claims").warning("a warning of ours")
    print("a result")
    raise RuntimeError("a defect")
"""
DRAWS = """
import sys, tempfile
from pathlib import Path
from slamray.console import console, libraries_into, say
from slamray.progress import Progress
with libraries_into(Path(tempfile.mkdtemp()) / "log"):
    console().draw("units", None, "starts")
    bars = Progress("units", 4, "shards"), Progress("items", 2, "shards")
    for done in (1, 2, 3, 4):
        bars[0].show(done)
        bars[1].show(done / 2)
    say("told between")
    console().end("units")
    console().end("items")
"""


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_what_libraries_say_goes_to_the_log_and_what_is_meant_for_the_person_does_not(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", SPEAKS, str(log)], capture_output=True, text=True, check=False)
    told = ["a logger from before", "a logger from now", "native code", "a child", "a bar of another library"]
    assert [line for line in log.read_text().splitlines() if line in told] == told
    assert done.stdout == "a result\n" and done.returncode == 1
    first, second, *traceback = done.stderr.splitlines()
    assert (first, second) == ("for the person", "a warning of ours")
    assert traceback[0].startswith("Traceback") and traceback[-1] == "RuntimeError: a defect"


def in_terminal(**environment: str) -> str:
    """What the same script writes to a terminal."""
    ours, theirs = pty.openpty()
    known = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"} | environment
    running = subprocess.Popen([sys.executable, "-c", DRAWS], stderr=theirs, env=known)
    os.close(theirs)
    found = b""
    try:
        while part := os.read(ours, 65536):
            found += part
    except OSError:  # Linux tells so that the other end is closed
        pass
    os.close(ours)
    assert running.wait(60) == 0
    return found.decode()


def test_bars_are_drawn_in_a_terminal_and_colours_stay_away_where_they_are_not_wanted() -> None:
    colour = re.compile(r"\x1b\[(?:\d+;)*[34]\d[;m]")
    drawn = in_terminal()
    assert "━" in drawn and colour.search(drawn) and "told between" in drawn and "\x1b[?25h" in drawn  # cursor is back
    plain = in_terminal(NO_COLOR="1")
    assert "━" in plain and not colour.search(plain)
    assert "\x1b" not in in_terminal(TERM="dumb")


def test_no_escape_code_is_written_to_what_is_no_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", DRAWS], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    assert [line.split()[:3] for line in done.stderr.splitlines()[:2]] == [["units", "25", "%"], ["items", "25", "%"]]


def test_what_is_left_is_told_from_the_last_seconds_and_not_from_a_slow_start() -> None:
    clock = Clock()
    pace = Pace(100, clock)
    clock.seconds = 300  # actors and models start
    pace.add(1)
    assert pace.left_seconds is None
    for clock.seconds, done in ((302, 2), (304, 3)):
        pace.add(done)
    assert pace.left_seconds == pytest.approx(97 * 2)  # one in two seconds
    for number in range(40):  # from now on four a second: after a minute nothing else counts
        clock.seconds = 304 + 2 * (number + 1)
        pace.add(3 + 2 * (number + 1))
    assert pace.left_seconds == pytest.approx(17 * 1.0)


def test_work_that_stands_still_is_not_foretold_to_end_soon() -> None:
    clock = Clock()
    pace = Pace(10, clock)
    for clock.seconds, done in ((1, 1), (2, 2), (3, 3)):
        pace.add(done)
    assert pace.left_seconds == pytest.approx(7)
    clock.seconds = 201  # 2 pieces in 200 s
    assert pace.left_seconds == pytest.approx(700)


def test_a_training_that_starts_again_is_foretold_anew() -> None:
    clock = Clock()
    pace = Pace(1.0, clock)
    for clock.seconds, done in ((1, 0.1), (2, 0.5), (3, 0.9), (60, 0.2)):
        pace.add(done)
    assert pace.left_seconds is None


def test_a_day_in_a_log_is_some_hundred_lines(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    shown = Progress("pretrained", 1.0, "", clock)
    for second in range(0, 86_400, 5):
        clock.seconds = second
        shown.show(second / 86_400)
    lines = capsys.readouterr().err.splitlines()
    # From 12,000 s on one each 600 s, which is 124; before that each is 5 % later than the last: ln(12000/400)/ln 1.05,
    # 70; before that each 20 s, which is 20.
    assert 150 < len(lines) < 230
    assert lines[-1].startswith("pretrained") and "left" in lines[-1]


@pytest.mark.parametrize(
    ("seconds", "clock", "spent"),
    [(0.24, "0:00", "0.2 s"), (59.0, "0:59", "59.0 s"), (61, "1:01", "1:01"), (7325, "2:02:05", "2:02:05"),
     (86_400 * 3 + 3600 * 5, "3 d 5 h", "3 d 5 h")],
)  # fmt: skip
def test_times_are_told_as_a_person_reads_them(seconds: float, clock: str, spent: str) -> None:
    assert (clock_of(seconds), spent_of(seconds)) == (clock, spent)
