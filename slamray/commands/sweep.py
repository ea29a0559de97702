"""A sweep: points of a space x seeds as trials beside each other, then one figure, one table and one sentence.

A file of tuning/ tells the space. A trial is a recipe whose missing stages are made on the cluster by a driver function
under Ray Tune; what trials have in common is one stage, made once. So a finished trial costs nothing on a second start,
and a killed sweep goes on where it was. A trial that fails is reported and costs only itself.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from slamray import store
from slamray.commands.run import make, parameters, provenance
from slamray.commands.study import (
    RUN_COLUMNS,
    RUNS,
    SUMMARY,
    SUMMARY_COLUMNS,
    Run,
    build,
    measured_rows,
    show,
    summarise,
)
from slamray.commands.sweep_answer import Answer, Judged, choose
from slamray.commands.sweep_space import Point, Space, load_tuning, make_space
from slamray.commands.words import as_command
from slamray.config.load import Member, Sweep, load_sweep
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.recipe.evaluation import ITEM_METRICS
from slamray.report import runs as compare_runs
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.stage import Inputs, Stage, order, prune
from slamray.stage.work import Machine
from slamray.stages import planning
from slamray.stages.checkpoints import MODEL
from slamray.stages.tasks import SCORES
from slamray.tracking import Tracker, open_tracker

FIGURE = "sweep.png"
ANSWER = "answer.txt"
STOPPED = "stopped"  # folder below the root: what trials that were stopped had told
TRAINED = ("trunk", "pretrained", "aligned")  # stages whose optimiser time is the cost of a sweep
OWN = ("untrained", *TRAINED)  # stages that belong to trials, and are not made before them


def main(words: Sequence[str], tuning: Path) -> int:
    """The whole command: 0 when all is made, 1 when a trial failed, 2 when the user's input is at fault."""
    return as_command(lambda: _main([word for word in words if word != "--plan"], tuning, "--plan" in words))


def _main(words: Sequence[str], tuning: Path, plan_only: bool) -> int:
    found: list[Space] = []

    def points(sweep: Sweep) -> dict[str, Mapping[str, Any]]:
        found.append(make_space(load_tuning(tuning, sweep.tuning), sweep))
        return {point.label: point.changes for point in found[0].points}

    sweep, members = load_sweep(words, points)
    recipe = members[0].recipe
    engine = Engine(recipe.compute)
    trials = {run.label: run for run in build(members, tuple(dict.fromkeys(sweep.metrics + sweep.objective)))}
    check(sweep, list(trials.values()))
    work = SweepOnItsWay(sweep, found[0], trials, engine, words)
    if plan_only:
        print(work.plan())
        return 0
    tracker = open_tracker(
        recipe.tracking.enabled, recipe.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", ""),
        recipe.tracking.experiment, sweep.title, work.fingerprint, work.root,
    )  # fmt: skip
    status = "FAILED"
    try:
        failed = work.run(tracker)
        status = "FINISHED"
    finally:
        tracker.close(status)
        engine.close()
    return 1 if failed else 0


def check(sweep: Sweep, trials: Sequence[Run]) -> None:
    """BadInput for what is known to be wrong with a sweep before any work."""
    sets = trials[0].member.recipe.evaluate.sets
    for metric in sweep.objective:
        if metric == "perplexity" or metric in sets:
            raise BadInput(f"sweep.objective: {metric} is not of the items that are made here; name metrics of these")
    if sweep.stop != "none" and not any(run.member.recipe.dpo.evaluations for run in trials):
        raise BadInput(f"sweep.stop={sweep.stop}: nothing is told during DPO; give dpo.evaluations, such as 4")


