"""A short draw of the harness, one fault in speech, one in pre-training, one in DPO; `make chaos` draws many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_that_is_struck_three_times_comes_to_the_same_as_the_untouched_one(tmp_path: Path) -> None:
    words = ["N=1", "STRIKES=3", "KINDS=driver,worker,torn", f"ROOT={tmp_path}"]
    command = [sys.executable, str(Path(__file__).parent / "chaos.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 draws came to the same" in done.stdout
