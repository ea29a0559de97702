"""docs/extend.md, followed: its trainable is trained by the common loop, and resumes where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.pages import code_blocks

from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.train.loop import Run, train


@pytest.fixture
def page() -> dict[str, Any]:
    """The names that the section's code defines."""
    names: dict[str, Any] = {}
    exec(
        "from pathlib import Path\nfrom slamray.config.budget import parse_budget\n"
        "from slamray.config.compute import Compute\nfrom slamray.stage.work import Metrics, Report\n"
        "from slamray.train.loop import Run, train\n",
        names,
    )
    for _, code in code_blocks("extend.md", "A trainable"):
        exec(code, names)
    return names


def test_the_trainable_of_the_page_learns_its_line(page: dict[str, Any], tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    facts = page["fit_line"](Compute(), tmp_path, told.append)
    assert facts["step"] == 200 and facts["validation_loss"] < 1e-3 < told[0]["validation_loss"]
    assert told[-1]["steps_per_second"] > 0


def test_it_goes_on_from_its_checkpoint_to_the_same_weights(page: dict[str, Any], tmp_path: Path) -> None:
    page["fit_line"](Compute(), tmp_path / "whole", lambda metrics: None)
    budget = parse_budget("steps:200", "budget")
    for until in (parse_budget("steps:80", "budget"), budget):
        trainable = page["LineTraining"](learning_rate=0.5)
        run = Run(budget, Compute(), tmp_path / "stopped", lambda metrics: None, until=until)
        train(trainable, run)
    saved = [sorted(folder.rglob("line.pt"))[-1].read_bytes() for folder in (tmp_path / "whole", tmp_path / "stopped")]
    assert saved[0] == saved[1]
