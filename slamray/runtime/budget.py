"""Shares out the CPUs and GPUs of the cluster: work that is done side by side never waits for another's devices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from slamray.config.compute import Compute
from slamray.stage.work import Pool

ROUNDING = 1e-6  # shares of a GPU are sums of floats


@dataclass(frozen=True)
class Devices:
    """What work holds while it runs."""

    cpus: float = 0
    gpus: float = 0


@dataclass(eq=False)
class _Asked:
    need: Devices
    granted: bool = False


class Budget:
    """Grants devices in the order in which they are asked for; who asks when nothing is held always gets them.

    there: what the cluster has at the moment, or may grow to. What an earlier one lacks is kept for it; later ones that
    need nothing of it go ahead.
    """

    def __init__(self, there: Callable[[], Devices]) -> None:
        self._there = there
        self._asked: list[_Asked] = []
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, need: Devices) -> Iterator[None]:
        """Wait until these devices are free, and keep others from asking Ray for them."""
        asked = _Asked(need)
        try:
            with self._changed:
                self._asked.append(asked)
                self._grant()
                self._changed.wait_for(lambda: asked.granted)
            yield
        finally:
            with self._changed:
                self._asked.remove(asked)
                self._grant()

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is held or asked for, so long at most; whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._asked, seconds)

    def _grant(self) -> None:
        waiting = [one for one in self._asked if not one.granted]
        if waiting and len(waiting) == len(self._asked):
            waiting.pop(0).granted = True
        if waiting:
            there, held = self._there(), [one.need for one in self._asked if one.granted]
            cpus = there.cpus - sum(need.cpus for need in held)
            gpus = there.gpus - sum(need.gpus for need in held)
            for one in waiting:
                lacks_cpus = one.need.cpus > max(cpus, 0) + ROUNDING
                lacks_gpus = one.need.gpus > max(gpus, 0) + ROUNDING
                one.granted = not (lacks_cpus or lacks_gpus)
                cpus = 0 if lacks_cpus else cpus - one.need.cpus * one.granted
                gpus = 0 if lacks_gpus else gpus - one.need.gpus * one.granted
        self._changed.notify_all()


def of_pools(pools: Sequence[Pool], rows: int) -> Devices:
    """What so many rows hold on their way through pools."""
    actors = [min(pool.actors, rows) for pool in pools]
    return Devices(
        sum(count * pool.cpus for count, pool in zip(actors, pools, strict=True)),
        sum(count * pool.gpus for count, pool in zip(actors, pools, strict=True)),
    )


def of_training(compute: Compute) -> Devices:
    """What a training holds, through all its restarts."""
    return Devices(compute.workers * compute.cpus_per_worker, compute.workers if compute.device == "cuda" else 0)
