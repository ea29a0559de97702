"""A calibration measures every rate that a plan counts with, and the plan then leaves none open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slamray.config.rates import RATES, Rates
from slamray.stages.estimate import Calibration

ROOT = Path(__file__).parents[2]


def run(job: str, words: list[str]) -> str:
    command = [sys.executable, str(ROOT / "jobs" / job), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.long
def test_a_calibration_measures_all_that_a_plan_asks_for(tiny_words: list[str], tmp_path: Path) -> None:
    words = [*tiny_words, f"root={tmp_path}", "pack.context=256"]
    run("calibrate.py", [*words, "seconds=0.5"])
    found = Calibration.read(tmp_path / RATES)
    assert found.rates.model_dump(exclude_none=True).keys() == Rates.model_fields.keys()
    assert 100 < found.rates.driver_mb < 5_000 and 100 < found.rates.speech_mb < 5_000  # type: ignore[operator]
    assert 10 < found.rates.document_seconds < 200  # type: ignore[operator]
    assert [path.name for path in tmp_path.iterdir()] == [RATES]
    plan = run("slam.py", [*words, "--plan"])
    assert (
        "not measured" not in plan and "at least" not in plan.partition("the whole recipe")[2].partition("of disk")[0]
    )
