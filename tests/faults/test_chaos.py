"""A short draw of the harness; `make chaos` draws many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1500)]


def test_a_run_that_is_struck_in_speech_in_pre_training_and_in_dpo_comes_to_the_same(tmp_path: Path) -> None:
    words = ["N=1", "STRIKES=3", "KINDS=driver,worker,torn", f"ROOT={tmp_path}"]
    command = [sys.executable, str(Path(__file__).parent / "chaos.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 draws came to the same" in done.stdout