@dataclass
class SweepOnItsWay:
    """A sweep on its way."""

    sweep: Sweep
    space: Space
    trials: Mapping[str, Run]  # by label; all seeds of the first point, then of the next
    engine: Engine
    words: Sequence[str]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        return next(iter(self.trials.values())).member.recipe

    @property
    def root(self) -> Path:
        return Path(self.recipe.root)

    @property
    def fingerprint(self) -> str:
        """Of the whole, whatever becomes of its trials."""
        return self._answer_stage(list(self.trials.values())).fingerprint

    def run(self, tracker: Tracker) -> dict[str, str]:
        """Make what is missing, and the answer; the reasons of the trials that failed."""
        settings = {f"sweep.{key}": value for key, value in self.sweep.model_dump(mode="json").items()}
        tracker.params(settings | {"compute.workers": self.recipe.compute.workers})
        todo = [label for label, run in self.trials.items() if not self._ended(run)]
        sys.stderr.write(f"{len(self.trials)} trials, {len(self.trials) - len(todo)} ended before\n")
        for label, run in self.trials.items():
            if label not in todo:
                self._track(tracker, label, run)
        if todo:
            self._require_space(todo)
            self.engine.connect()
            shared = self._shared()
            make(self._quiet(self.recipe), shared, self.engine, self.words)
            self._require_items()
            if self.sweep.search:
                self._search(tracker)
            else:
                self._try([label for label in self._cheapest_first() if label in todo], tracker)
        made = [run for run in self.trials.values() if all(target.is_done(self.root) for target in run.targets)]
        if not made:
            raise BadInput("no trial of the sweep could be made; the reasons are above")
        target = self._answer_stage(made)
        facts = materialise([target], self.root, self.engine, provenance(self.words, self.recipe))[target.name]["facts"]
        self._prune(facts["best_first"])
        for name in (FIGURE, RUNS, SUMMARY, ANSWER):
            tracker.artifact(target.folder(self.root).fetch(name))
        tracker.note(f"{facts['sentence']}\n\n{facts['cost']}")
        tracker.finish_stage(compare_runs.ANSWER, target.manifest(self.root))
        print("\n".join([*facts["table"], facts["sentence"], facts["cost"]]))
        print(f"sweep: {target.folder(self.root).fetch(FIGURE)}, {RUNS}, {SUMMARY}, {ANSWER}")
        for label, reason in self.failed.items():
            sys.stderr.write(f"error: {label} failed: {reason}\n")
        return self.failed

    def plan(self) -> str:
        """Every trial and whether it is done; starts nothing."""
        lines = [f"sweep {self.sweep.title!r}: {len(self.space.points)} points x {len(self.sweep.seeds)} seeds"]
        if self.sweep.search:
            lines[0] += f"; Optuna proposes {self.sweep.search}, then the best two with all seeds"
        width = max(len(point.label) for point in self.space.points) + 2
        for point in self.space.points:
            own = [run for run in self.trials.values() if run.member.variant == point.label]
            done = sum(self._ended(run) for run in own)
            changes = ", ".join(f"{key}={value}" for key, value in point.changes.items())
            lines.append(f"  {point.label:<{width}}{done} of {len(own)} done   {changes}")
        lines.append(f"at most {self._bytes(len(self.trials)) / 1e6:,.0f} MB of models on disk at a time")
        return "\n".join(lines)

    def _require_items(self) -> None:
        """BadInput when a metric has no item after all: a small corpus has none of some kinds."""
        items = next(iter(self.trials.values())).stage("items")
        if not items.is_done(self.root):  # trials do not share it; each will find out
            return
        made = items.manifest(self.root)["facts"]["pairs"]
        for metric in [*self.sweep.metrics, *self.sweep.objective]:
            if metric in ITEM_METRICS and metric not in made:
                raise BadInput(f"sweep: no item of {metric} could be made; leave the metric out, or give more text")

    def _search(self, tracker: Tracker) -> None:
        """Optuna's proposals with the first seed; then the best two points with the others."""
        first = self.sweep.seeds[0]
        labels = {point.place: self._label(point, first) for point in self.space.points}
        for place in itertools.product(*(range(len(axis.values)) for axis in self.space.axes)):
            labels.setdefault(place, labels[self._same(place).place])
        values = {
            label: self._value(label) for label in labels.values() if self.trials[label].targets[0].is_done(self.root)
        }
        known = [(point.place, values[label]) for point in self.space.points
                 if (label := labels[point.place]) in values]  # fmt: skip
        left = self.sweep.search - len(known)
        if left > 0:
            from slamray.runtime.tune import Lattice

            sizes = {axis.name: len(axis.values) for axis in self.space.axes}
            self._try(Lattice(sizes, labels, left, first, known), tracker)
        tried = [label for label in set(labels.values()) if self.trials[label].targets[0].is_done(self.root)]
        best = sorted(tried, key=self._value, reverse=True)[:2]
        variants = [self.trials[label].member.variant for label in best]
        again = [label for label, run in self.trials.items() if run.member.variant in variants and not self._ended(run)]
        if again:
            self._try(again, tracker)

    def _same(self, place: tuple[int, ...]) -> Point:
        """The point that a place which is no point of its own comes to: the first that differs in no first axis."""
        return next(point for point in self.space.points if point.place[0] == place[0])

    def _try(self, trials: Any, tracker: Tracker) -> None:
        from slamray.runtime import tune

        def on_end(one: tune.Ended) -> None:
            run = self.trials[one.name]
            if one.how == "failed":
                self.failed[one.name] = one.reason
            elif one.how == "stopped":
                told = {key: one.told.get(key) for key in (tune.PERCENT, tune.VALUE)}
                store.write_json(self._stopped(run), told)
            done = sum(self._ended(other) for other in self.trials.values())
            how = f"{one.how} ({one.reason})" if one.reason else one.how
            sys.stderr.write(f"{one.name}: {how}; {done} of {len(self.trials)} trials have ended\n")
            sys.stderr.flush()
            self._track(tracker, one.name, run)

        at_once = self.sweep.at_once or tune.concurrent(self.recipe.compute)
        members = {label: run.member for label, run in self.trials.items()}
        folder = self.root / ".tune" / self.fingerprint
        shutil.rmtree(folder, ignore_errors=True)
        tune.run(
            partial(_trial, members, self.sweep, list(self.words)), trials, at_once, self.sweep.stop, on_end, folder
        )
        shutil.rmtree(folder, ignore_errors=True)

    def _shared(self) -> list[Stage]:
        """The stages that all trials need, but for those of their own."""
        needed = [{stage.fingerprint: stage for stage in order(run.targets)} for run in self.trials.values()]
        everyone = set.intersection(*(set(one) for one in needed))
        own = (*OWN, *(target.name for run in self.trials.values() for target in run.targets))
        return [stage for key, stage in needed[0].items() if key in everyone and stage.name not in own]

    def _cheapest_first(self) -> list[str]:
        """Trials in the order that lets each trunk go on from a shorter one: by the end of their trunks."""

        def end(label: str) -> float:
            trunk = self.trials[label].find("trunk")
            return float(str(trunk.settings["until"]).partition(":")[2].rstrip("s")) if trunk else 0.0

        return sorted(self.trials, key=end)

    def _ended(self, run: Run) -> bool:
        done = all(target.is_done(self.root) for target in run.targets)
        return done or (self.sweep.stop != "none" and self._stopped(run).exists())

    def _stopped(self, run: Run) -> Path:
        return self.root / STOPPED / f"{run.targets[0].fingerprint}.json"

    def _label(self, point: Point, seed: int) -> str:
        return next(k for k, run in self.trials.items() if (run.member.variant, run.member.seed) == (point.label, seed))

    def _value(self, label: str) -> float:
        return objective(judge(self.trials[label], self.sweep.objective, self.root))

    def _quiet(self, recipe: Recipe) -> Recipe:
        return recipe.model_copy(update={"tracking": recipe.tracking.model_copy(update={"enabled": False})})

    def _track(self, tracker: Tracker, label: str, run: Run) -> None:
        """A trial as a child run: flat parameters, and what it came to."""
        point = next(point for point in self.space.points if point.label == run.member.variant)
        axes = {axis.key: axis.values[i] for axis, i in zip(self.space.axes, point.place, strict=True)}
        tracker.params(axes | {"seed": run.member.seed} | parameters(run.member.recipe), label)
        if not all(target.is_done(self.root) for target in run.targets):
            return
        rows = measured_rows(run, list(dict.fromkeys(self.sweep.metrics + self.sweep.objective)), self.root)
        facts = {row["metric"]: row["value"] for row in rows} | {"objective": self._value(label)}
        manifest = run.targets[0].manifest(self.root)
        tracker.finish_stage(label, manifest | {"facts": facts})

    def _bytes(self, trials: int) -> int:
        """Of all models while the sweep runs: each trial's two and its trunk's state, and checkpoints in training."""
        n_units = self.trials[next(iter(self.trials))].stage("untrained").settings["n_units"]
        model = 4 * max(planning.parameters(run.member.recipe.model, n_units) for run in self.trials.values())
        return model * (2 * trials + 3 * trials + 6 * max(1, self.sweep.at_once))

    def _require_space(self, todo: Sequence[str]) -> None:
        store.require_space(self.root, self._bytes(len(todo)), f"a sweep of {len(todo)} trials")

    def _answer_stage(self, runs: Sequence[Run]) -> Stage:
        settings = {"sweep": self.sweep, "members": [[run.member.variant, run.member.seed] for run in runs]}
        inputs = {target.fingerprint: target for run in runs for target in run.targets}
        return Stage("sweep", partial(_answer, self.space, runs, self.root), settings, tuple(inputs.values()))

    def _prune(self, best_first: Sequence[str]) -> None:
        """Only the best points keep their models; scores and metrics stay, and so do trunks, for other sweeps."""
        kept = {
            stage.fingerprint
            for run in self.trials.values() if run.member.variant in best_first[: self.sweep.keep]
            for stage in order(run.targets)
        }  # fmt: skip
        for run in self.trials.values():
            for stage in order(run.targets):
                if (
                    stage.name in ("pretrained", "aligned")
                    and stage.fingerprint not in kept
                    and stage.is_done(self.root)
                ):
                    prune(stage, self.root, MODEL)


