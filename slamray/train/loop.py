"""The training loop, and what every training has in common: budget, reports, validation times, checkpoints, resume.

`train` drives a `Trainable` by the services of a `Run`. TRL's DPO trainer drives itself and uses the same `Run`
(train/dpo/trainer.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from slamray.config.budget import Budget
from slamray.config.compute import Compute
from slamray.stage.folder import Folder, Root
from slamray.stage.work import CHECKPOINTS, NOTICE, Metrics, Report
from slamray.tokens.sampler import add_hashes
from slamray.train.checkpoint import Saver, newest_complete, read_state, write_state
from slamray.train.ranks import add_hashes_over_ranks, add_over_ranks, of_every_rank, rank0_number, rank_and_world
from slamray.train.spent import Spent, progress

Write = Callable[[Path], None]  # writes what a checkpoint holds into its folder
Snapshot = Callable[[], Write | None]  # a collective; None on all ranks but 0, or on none where each writes its part


@dataclass(frozen=True)
class Step:
    """What one optimiser step came to.

    losses: this rank's part of numbers that are added over ranks and averaged over the steps of a report.
    latest: the same on every rank; a report holds those of its last step.
    samples: hash of what this rank was trained on (tokens.sampler.sample_hash).
    amounts: the same on every rank, or of rank 0; summed over the steps of a report, for `Trainable.rates`.
    """

    losses: Mapping[str, float]
    latest: Mapping[str, float]
    samples: int
    tokens: int = 0
    flops: float = 0.0
    amounts: Mapping[str, float] = field(default_factory=dict)


class Trainable(Protocol):
    """What the loop trains. Every rank makes the same calls in the same order, so all methods may be collectives."""

    validations: int  # evenly spaced over the budget, beside one of the untrained model; 0: none

    def step(self, number: int, progress: float) -> Step:
        """Optimiser step `number` (from 0), which begins at this share of the budget."""

    def rates(self, window: Mapping[str, float]) -> dict[str, float]:
        """More numbers of a report, from the sums since the one before: `steps`, `seconds`, `tokens`, `amounts`."""

    def validate(self) -> dict[str, float]:
        """What is measured at validation times, the same on every rank."""

    def snapshot(self) -> Write | None:
        """A copy of all that training changes, and what writes it, later and in another thread.

        On rank 0 alone; or of what each rank holds on every rank, in files of other names.
        """

    def load(self, checkpoint: Path) -> None:
        """Put back what a snapshot wrote, on any number of ranks."""


class Run:
    """What a training has spent and told, when it reports and saves, and where it goes on from.

    newest: the whole checkpoint in `out/checkpoints` that training goes on from, else `after`, a checkpoint that
    another training left, else None; a path on this worker's machine. until: the budget at which this run ends, before
    that of the schedules. A file `.save-now` in the scratch folder of `out` on rank 0's machine asks for a checkpoint
    at once; it is removed when one is written.
    """

    def __init__(
        self,
        budget: Budget,
        compute: Compute,
        out: Root,
        report: Report,
        after: Path | None = None,
        until: Budget | None = None,
        counts_tokens: bool = True,
    ) -> None:
        self.budget, self.until, self.compute, self.out = budget, until or budget, compute, Folder(out)
        self.report, self._counts_tokens = report, counts_tokens
        self.rank, self.world = rank_and_world()
        self.spent, self._progress_before = Spent(), 0.0
        self.samples = 0  # hash of what this rank was trained on
        self.history: list[Metrics] = []
        self.latest_validation: dict[str, float] = {}
        self.window: dict[str, float] = {}  # sums since the last report; common ones on rank 0 alone
        self.window_steps = 0
        self.first_step_at: float | None = None
        checkpoints = self.out / CHECKPOINTS
        self._saver, self._saved_at = Saver(checkpoints), 0.0
        self._notice = self.out.scratch() / NOTICE
        newest = newest_complete(checkpoints, together=True)
        self.newest = checkpoints.fetch(newest) if newest else after
        if self.newest is not None:
            self._resume(read_state(self.newest))

    def _resume(self, state: dict[str, Any]) -> None:
        """What the ranks that saved it had together is rank 0's from now on."""
        self.spent, self.history = Spent(**state["spent"]), state["history"]
        self.latest_validation = state["latest_validation"]
        window = dict(state["window"])
        self.window_steps = int(window.pop("steps"))
        self.window = window if self.rank == 0 else dict.fromkeys(window, 0.0)
        self.samples = int(state["samples"], 16) if self.rank == 0 else 0

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1; schedules are functions of it."""
        return progress(self.budget, self.spent)

    @property
    def ended(self) -> bool:
        """Whether the last step is behind."""
        return progress(self.until, self.spent) >= 1.0

    def passed(self, times: int) -> bool:
        """Whether the last step passed one of so many evenly spaced shares of the budget, the last of them its end."""
        before, after = (math.floor(times * share + 1e-9) for share in (self._progress_before, self.progress))
        return after > before

    def begin_step(self) -> None:
        """Start the clock: what comes until `end_step` is charged to the budget."""
        self._began = time.perf_counter()
        if self.first_step_at is None:
            self.first_step_at = self._saved_at = self._began

    def end_step(self, tokens: int, flops: float) -> None:
        """Charge a step by rank 0's clock; a collective."""
        if self.compute.device == "cuda":
            torch.cuda.synchronize()
        seconds = rank0_number(time.perf_counter() - self._began)
        self._progress_before = self.progress
        self.spent = self.spent.plus(tokens, flops, seconds)
        self.window_steps += 1
        self.add({"tokens": tokens, "seconds": seconds})

    def add(self, amounts: Mapping[str, float], every_rank: bool = False) -> None:
        """Add to the sums of the next report: rank 0's amounts, or those of all ranks together."""
        counts = every_rank or self.rank == 0
        for name, amount in amounts.items():
            self.window[name] = self.window.get(name, 0.0) + (amount if counts else 0.0)

    def report_due(self) -> bool:
        """Whether enough steps were taken since the last report, or all."""
        return self.window_steps >= self.compute.report_every_steps or self.ended

    def close_window(self) -> dict[str, float]:
        """Sums over ranks and over the steps since the last report, and their number `steps`; a new window begins."""
        sums = {"steps": self.window_steps, **add_over_ranks(self.window)}
        self.window, self.window_steps = {}, 0
        return sums

    def described(self) -> dict[str, float]:
        """What was spent, as reports and facts have it."""
        counted = {"tokens": self.spent.tokens, "flops": self.spent.flops} if self._counts_tokens else {}
        return {"step": self.spent.steps, "progress": self.progress, **counted, "train_seconds": self.spent.seconds}

    def save_due(self) -> bool:
        """Whether rank 0's clock or a notice asks for a checkpoint; a collective."""
        late = time.perf_counter() - self._saved_at >= self.compute.checkpoint_every_seconds
        return bool(rank0_number(float(late or self._notice.exists())))

    def save(self, snapshot: Snapshot) -> None:
        """Copy what a checkpoint holds and write it while training goes on; after a notice, before."""
        began = time.perf_counter()
        write, state = snapshot(), self._state()
        writers = sum(of_every_rank(write is not None))
        if write is not None:

            def write_all(folder: Path) -> None:
                write(folder)
                if self.rank == 0:
                    write_state(folder, state)

            save = self._saver.save if writers == 1 else self._saver.save_part
            save(self.spent.steps, write_all)
            if self.rank == 0 and self._notice.exists():
                self.wait()
                self._notice.unlink()
        self._saved_at = time.perf_counter()
        self.add({"checkpoint_seconds": self._saved_at - began})

    def _state(self) -> dict[str, Any]:
        return {
            "spent": asdict(self.spent),
            "history": list(self.history),
            "latest_validation": self.latest_validation,
            "window": {"steps": self.window_steps, **add_over_ranks(self.window)},
            "samples": add_hashes_over_ranks(self.samples),
        }

    def wait(self) -> None:
        """Until no checkpoint is being written; raises what writing raised."""
        self._saver.wait()

    def finish(self) -> Metrics:
        """Write `out/history.json`; what was spent, validated last and trained on, for the manifest."""
        if self.rank == 0:
            self.out.write_json("history.json", self.history)
        samples = add_hashes_over_ranks(self.samples)
        return {**self.described(), **self.latest_validation, "workers": self.world, "samples": samples}


