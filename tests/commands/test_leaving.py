"""A run that is told to end: what it keeps, what it says, and that the same command goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Two stages on this machine; the second one waits until it is struck, unless the file `go` is there.
RUN = """
import sys, time
from pathlib import Path
sys.path.insert(0, "tests")
from support.machine import InProcess
from slamray.commands.leaving import Leaving
from slamray.config.compute import Compute
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.stage import Stage, order

folder = Path(sys.argv[1])
root = Folder(folder / "runs")

def first(inputs, out, machine):
    return {}

def second(inputs, out, machine):
    while not (folder / "go").exists():
        (folder / "waits").touch()
        time.sleep(0.02)
    return {}

units = Stage("units", first, {}, (), version=1)
rows = Stage("packed", second, {}, (units,), version=1)
leaving = Leaving(Engine(Compute()), root, order([rows]))

def observe(event, stage, record):
    if event == "start":
        leaving.running.append(stage.name)
    elif event == "end":
        leaving.running.remove(stage.name)

with leaving.listening():
    made = materialise([rows], root, InProcess(), {}, observe)
print(sorted(made))
"""


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_run_that_is_told_to_end_says_what_stays_and_goes_on(number: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "waits").exists():
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert told.splitlines() == [
        f"{said}: 1 of 2 stages are done and stay",
        "packed             keeps the shards that it has finished",
        f"the same command goes on: python {tmp_path}/run.py {tmp_path}",
    ]
    (tmp_path / "go").touch()
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert again.stdout == "['packed', 'units']\n", again.stderr
