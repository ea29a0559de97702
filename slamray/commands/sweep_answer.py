"""What a sweep came to: the point to choose and how sure that is, what it cost, its tables and its picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slamray.commands.study import RUNS, SUMMARY, FigureRow, SpreadRow, Trial, figure_rows, show, summarise
from slamray.commands.sweep_space import Space
from slamray.config.load import Sweep
from slamray.evaluate.metrics import GENPPL, PairMetric, ScalarMetric, metric_of
from slamray.evaluate.summary import item_values
from slamray.stage.folder import Folder, Root
from slamray.stage.records import to_table
from slamray.stage.stage import Inputs, Stage, order
from slamray.stage.work import Machine
from slamray.stages import genppl
from slamray.stages.checkpoints import ALIGNED, PRETRAINED
from slamray.stages.scoring import read_scores

FIGURE = "sweep.png"
ANSWER = "answer.txt"
TRUNK = "trunk"
TRAINED = (TRUNK, PRETRAINED.stage, ALIGNED.stage)  # stages whose optimiser time is the cost of a sweep
RESAMPLES = 2000
INTERVAL = 0.95

# By metric: a value for each of its items, in one order for all trials; NaN where an item has none. Their mean is the
# metric's figure or, as its row says, the figure's logarithm. A metric that is a number by itself is one item.
Judged = Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Answer:
    """The point whose objective is best, and how sure that is by resampling."""

    point: str
    value: float  # mean over seeds, as the metrics' facts have it: an accuracy lies in 0..1
    low: float
    high: float
    seeds: int
    items: int  # of the metric with most; 1: seeds alone are resampled
    sure: float  # share of the resamples in which it is the best
    also: tuple[str, ...]  # points that cannot be told apart from it
    points: int  # of all that were compared

    def sentence(self, objective: Sequence[str]) -> str:
        """For people: the recommendation with its confidence."""
        names = [name.replace("_", " ") for name in objective]
        of = names[0] if len(names) == 1 else f"mean of {', '.join(names[:-1])} and {names[-1]}"
        seeds = f"{self.seeds} seed" + ("s" if self.seeds > 1 else "")
        first = metric_of(objective[0])
        percent = " %" if isinstance(first, PairMetric) else ""
        told = f"{of} {first.show(self.value)}{percent} [{first.show(self.low)}, {first.show(self.high)}] over {seeds}"
        drawn = "seeds and items" if self.items > 1 else "seeds"
        sure = f"the best in {self.sure:.0%} of {RESAMPLES:,} resamples of {drawn}"
        if not self.also:
            return f"Recommended: {self.point}: {told}; {sure}, and better than every other point beyond chance."
        others = "any other point" if len(self.also) == self.points - 1 else "; ".join(self.also)
        return f"Best so far: {self.point}: {told}; {sure}. Not told apart from it: {others}."


def choose(judged: Mapping[str, Sequence[Judged]], seed: int = 0) -> Answer:
    """The answer from each point's trials, one for each seed, the same number and order of seeds for all points.

    A resample draws seeds, and items of each metric, with replacement, the same for all points: trials with a seed
    share their data, and their trunk, and all are judged by the same items. A point cannot be told apart from the best
    when the interval of their difference holds 0. Points with fewer seeds than the most are left out.
    """
    most = max(len(trials) for trials in judged.values())
    points = [point for point, trials in judged.items() if len(trials) == most]
    metrics = list(judged[points[0]][0])
    sign = direction(metrics)
    # P points, S seeds, I items of a metric, R resamples
    values_PSI = {name: np.array([[trial[name] for trial in judged[point]] for point in points]) for name in metrics}
    drawn_RP = _resample(values_PSI, most, seed)
    figure_P = np.mean([_figure(name, values) for name, values in values_PSI.items()], axis=0)
    best = int((sign * figure_P).argmax())
    tail = 100 * (1 - INTERVAL) / 2
    low, high = np.percentile(drawn_RP[:, best], [tail, 100 - tail])
    better_by_P = np.percentile(sign * (drawn_RP[:, [best]] - drawn_RP), tail, axis=0)
    also = tuple(point for place, point in enumerate(points) if place != best and better_by_P[place] <= 0)
    sure = float(((sign * drawn_RP).argmax(axis=1) == best).mean())
    items = max(values.shape[2] for values in values_PSI.values())
    return Answer(points[best], float(figure_P[best]), float(low), float(high), most, items, sure, also, len(points))


def direction(metrics: Iterable[str]) -> int:
    """1 where the greatest objective is the best, -1 where the least is."""
    return 1 if all(metric_of(name).higher_is_better for name in metrics) else -1


def _figure(name: str, values_PSI: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A metric's figure of each point (P,): the mean over seeds of what the items of each seed come to."""
    with np.errstate(invalid="ignore"):  # NaN where no item has a value
        mean_PS = np.nansum(values_PSI, axis=2) / (~np.isnan(values_PSI)).sum(axis=2)
    metric = metric_of(name)
    logarithmic = isinstance(metric, ScalarMetric) and metric.logarithmic
    figure_P: npt.NDArray[np.float64] = (np.exp(mean_PS) if logarithmic else mean_PS).mean(axis=1)
    return figure_P


