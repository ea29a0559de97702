"""A short draw of the harness: a killed worker, a killed driver with a torn checkpoint; `make chaos` draws many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_runs_that_are_struck_come_to_the_same_as_the_untouched_one(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / "chaos.py"), "N=2", "KINDS=worker,torn",
               f"ROOT={tmp_path}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 draws came to the same" in done.stdout