def _trial(
    members: Mapping[str, Member], sweep: Sweep, words: Sequence[str], label: str, tell: Callable[[float, float], None]
) -> dict[str, Any]:
    """A trial on the cluster: make what its recipe lacks; what it came to."""
    member = members[label]
    recipe = member.recipe
    engine = Engine(recipe.compute)
    (run,) = build([member], ())
    repeated_at_start: list[float] = []

    def heard(stage: str, metrics: Mapping[str, Any]) -> None:
        if "heldout_accuracy" not in metrics:
            return
        repeated_at_start.append(metrics["auto_bleu"])
        gained = metrics["auto_bleu"] - repeated_at_start[0]
        # A gain that is bought with repetition is none.
        tell(min(100.0, 100 * metrics["progress"]), metrics["heldout_accuracy"] - max(0.0, gained))

    engine.observe = heard
    root = Path(recipe.root)
    told = provenance(words, recipe)
    materialise(run.targets, root, engine, told, parallel=recipe.compute.parallel_stages, wait=True)
    return {"value": objective(judge(run, sweep.objective, root))}


def judge(run: Run, metrics: Sequence[str], root: Path) -> Judged:
    """By metric, what each item's pair came to (1, 0, or 0.5), in the order of their ids."""
    table = run.targets[0].folder(root).read_table(SCORES, columns=["pair_id", "metric", "correct"])
    rows = sorted(table.to_pylist(), key=lambda row: row["pair_id"])
    return {metric: np.array([row["correct"] for row in rows if row["metric"] == metric]) for metric in metrics}


