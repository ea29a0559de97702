"""A short draw of the harness; `make chaos` draws many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1500)]


def struck(folder: Path, *words: str) -> str:
    """What the harness prints of one draw that came to the same."""
    command = [sys.executable, str(Path(__file__).parent / "chaos.py"), "N=1", f"ROOT={folder}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 draws came to the same" in done.stdout
    return done.stdout


def test_a_run_that_is_struck_in_speech_in_pre_training_and_in_dpo_comes_to_the_same(tmp_path: Path) -> None:
    struck(tmp_path, "STRIKES=3", "KINDS=driver,worker,torn")


def test_a_run_of_two_workers_under_zero_3_that_is_killed_in_pre_training_comes_to_the_same(tmp_path: Path) -> None:
    """Gloo workers of Ray Train, through the command; a worker is killed, and the model's files are compared."""
    told = struck(tmp_path, "KINDS=worker", "AT=pretrained", "WORKERS=2", "ZERO=3")
    assert "RayTrainWorker at pretrained" in told
    assert list(tmp_path.glob("draw-0/pretrained/*/model/model.safetensors"))
