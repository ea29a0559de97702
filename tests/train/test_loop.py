"""The loop on a trainable of one number: reports, validation times, notice, and kills, on any number of ranks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.processes import run_ranks

from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.stage.work import NOTICE
from slamray.train.loop import Run, Step, Write, train
from slamray.train.ranks import add_over_ranks, rank_and_world

SAVING = Compute(report_every_steps=4, checkpoint_every_seconds=1e-9)
SELDOM = SAVING.model_copy(update={"checkpoint_every_seconds": 1e6})


class Counter:
    """Step n adds n + 0.1 to a number; ranks share each step's loss."""

    validations = 4

    def __init__(self, stop_before: int | None = None) -> None:
        self.total, self.stop_before = 0.0, stop_before
        self.rank, self.world = rank_and_world()

    def step(self, number: int, progress: float) -> Step:
        if number == self.stop_before:
            raise KeyboardInterrupt
        self.total += number + 0.1
        amounts = {"padding": 2.0}
        return Step({"loss": self.total / 3 / self.world}, {"rate": progress}, 1 + number, 10, 60.0, amounts)

    def rates(self, window: Mapping[str, float]) -> dict[str, float]:
        return {"padding_a_step": window["padding"] / window["steps"]}

    def validate(self) -> dict[str, float]:
        return {"validation_loss": add_over_ranks({"total": self.total / self.world})["total"]}

    def snapshot(self) -> Write | None:
        total = self.total
        return None if self.rank else lambda folder: (folder / "total").write_text(repr(total)) and None

    def load(self, checkpoint: Path) -> None:
        self.total = float((checkpoint / "total").read_text())


def run(out: Path, compute: Compute = SELDOM, stop_before: int | None = None) -> tuple[list[dict[str, Any]], Any]:
    """Reports, and facts or None where the run was stopped."""
    reports: list[dict[str, Any]] = []
    out.mkdir(exist_ok=True)
    running = Run(parse_budget("steps:12", "budget"), compute, out, reports.append)
    with contextlib.suppress(KeyboardInterrupt):
        train(Counter(stop_before), running)
        return reports, running.finish()
    return reports, None


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def test_a_report_is_the_mean_since_the_one_before_and_validations_come_at_even_shares(tmp_path: Path) -> None:
    reports, facts = run(tmp_path)
    totals = [sum(n + 0.1 for n in range(step)) for step in range(1, 13)]
    assert [row["step"] for row in reports] == [4, 8, 12]
    assert [row["loss"] for row in reports] == pytest.approx([sum(totals[i : i + 4]) / 12 for i in (0, 4, 8)])
    assert all(row["padding_a_step"] == 2.0 and row["workers"] == 1 for row in reports)
    assert [row["rate"] for row in reports] == [3 / 12, 7 / 12, 11 / 12]
    history = json.loads((tmp_path / "history.json").read_text())
    validated = {row["step"]: row["validation_loss"] for row in history if "validation_loss" in row}
    assert validated == {0: 0.0, 3: totals[2], 6: totals[5], 9: totals[8], 12: totals[11]}
    assert (facts["step"], facts["tokens"], facts["flops"]) == (12, 120, 720.0)


@pytest.mark.parametrize("stop_before", [1, 3, 6, 11])
def test_a_run_killed_in_the_middle_of_a_report_tells_the_same_numbers_bit_for_bit(
    tmp_path: Path, stop_before: int
) -> None:
    whole, facts = run(tmp_path / "whole", SAVING)
    first, _ = run(tmp_path / "cut", SAVING, stop_before)
    rest, again = run(tmp_path / "cut", SAVING)
    assert timeless(first + rest) == timeless(whole)
    assert timeless([again]) == timeless([facts])
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "cut")]
    assert timeless(histories[0]) == timeless(histories[1])


def test_a_notice_has_a_checkpoint_written_at_once_and_goes(tmp_path: Path) -> None:
    run(tmp_path, stop_before=2)
    assert not (tmp_path / "checkpoints").exists()
    (tmp_path / NOTICE).touch()
    run(tmp_path, stop_before=2)
    assert not (tmp_path / NOTICE).exists()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]


def test_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    _, facts = run(tmp_path)
    assert run(tmp_path) == ([], facts)


def _one_of_many(rank: int, folder: Path, stop_before: int | None) -> None:
    reports, facts = run(folder / "many", SAVING, stop_before)
    (folder / f"{stop_before}-{rank}.json").write_text(json.dumps([timeless(reports), facts]))


@pytest.mark.slow
def test_ranks_together_tell_what_one_tells_and_each_the_same(tmp_path: Path) -> None:
    alone, _ = run(tmp_path / "alone")
    run_ranks(_one_of_many, 3, tmp_path, 6)
    run(tmp_path / "many", SAVING, 9)  # two steps on one rank
    run_ranks(_one_of_many, 2, tmp_path, None)
    for rank in (0, 1):
        (end, facts), (first, _) = (json.loads((tmp_path / f"{at}-{rank}.json").read_text()) for at in ("None", "6"))
        assert [row["step"] for row in first + end] == [4, 12]
        assert end[-1]["loss"] == pytest.approx(alone[-1]["loss"]) and end[-1]["padding_a_step"] == 2.0
        assert (facts["step"], facts["tokens"]) == (12, 120)