def objective(judged: Judged) -> float:
    """The mean of the metrics' accuracies, 0..1."""
    return float(np.mean([correct.mean() for correct in judged.values()]))


@dataclass(frozen=True)
class SweepFacts:
    """What a sweep came to. table: lines for the terminal. best_first: points by their objective."""

    table: Sequence[str]
    summary: Sequence[Mapping[str, Any]]
    sentence: str
    cost: str
    best_first: Sequence[str]
    device_seconds: float
    independent_device_seconds: float
    sure: float


def _answer(
    space: Space,
    runs: Sequence[Run],
    root: Path,
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    sweep: Sweep,
    members: Any,
) -> SweepFacts:
    """Write tables, picture and sentence."""
    metrics = list(sweep.metrics)
    rows = [row for run in runs for row in measured_rows(run, metrics, root)]
    summary = summarise(rows)
    out.write_table(RUNS, pa.Table.from_pylist(rows, pa.schema(RUN_COLUMNS)))
    out.write_table(SUMMARY, pa.Table.from_pylist(summary, pa.schema(SUMMARY_COLUMNS)))
    judged: dict[str, list[Judged]] = {}
    for run in runs:
        judged.setdefault(run.member.variant, []).append(judge(run, sweep.objective, root))
    found: Answer = choose(judged)
    sentence = found.sentence(sweep.objective)
    cost = spent(runs, root)
    points = [{"label": point.label, "x": point.x, "line": point.line} for point in space.points]
    first = space.axes[0]
    axis = f"{first.name}{f' ({first.unit.strip()})' if first.unit.strip() else ''}"
    from slamray.report.sweep_figure import draw  # matplotlib takes a second

    draw(sweep.title, sentence, metrics, points, axis, rows, summary, found.point, out.fetch(FIGURE))
    out.write(ANSWER, f"{sentence}\n{cost.sentence()}\n".encode())
    values = {point: float(np.mean([objective(one) for one in own])) for point, own in judged.items()}
    return SweepFacts(
        show(metrics, summary),
        summary,
        sentence,
        cost.sentence(),
        sorted(values, key=lambda point: values[point], reverse=True),
        cost.shared,
        cost.independent,
        found.sure,
    )


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


def spent(runs: Sequence[Run], root: Path) -> Cost:
    """What the training stages of these runs took, each once, and what they would have without sharing any."""
    took: dict[str, float] = {}
    independent = 0.0
    for run in runs:
        workers = run.member.recipe.compute.workers
        for stage in order(run.targets):
            if stage.name in TRAINED:
                facts = stage.manifest(root)["facts"]
                took[stage.fingerprint] = workers * (facts["train_seconds"] - facts.get("shared_seconds", 0.0))
                independent += workers * facts["train_seconds"] * (stage.name != "trunk")
    return Cost(sum(took.values()), independent)
