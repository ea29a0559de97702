"""Devices are shared out: who finds too few waits for them, and keeps those that come free."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from slamray.config.compute import Compute
from slamray.runtime.budget import Budget, Devices, of_pools, of_training
from slamray.stage.work import Pool


class Work:
    """Work on a thread of its own that holds devices until it is told to end."""

    def __init__(self, budget: Budget, cpus: float = 0, gpus: float = 0) -> None:
        self._need, self._budget = Devices(cpus, gpus), budget
        self._started, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._budget.hold(self._need):
            self._started.set()
            self._end.wait(20)

    @property
    def runs(self) -> bool:
        return self._started.wait(5)

    @property
    def waits(self) -> bool:
        return not self._started.wait(0.2)

    def end(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def budget() -> Iterator[Budget]:
    yield Budget(lambda: Devices(cpus=16, gpus=8))


def test_who_asks_when_nothing_is_held_starts_whatever_the_cluster_has() -> None:
    more = Work(Budget(lambda: Devices()), cpus=1000, gpus=10)
    assert more.runs
    more.end()


def test_what_fits_runs_side_by_side_and_what_does_not_waits(budget: Budget) -> None:
    speech, training = Work(budget, cpus=8, gpus=4), Work(budget, cpus=8, gpus=4)
    assert speech.runs and training.runs
    one_core = Work(budget, cpus=1)
    assert one_core.waits
    speech.end()
    assert one_core.runs
    for work in (training, one_core):
        work.end()


def test_shares_of_a_gpu_add_up(budget: Budget) -> None:
    shares = [Work(budget, gpus=0.1) for _ in range(80)]
    assert all(share.runs for share in shares)
    late = Work(budget, gpus=0.1)
    assert late.waits
    for share in [*shares, late]:
        share.end()


def test_what_an_earlier_one_lacks_is_kept_for_it_and_the_rest_goes_on(budget: Budget) -> None:
    speech = Work(budget, cpus=4, gpus=4)
    assert speech.runs
    training = Work(budget, cpus=8, gpus=8)
    assert training.waits
    scoring, building = Work(budget, cpus=2, gpus=2), Work(budget, cpus=1)
    assert building.runs and scoring.waits  # four GPUs are free, but training would wait for scoring then
    speech.end()
    assert training.runs and scoring.waits
    training.end()
    assert scoring.runs
    for work in (building, scoring):
        work.end()


def test_work_that_needs_no_core_never_waits(budget: Budget) -> None:
    """Shards are merged while actors hold more than there is."""
    speech = Work(budget, cpus=100)
    assert speech.runs
    merging = Work(budget)
    assert merging.runs
    for work in (merging, speech):
        work.end()


def test_work_that_fails_gives_its_devices_back(budget: Budget) -> None:
    with pytest.raises(RuntimeError), budget.hold(Devices(gpus=8)):
        raise RuntimeError("a worker died")
    speech = Work(budget, cpus=1)
    training = Work(budget, gpus=8)
    assert speech.runs and training.runs
    for work in (speech, training):
        work.end()


def test_who_closes_waits_until_nothing_is_held_and_not_for_ever(budget: Budget) -> None:
    assert budget.wait(0)
    ending = Work(budget, cpus=1)
    assert ending.runs and not budget.wait(0.1)
    closing = threading.Timer(0.2, ending.end)
    closing.start()
    assert budget.wait(20)


def test_pools_and_trainings_say_what_they_hold() -> None:
    pools = [Pool("tts", {}, actors=16), Pool("encoder", {}, actors=4, gpus=0.5)]
    assert of_pools(pools, 1000) == Devices(cpus=20, gpus=2)
    assert of_pools(pools, 3) == Devices(cpus=6, gpus=1.5)  # three rows keep no fourth actor busy
    assert of_training(Compute(workers=8, device="cuda", cpus_per_worker=4)) == Devices(cpus=32, gpus=8)
    assert of_training(Compute(workers=2)) == Devices(cpus=2)
