"""What a sweep came to: the point to choose and how sure that is, what it cost, its tables and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slamray.commands.study import RUNS, SUMMARY, FigureRow, SpreadRow, Trial, figure_rows, show, summarise
from slamray.commands.sweep_space import Space
from slamray.config.load import Sweep
from slamray.stage.folder import Folder
from slamray.stage.records import to_table
from slamray.stage.stage import Inputs, Stage, order
from slamray.stage.work import Machine
from slamray.stages.checkpoints import ALIGNED, PRETRAINED
from slamray.stages.scoring import SCORES

FIGURE = "sweep.png"
ANSWER = "answer.txt"
TRUNK = "trunk"
TRAINED = (TRUNK, PRETRAINED.stage, ALIGNED.stage)  # stages whose optimiser time is the cost of a sweep
RESAMPLES = 2000
INTERVAL = 0.95

Judged = Mapping[str, npt.NDArray[np.float64]]  # by metric: 1, 0.5 or 0 for each pair, in one order for all trials


@dataclass(frozen=True)
class Answer:
    """The point whose objective is greatest, and how sure that is by resampling."""

    point: str
    value: float  # mean over seeds, 0..1
    low: float
    high: float
    seeds: int
    sure: float  # share of the resamples in which it is the greatest
    also: tuple[str, ...]  # points that cannot be told apart from it
    points: int  # of all that were compared

    def sentence(self, objective: Sequence[str]) -> str:
        """For people: the recommendation with its confidence."""
        names = [name.replace("_", " ") for name in objective]
        of = names[0] if len(names) == 1 else f"mean of {', '.join(names[:-1])} and {names[-1]}"
        seeds = f"{self.seeds} seed" + ("s" if self.seeds > 1 else "")
        told = f"{of} {100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] over {seeds}"
        sure = f"the best in {self.sure:.0%} of {RESAMPLES:,} resamples of seeds and items"
        if not self.also:
            return f"Recommended: {self.point}: {told}; {sure}, and better than every other point beyond chance."
        others = "any other point" if len(self.also) == self.points - 1 else "; ".join(self.also)
        return f"Best so far: {self.point}: {told}; {sure}. Not told apart from it: {others}."


def choose(judged: Mapping[str, Sequence[Judged]], seed: int = 0) -> Answer:
    """The answer from each point's trials, one for each seed, the same number and order of seeds for all points.

    A resample draws seeds, and pairs of each metric, with replacement, the same for all points: trials with a seed
    share their data, and their trunk, and all are judged by the same pairs. A point cannot be told apart from the best
    when the interval of their difference holds 0. Points with fewer seeds than the most are left out.
    """
    most = max(len(trials) for trials in judged.values())
    points = [point for point, trials in judged.items() if len(trials) == most]
    metrics = list(judged[points[0]][0])
    # P points, S seeds, I pairs of a metric, R resamples
    correct_PSI = {name: np.array([[trial[name] for trial in judged[point]] for point in points]) for name in metrics}
    drawn_RP = _resample(list(correct_PSI.values()), most, seed)
    mean_P = np.mean([correct.mean(axis=(1, 2)) for correct in correct_PSI.values()], axis=0)
    best = int(mean_P.argmax())
    tail = 100 * (1 - INTERVAL) / 2
    low, high = np.percentile(drawn_RP[:, best], [tail, 100 - tail])
    worse_by_P = np.percentile(drawn_RP[:, [best]] - drawn_RP, tail, axis=0)
    also = tuple(point for place, point in enumerate(points) if place != best and worse_by_P[place] <= 0)
    sure = float((drawn_RP.argmax(axis=1) == best).mean())
    return Answer(points[best], float(mean_P[best]), float(low), float(high), most, sure, also, len(points))


def _resample(correct_PSI: Sequence[npt.NDArray[np.float64]], n_seeds: int, seed: int) -> npt.NDArray[np.float64]:
    """The objective of every point in each resample, (R, P); correct_PSI: an array for each metric."""
    rng = np.random.default_rng(seed)
    drawn_RP = np.empty((RESAMPLES, len(correct_PSI[0])))
    for drawn_P in drawn_RP:
        seeds = rng.integers(n_seeds, size=n_seeds)
        means = []
        for correct in correct_PSI:
            pairs = rng.integers(correct.shape[2], size=correct.shape[2])
            means.append(correct[:, seeds][:, :, pairs].mean(axis=(1, 2)))
        drawn_P[:] = np.mean(means, axis=0)
    return drawn_RP


def judge(trial: Trial, metrics: Sequence[str], root: Path) -> Judged:
    """By metric, what each pair came to (1, 0, or 0.5), in the order of their ids."""
    table = trial.scores.folder(root).read_table(SCORES, columns=["pair_id", "metric", "correct"])
    rows = sorted(table.to_pylist(), key=lambda row: row["pair_id"])
    return {metric: np.array([row["correct"] for row in rows if row["metric"] == metric]) for metric in metrics}


def objective(judged: Judged) -> float:
    """The mean of the metrics' accuracies, 0..1."""
    return float(np.mean([correct.mean() for correct in judged.values()]))


