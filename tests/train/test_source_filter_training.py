"""Training of the source-filter decoder: its schedule, resumption, notice, and any number of workers."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.processes import run_ranks

from slamray.config.assets import SourceFilterSettings
from slamray.config.compute import Compute
from slamray.stage.work import NOTICE
from slamray.train.source_filter_training import one_cycle, train_source_filter

HOP = 640
STEPS = 8
CONFIG = SourceFilterSettings(
    hidden=16, unit_blocks=1, frame_blocks=1, budget=f"steps:{STEPS}", batch=3, crop_seconds=0.5, learning_rate=5e-3
)
COMPUTE = Compute(dtype="float32", report_every_steps=1, checkpoint_every_seconds=1e6)
SAVING = COMPUTE.model_copy(update={"checkpoint_every_seconds": 1e-9})


def recording(seed: int, frames: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Noise and two tones, four frames of each in turn."""
    draw = np.random.default_rng(seed)
    units = np.repeat(draw.integers(0, 3, frames // 4), 4)
    phase = 2 * np.pi * np.cumsum(np.repeat(np.array([0, 150, 300])[units], HOP)) / 16_000
    return units.astype(np.uint16), (0.1 * np.sin(phase) + 0.01 * draw.standard_normal(len(phase))).astype(np.float32)


def run(
    out: Path, compute: Compute = COMPUTE, stop_after: int | None = None, notice_at: int | None = None
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor], dict[str, Any]]:
    """Reports, weights, facts. notice_at: the step after which the file that asks for a checkpoint appears."""
    reports: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any]) -> None:
        reports.append(metrics)
        if metrics["step"] == notice_at:
            (out / NOTICE).touch()
        if metrics["step"] == stop_after:
            raise KeyboardInterrupt

    recordings = [recording(seed) for seed in range(3)]
    vocoder, facts = train_source_filter(recordings, 3, HOP, CONFIG, compute, out, report)
    return reports, vocoder.net.state_dict(), facts


@pytest.mark.parametrize("steps", [3, 10, 1500])
def test_the_schedule_is_torchs_one_cycle(steps: int) -> None:
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps)
    for step in range(steps):
        group = optimiser.param_groups[0]
        assert one_cycle(1e-3, step, steps) == (group["lr"], group["betas"][0])
        optimiser.step()
        schedule.step()


def test_a_run_that_was_interrupted_ends_bit_for_bit_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, weights, facts = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", SAVING, stop_after=3)
    rest, again, facts_again = run(tmp_path / "cut", SAVING)
    assert [row["step"] for row in rest] == [4, 5, 6, 7, 8]
    assert [row["loss"] for row in rest] == [row["loss"] for row in whole[3:]]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert facts["samples"] == facts_again["samples"]


def test_a_notice_has_a_checkpoint_written_at_once_and_goes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_after=5, notice_at=3)  # no checkpoint is due by the clock
    assert not (tmp_path / NOTICE).exists()
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000000004"]
    assert run(tmp_path)[0][0]["step"] == 5


def _one_of_many(rank: int, folder: Path, world: int) -> None:
    torch.set_num_threads(1)
    for stop_after in (3, None):
        with contextlib.suppress(KeyboardInterrupt):
            _, _, facts = run(folder / f"{world}", SAVING, stop_after)
            (folder / f"{world}-{rank}.json").write_text(json.dumps(facts))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_workers_trains_what_one_trains_through_a_kill(tmp_path: Path, world: int) -> None:
    """Two have three crops: one works on two of them, and every loss is still that of the whole batch."""
    whole, _, facts = run(tmp_path / "alone")
    run_ranks(_one_of_many, world, tmp_path, world)
    assert json.loads((tmp_path / f"{world}-0.json").read_text())["samples"] == facts["samples"]
    history = json.loads((tmp_path / f"{world}" / "history.json").read_text())
    for one, other in zip(whole, history, strict=True):
        for loss in ("loss", "mel", "pitch", "voicing", "duration"):
            assert other[loss] == pytest.approx(one[loss], rel=1e-4, abs=1e-6)