def _resample(values_PSI: Mapping[str, npt.NDArray[np.float64]], n_seeds: int, seed: int) -> npt.NDArray[np.float64]:
    """The objective of every point in each resample, (R, P); values_PSI: an array for each metric.

    A resample in which a point has no item with a value is left out.
    """
    rng = np.random.default_rng(seed)
    drawn_RP = np.empty((RESAMPLES, len(next(iter(values_PSI.values())))))
    for drawn_P in drawn_RP:
        seeds = rng.integers(n_seeds, size=n_seeds)
        figures = []
        for name, values in values_PSI.items():
            items = rng.integers(values.shape[2], size=values.shape[2])
            figures.append(_figure(name, values[:, seeds][:, :, items]))
        drawn_P[:] = np.mean(figures, axis=0)
    return drawn_RP[~np.isnan(drawn_RP).any(axis=1)]


def judge(trial: Trial, metrics: Sequence[str], root: Root) -> Judged:
    """By metric, the values of its items for the trial's checkpoint, in the order of their ids."""
    return {metric: _values(trial, metric, root) for metric in metrics}


def _values(trial: Trial, name: str, root: Root) -> npt.NDArray[np.float64]:
    metric, folder = metric_of(name), trial.measures(name).folder(root)
    if isinstance(metric, PairMetric):
        scores = [score for score in read_scores(folder, trial.checkpoint) if score.metric == name]
        return item_values(sorted(scores, key=lambda score: score.pair_id), metric.average)
    if GENPPL in metric.needs:
        return genppl.judged_values(folder, name)
    (row,) = figure_rows(trial, [name], root)
    return np.array([row.value])


def objective(judged: Judged) -> float:
    """The mean of the metrics' figures: of accuracies, 0..1, or the one metric's own."""
    return float(np.mean([_figure(name, values[None, None])[0] for name, values in judged.items()]))


def merit(judged: Judged) -> float:
    """The objective, negated where the least is the best: of two trials the better has more."""
    return direction(judged) * objective(judged)


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


def spent(trials: Sequence[Trial], root: Root) -> Cost:
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


def answer_stage(sweep: Sweep, space: Space, trials: Sequence[Trial], root: Root) -> Stage:
    """The stage that draws these trials and chooses; its inputs are what measured them."""
    settings = {"sweep": sweep, "members": [[trial.member.variant, trial.member.seed] for trial in trials]}
    inputs = {target.fingerprint: target for trial in trials for target in trial.targets}
    return Stage("sweep", partial(_run, space, trials, root), settings, tuple(inputs.values()), version=2)


def _run(
    space: Space,
    trials: Sequence[Trial],
    root: Root,
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
    out.write_tree(FIGURE, partial(_draw, sweep, space, rows, summary, found.point, sentence))
    out.write(ANSWER, f"{sentence}\n{cost.sentence()}\n".encode())
    merits = {point: float(np.mean([merit(one) for one in seeds])) for point, seeds in judged.items()}
    return SweepFacts(
        show(sweep.metrics, summary),
        summary,
        sentence,
        cost.sentence(),
        sorted(merits, key=lambda point: merits[point], reverse=True),
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