@dataclass(frozen=True)
class Cost:
    """Device-seconds of optimiser time: of the sweep, and of the same points trained one by one."""

    shared: float
    independent: float

    def sentence(self) -> str:
        return (
            f"{self.shared / 3600:.3g} device-hours of training; the same points one by one: "
            f"{self.independent / 3600:.3g} ({self.shared / self.independent:.0%})"
        )


def spent(trials: Sequence[Trial], root: Path) -> Cost:
    """What the training stages of these trials took, each once, and what they would have without sharing any."""
    took: dict[str, float] = {}
    independent = 0.0
    for trial in trials:
        workers = trial.member.recipe.compute.workers
        for stage in order(trial.targets):
            if stage.name in TRAINED:
                facts = stage.manifest(root)["facts"]
                took[stage.fingerprint] = workers * (facts["train_seconds"] - facts.get("shared_seconds", 0.0))
                independent += workers * facts["train_seconds"] * (stage.name != TRUNK)
    return Cost(sum(took.values()), independent)


@dataclass(frozen=True)
class SweepFacts:
    """table: lines for the terminal. best_first: points by their objective."""

    table: Sequence[str]
    summary: Sequence[SpreadRow]
    sentence: str
    cost: str
    best_first: Sequence[str]
    device_seconds: float
    independent_device_seconds: float
    sure: float


def answer_stage(sweep: Sweep, space: Space, trials: Sequence[Trial], root: Path) -> Stage:
    """The stage that draws these trials and chooses; its inputs are what measured them."""
    settings = {"sweep": sweep, "members": [[trial.member.variant, trial.member.seed] for trial in trials]}
    inputs = {target.fingerprint: target for trial in trials for target in trial.targets}
    return Stage("sweep", partial(_run, space, trials, root), settings, tuple(inputs.values()))


def _run(
    space: Space,
    trials: Sequence[Trial],
    root: Path,
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    sweep: Sweep,
    members: Any,
) -> SweepFacts:
    """Write tables, picture and sentence."""
    rows = [row for trial in trials for row in figure_rows(trial, sweep.metrics, root)]
    summary = summarise([(row.variant, row.metric, row.value) for row in rows])
    out.write_table(RUNS, to_table(rows, FigureRow))
    out.write_table(SUMMARY, to_table(summary, SpreadRow))
    judged: dict[str, list[Judged]] = {}
    for trial in trials:
        judged.setdefault(trial.member.variant, []).append(judge(trial, sweep.objective, root))
    found = choose(judged)
    sentence, cost = found.sentence(sweep.objective), spent(trials, root)
    _draw(sweep, space, rows, summary, found.point, sentence, out.fetch(FIGURE))
    out.write(ANSWER, f"{sentence}\n{cost.sentence()}\n".encode())
    values = {point: float(np.mean([objective(one) for one in seeds])) for point, seeds in judged.items()}
    return SweepFacts(
        show(sweep.metrics, summary),
        summary,
        sentence,
        cost.sentence(),
        sorted(values, key=lambda point: values[point], reverse=True),
        cost.shared,
        cost.independent,
        found.sure,
    )


def _draw(
    sweep: Sweep,
    space: Space,
    rows: Sequence[FigureRow],
    summary: Sequence[SpreadRow],
    chosen: str,
    sentence: str,
    path: Path,
) -> None:
    from slamray.report.sweep_figure import draw  # matplotlib takes a second

    points = [{"label": point.label, "x": point.x, "line": point.line} for point in space.points]
    first = space.axes[0]
    axis = f"{first.name} ({first.unit.strip()})" if first.unit.strip() else first.name
    shown, spread = [asdict(row) for row in rows], [asdict(row) for row in summary]
    draw(sweep.title, sentence, sweep.metrics, points, axis, shown, spread, chosen, path)