def train(trainable: Trainable, run: Run) -> None:
    """Steps, validations, reports and checkpoints until the budget is spent; the last step leaves a checkpoint.

    A first start and a restart are the same call, on any number of ranks: the run's newest checkpoint is gone on from.
    """
    try:
        if run.newest is not None:
            trainable.load(run.newest)
        elif trainable.validations:
            _validate(trainable, run)
        while not run.ended:
            step = _step(trainable, run)
            if trainable.validations and run.passed(trainable.validations):
                _validate(trainable, run)
            metrics = _close_window(trainable, run, step) if run.report_due() else None
            if run.save_due() or run.ended:
                run.save(trainable.snapshot)
            if metrics is not None:
                run.report(metrics)
    finally:  # whatever ends it, what is being written is a checkpoint
        run.wait()


def _step(trainable: Trainable, run: Run) -> Step:
    run.begin_step()
    step = trainable.step(run.spent.steps, run.progress)
    run.end_step(step.tokens, step.flops)
    run.samples = add_hashes(run.samples, step.samples)
    run.add(step.losses, every_rank=True)
    run.add(step.amounts)
    return step


def _validate(trainable: Trainable, run: Run) -> None:
    """Off the clock."""
    run.latest_validation = trainable.validate()
    run.history.append({**run.described(), **run.latest_validation})


def _close_window(trainable: Trainable, run: Run, last: Step) -> Metrics:
    """The metrics of the steps since the last report."""
    window = run.close_window()
    means = {name: window[name] / window["steps"] for name in last.losses}
    stall = {"checkpoint_stall_seconds": window.get("checkpoint_seconds", 0.0), "workers": run.world}
    metrics = {**run.described(), **means, **last.latest, **trainable.rates(window), **stall}
    run.history.append(metrics)
    return {**run.latest_validation, **metrics}
