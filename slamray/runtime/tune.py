"""Run trials side by side with Ray Tune, and stop those that cannot win: the one `Tuner` site."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from slamray.config.compute import Compute
from slamray.runtime.session import user_error
from slamray.stage.work import Metrics

PERCENT, VALUE, FINISHED, FAILURE = "percent", "value", "finished", "failure"  # what a trial tells

Tell = Callable[[float, float], None]  # percent of its training that is done, and the value by which it is judged
Work = Callable[[str, Tell], Metrics]  # does the trial of that name; its result holds VALUE


@dataclass(frozen=True)
class Ended:
    """What became of a trial."""

    name: str
    how: Literal["finished", "stopped", "failed"]
    told: Metrics  # its result, or the last that it told
    reason: str = ""  # of a failure, one line


@dataclass(frozen=True)
class Lattice:
    """Points that a search may propose: `names[place]` is the trial at a place, an index for each axis."""

    sizes: Mapping[str, int]  # by axis
    names: Mapping[tuple[int, ...], str]
    count: int  # proposals
    seed: int
    known: Sequence[tuple[tuple[int, ...], float]]  # places and values of earlier trials


def concurrent(compute: Compute) -> int:
    """Trials that fit on the cluster beside each other when all of them train."""
    have = ray.cluster_resources()
    places = have.get("CPU", 0.0) / (compute.workers * compute.cpus_per_worker)
    if compute.device == "cuda":
        places = min(places, have.get("GPU", 0.0) / compute.workers)
    return max(1, int(places))


def run(
    work: Work,
    trials: Sequence[str] | Lattice,
    at_once: int,
    stop: Literal["none", "asha"],
    on_end: Callable[[Ended], None],
    folder: Path,
    max_failures: int = 0,
) -> list[Ended]:
    """Run the trials, the first ones first, at most `at_once` at a time; what became of each, in the order of ending.

    A trial is a function on the cluster that holds no resource itself: what trains and streams in it asks for its own.
    One that raises is reported and costs only itself. One whose process or node dies is begun again on what is left of
    the cluster, at most `max_failures` times: its work goes on from what it has made. `stop` ends those whose value is
    among the lower half of all that told theirs at the same percent (ASHA, reduction factor 2); what they held is
    freed. `folder` is Tune's own, and worthless afterwards. `on_end` is called on the driver, once for each.
    """
    ended: list[Ended] = []

    def note(one: Ended) -> None:
        ended.append(one)
        on_end(one)

    search = _search(trials) if isinstance(trials, Lattice) else None
    space: Any = {} if isinstance(trials, Lattice) else {"name": tune.grid_search(list(trials))}
    trainable: Any = tune.with_resources(partial(_trial, work, trials), {"CPU": 0, "memory": 1})  # Tune refuses nothing
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures go to `on_end`
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # the command has a handler of its own
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=VALUE,
            mode="max",
            scheduler=_scheduler(stop),
            max_concurrent_trials=at_once,
            search_alg=search,
            num_samples=trials.count if isinstance(trials, Lattice) else 1,
            reuse_actors=False,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(folder.resolve()),
            callbacks=[_Watch(trials, note)],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=max_failures),
        ),
    )
    with contextlib.redirect_stdout(io.StringIO()):  # blocks of text for each failure, whatever `verbose` is
        tuner.fit()
    return ended


def _scheduler(stop: str) -> TrialScheduler | None:
    if stop == "none":
        return None
    # A quarter of the training before the first judgement; chosen, not tuned.
    return ASHAScheduler(time_attr=PERCENT, max_t=100, grace_period=25, reduction_factor=2)


def _search(lattice: Lattice) -> OptunaSearch:
    return OptunaSearch(
        space={axis: tune.randint(0, size) for axis, size in lattice.sizes.items()},
        metric=VALUE,
        mode="max",
        seed=lattice.seed,
        points_to_evaluate=[dict(zip(lattice.sizes, place, strict=True)) for place, _ in lattice.known] or None,
        evaluated_rewards=[value for _, value in lattice.known] or None,
    )


def _name(trials: Sequence[str] | Lattice, config: Mapping[str, Any]) -> str:
    if isinstance(trials, Lattice):
        return trials.names[tuple(config[axis] for axis in trials.sizes)]
    return str(config["name"])


def _trial(work: Work, trials: Sequence[str] | Lattice, config: dict[str, Any]) -> None:
    def tell(percent: float, value: float) -> None:
        tune.report({PERCENT: percent, VALUE: value, FINISHED: False})

    try:
        result = work(_name(trials, config), tell)
    except Exception as error:
        said = user_error(error)
        if said is None and isinstance(error, RayError) and not isinstance(error, RayTaskError):
            raise  # something that it needs has died, as its own process may: Tune begins it again
        reason = traceback.format_exception_only(said or error)[-1].strip()[:300]
        tune.report({PERCENT: 100, VALUE: -math.inf, FINISHED: False, FAILURE: reason})  # Tune would repeat what raises
        return
    tune.report({**result, PERCENT: 100, FINISHED: True})


class _Watch(tune.Callback):
    """Hears of the end of every trial."""

    def __init__(self, trials: Sequence[str] | Lattice, note: Callable[[Ended], None]) -> None:
        self._trials, self._note = trials, note

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes what it was given to its folder; who listens here is a process that lives."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        told, name = trial.last_result or {}, _name(self._trials, trial.config)
        if reason := told.get(FAILURE):
            self._note(Ended(name, "failed", {}, reason))
        else:
            self._note(Ended(name, "finished" if told.get(FINISHED) else "stopped", told))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Its process has died too often."""
        text = Path(trial.error_file).read_text() if trial.error_file else ""  # Trial.get_error's is not there yet
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else "its process died"  # a remote traceback ends with what went wrong
        self._note(Ended(_name(self._trials, trial.config), "failed", trial.last_result or {}, reason))
