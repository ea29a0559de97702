"""A sweep: points of a space x seeds as trials beside each other, then one figure, one table and one sentence.

A file of tuning/, or of a folder `tuning` in the working directory, gives the space. A trial is a recipe whose
missing stages are made on the cluster by a driver function under Ray Tune; what trials have in common is one stage,
made once. So a finished trial costs nothing on a second start, and a killed sweep goes on where it was. A trial that
fails is reported and costs only itself.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import yaml

from slamray.commands import tracked
from slamray.commands.help import is_asked, print_help
from slamray.commands.leaving import Leaving
from slamray.commands.run import make, probe_gpus, provenance, quiet
from slamray.commands.study import RUNS, SUMMARY, Trial, build, each
from slamray.commands.sweep_answer import ANSWER, FIGURE, TRAINED, answer_stage, judge, merit, objective
from slamray.commands.sweep_space import Space, load_tuning, make_space
from slamray.commands.words import as_command
from slamray.config.load import Member, Sweep, load_sweep
from slamray.config.tree import Recipe
from slamray.console import say
from slamray.errors import BadInput
from slamray.evaluate.metrics import PairMetric, corpus_metrics, metric_of
from slamray.recipe.ready import known, ready
from slamray.recipe.slam import build as build_recipe
from slamray.report import runs as compare_runs
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.stage import Stage, order, prune
from slamray.stages import planning
from slamray.stages.checkpoints import ALIGNED, MODEL, PRETRAINED, UNTRAINED
from slamray.tracking import Tracker, open_tracker

STOPPED = "stopped"  # folder below the root: the last reports of trials that were stopped
OF_TRIALS = (UNTRAINED.stage, *TRAINED)  # stages that each trial makes, and that are not made before the trials


def main(words: Sequence[str]) -> int:
    """The whole command: 0 when all is made, 1 when a trial failed, 2 when the user's input is at fault."""
    if is_asked(words):
        return print_help("sweep")
    return as_command(lambda: _main(words, "--plan" in words))


def _main(words: Sequence[str], plan_only: bool) -> int:
    found: list[Space] = []

    def points(sweep: Sweep) -> dict[str, Mapping[str, Any]]:
        found.append(make_space(load_tuning(sweep.tuning), sweep))
        return {point.label: point.changes for point in found[0].points}

    sweep, members = load_sweep([word for word in words if word not in ("--plan", "--verbose")], points)
    members = each(members, known if plan_only else lambda recipe: ready(recipe, build_recipe))
    recipe = members[0].recipe
    engine = Engine(recipe.compute)
    trials = {trial.label: trial for trial in build(members, metrics_of(sweep))}
    check(sweep, list(trials.values()))
    run = SweepRun(sweep, found[0], trials, engine, words)
    if plan_only:
        print(run.plan())
        return 0
    tracker = open_tracker(recipe.tracking, sweep.title, run.fingerprint, run.root)
    status = "FAILED"
    try:
        with quiet(run.root, words):
            failed = run.make(tracker)
        status = "FINISHED"
    finally:
        tracker.close(status)
        engine.close()
    return 1 if failed else 0


def metrics_of(sweep: Sweep) -> tuple[str, ...]:
    """Every metric that is drawn or judged by, once."""
    return tuple(dict.fromkeys(sweep.metrics + sweep.objective))


def check(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """BadInput for what is known to be wrong with a sweep before any work."""
    alone = [name for name in sweep.objective if not isinstance(metric_of(name), PairMetric)]
    if alone and len(sweep.objective) > 1:
        raise BadInput(
            f"sweep.objective=[{', '.join(sweep.objective)}]: {alone[0]} has another scale than the others, so that "
            "their mean says nothing; name it alone, or metrics of pairs together"
        )
    if sweep.stop != "none" and not any(trial.member.recipe.dpo.evaluations for trial in trials):
        raise BadInput(f"sweep.stop={sweep.stop}: nothing is told during DPO; give dpo.evaluations, such as 4")


@dataclass
class SweepRun:
    """A sweep while it is made: its trials, and the reasons of those that failed."""

    sweep: Sweep
    space: Space
    trials: Mapping[str, Trial]  # by label; all seeds of the first point, then of the next
    engine: Engine
    words: Sequence[str]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        return next(iter(self.trials.values())).member.recipe

    @property
    def root(self) -> Folder:
        return Folder(self.recipe.root)

    @property
    def fingerprint(self) -> str:
        """Of the whole, whatever becomes of its trials."""
        return self._answer_stage(list(self.trials.values())).fingerprint

    def make(self, tracker: Tracker) -> dict[str, str]:
        """Make what is missing, and the answer; the reasons of the trials that failed."""
        section = self.sweep.model_dump(mode="json")
        common = tracked.common([trial.member.recipe for trial in self.trials.values()])
        tracker.begin(tracked.tags(provenance(self.words, self.recipe)))
        tracker.params({f"sweep.{key}": value for key, value in section.items()} | common)
        tracker.text("sweep.yaml", yaml.safe_dump(section, sort_keys=False, allow_unicode=True))
        todo = [label for label, trial in self.trials.items() if not self._ended(trial)]
        say(f"{len(self.trials)} trials, {len(self.trials) - len(todo)} ended before")
        for label, trial in self.trials.items():
            if label not in todo:
                self._track(tracker, label, trial)
        if todo:
            self._make_trials(todo, tracker)
        made = [trial for trial in self.trials.values() if trial.is_done(self.root)]
        if not made:
            raise BadInput("no trial of the sweep could be made; the reasons are above")
        self._answer(made, tracker)
        for label, reason in self.failed.items():
            say(f"error: {label} failed: {reason}")
        return self.failed

    def plan(self) -> str:
        """Every trial and whether it is done; starts nothing."""
        lines = [f"sweep {self.sweep.title!r}: {len(self.space.points)} points x {len(self.sweep.seeds)} seeds"]
        if self.sweep.search:
            lines[0] += f"; Optuna proposes {self.sweep.search}, then the best two with all seeds"
        width = max(len(point.label) for point in self.space.points) + 2
        for point in self.space.points:
            seeds = [trial for trial in self.trials.values() if trial.member.variant == point.label]
            done = sum(self._ended(trial) for trial in seeds)
            changes = ", ".join(f"{key}={value}" for key, value in point.changes.items())
            lines.append(f"  {point.label:<{width}}{done} of {len(seeds)} done   {changes}")
        lines.append(f"at most {self._bytes(len(self.trials)) / 1e6:,.0f} MB of models on disk at a time")
        return "\n".join(lines)

    def _make_trials(self, todo: Sequence[str], tracker: Tracker) -> None:
        """First what all trials share, then the trials."""
        self.root.require_space(self._bytes(len(todo)), f"a sweep of {len(todo)} trials")
        self.engine.connect()
        wanted = order([target for label in todo for target in self.trials[label].targets])
        probe_gpus(self.recipe, wanted, self.engine)
        with Leaving(self.engine, self.root, wanted).listening():
            self._make_all(todo, tracker)

    def _make_all(self, todo: Sequence[str], tracker: Tracker) -> None:
        untracked = self.recipe.tracking.model_copy(update={"enabled": False})
        make(self.recipe.model_copy(update={"tracking": untracked}), self._shared(), self.engine, self.words)
        self._require_items()
        if self.sweep.search:
            self._search(tracker)
        else:
            self._try([label for label in self._shortest_trunk_first() if label in todo], tracker)

    def _answer(self, made: Sequence[Trial], tracker: Tracker) -> None:
        """Draw and print what the finished trials came to, and remove the models that are not kept."""
        target = self._answer_stage(made)
        facts = materialise([target], self.root, self.engine, provenance(self.words, self.recipe))[target.name]["facts"]
        self._prune(facts["best_first"])
        for name in (FIGURE, RUNS, SUMMARY, ANSWER):
            tracker.artifact(target.folder(self.root).fetch(name))
        tracker.note(f"{facts['sentence']}\n\n{facts['cost']}")
        tracker.finish_stage(compare_runs.ANSWER, target.manifest(self.root))
        shared = [stage for stage in order(made[0].targets) if stage.is_done(self.root)]
        tracker.data(tracked.data_sets(self.recipe, shared, {one.name: one.manifest(self.root) for one in shared}))
        best = facts["best_first"][0]
        means = {row["metric"]: row["mean"] for row in facts["summary"] if row["variant"] == best}
        tracker.figures(means | {"device_hours": facts["device_seconds"] / 3600, "sure": facts["sure"]})
        print("\n".join([*facts["table"], facts["sentence"], facts["cost"]]))
        print(f"sweep: {target.folder(self.root) / FIGURE}, {RUNS}, {SUMMARY}, {ANSWER}")

    def _require_items(self) -> None:
        """BadInput when a metric has no item after all: a small corpus has none of some kinds."""
        items = next(iter(self.trials.values())).stage("items")
        if not items.is_done(self.root):  # trials do not share it; each will find out
            return
        made = items.manifest(self.root)["facts"]["pairs"]
        for metric in metrics_of(self.sweep):
            if metric in corpus_metrics() and metric not in made:
                raise BadInput(f"sweep: no item of {metric} could be made; leave the metric out, or give more text")

    def _search(self, tracker: Tracker) -> None:
        """Optuna's proposals with the first seed; then the best two points with the others."""
        labels = self._labels_by_place(self.sweep.seeds[0])
        known = [
            (point.place, self._merit(labels[point.place]))
            for point in self.space.points
            if self._is_scored(labels[point.place])
        ]
        left = self.sweep.search - len(known)
        if left > 0:
            from slamray.runtime.tune import Lattice

            sizes = {axis.name: len(axis.values) for axis in self.space.axes}
            self._try(Lattice(sizes, labels, left, self.sweep.seeds[0], known), tracker)
        tried = [label for label in set(labels.values()) if self._is_scored(label)]
        best = sorted(tried, key=self._merit, reverse=True)[:2]
        variants = [self.trials[label].member.variant for label in best]
        others = [trial for trial in self.trials.values() if trial.member.variant in variants]
        again = [trial.label for trial in others if not self._ended(trial)]
        if again:
            self._try(again, tracker)

    def _labels_by_place(self, seed: int) -> dict[tuple[int, ...], str]:
        """The trial of every combination of the axes, with one seed.

        Combinations that make the same recipe are one point (`make_space`): they have the trial of the point whose
        first index is theirs.
        """
        points = {point.place: point for point in self.space.points}
        first = {point.place[0]: point for point in reversed(self.space.points)}
        labels = {(trial.member.variant, trial.member.seed): label for label, trial in self.trials.items()}
        places = itertools.product(*(range(len(axis.values)) for axis in self.space.axes))
        return {place: labels[points.get(place, first[place[0]]).label, seed] for place in places}

    def _try(self, trials: Any, tracker: Tracker) -> None:
        """Have Tune run trials, given by their labels or as a lattice that is searched."""
        from slamray.runtime import tune

        def on_end(ended: tune.Ended) -> None:
            trial = self.trials[ended.name]
            if ended.how == "failed":
                self.failed[ended.name] = ended.reason
            elif ended.how == "stopped":
                last = {key: ended.told.get(key) for key in (tune.PERCENT, tune.VALUE)}
                self.root.write_json(self._stopped(trial), last)
            done = sum(self._ended(other) for other in self.trials.values())
            how = f"{ended.how} ({ended.reason})" if ended.reason else ended.how
            say(f"{ended.name}: {how}; {done} of {len(self.trials)} trials have ended")
            self._track(tracker, ended.name, trial)
            if ended.how != "finished":
                tracker.end_child(ended.name, "FAILED" if ended.how == "failed" else "KILLED")

        at_once = self.sweep.at_once or tune.concurrent(self.recipe.compute)
        members = {label: trial.member for label, trial in self.trials.items()}
        work = partial(_make_trial, members, self.sweep, list(self.words))
        folder = self.root.scratch(f".tune/{self.fingerprint}")
        shutil.rmtree(folder, ignore_errors=True)
        tune.run(work, trials, at_once, self.sweep.stop, on_end, folder, self.recipe.compute.max_failures)
        shutil.rmtree(folder, ignore_errors=True)

    def _shared(self) -> list[Stage]:
        """The stages that all trials need, but for those that each trial makes."""
        needed = [{stage.fingerprint: stage for stage in order(trial.targets)} for trial in self.trials.values()]
        everyone = set.intersection(*(set(one) for one in needed))
        left_out = (*OF_TRIALS, *(target.name for trial in self.trials.values() for target in trial.targets))
        return [stage for key, stage in needed[0].items() if key in everyone and stage.name not in left_out]

    def _shortest_trunk_first(self) -> list[str]:
        """Trials by the end of their trunks, so that each trunk goes on from a shorter one."""

        def end(label: str) -> float:
            trunk = self.trials[label].find("trunk")
            return float(str(trunk.settings["until"]).partition(":")[2].rstrip("s")) if trunk else 0.0

        return sorted(self.trials, key=end)

    def _ended(self, trial: Trial) -> bool:
        """Whether a trial is made, or was stopped."""
        return trial.is_done(self.root) or (self.sweep.stop != "none" and self.root.exists(self._stopped(trial)))

    def _stopped(self, trial: Trial) -> str:
        return f"{STOPPED}/{trial.scores.fingerprint}.json"

    def _is_scored(self, label: str) -> bool:
        return all(self.trials[label].measures(name).is_done(self.root) for name in self.sweep.objective)

    def _merit(self, label: str) -> float:
        return merit(judge(self.trials[label], self.sweep.objective, self.root))

    def _track(self, tracker: Tracker, label: str, trial: Trial) -> None:
        """Log a trial as a child run: its place in the space and, where it is made, all that was measured of it."""
        point = next(point for point in self.space.points if point.label == trial.member.variant)
        axes = {axis.key: axis.values[i] for axis, i in zip(self.space.axes, point.place, strict=True)}
        tracker.params(axes | dict(point.changes) | {"seed": trial.member.seed}, label)
        tracker.text(tracked.SETTINGS, tracked.as_recipe_file(trial.member.recipe), label)
        if trial.is_done(self.root):
            made = [stage for stage in order(trial.targets) if stage.is_done(self.root)]
            facts = tracked.compared({stage.name: stage.manifest(self.root) for stage in made})
            if all(isinstance(metric_of(name), PairMetric) for name in self.sweep.objective):
                facts["objective"] = objective(judge(trial, self.sweep.objective, self.root))
            seconds = trial.scores.manifest(self.root)["wall_seconds"]
            tracker.finish_stage(
                label, {"facts": facts, "wall_seconds": seconds, "fingerprint": trial.scores.fingerprint}
            )

    def _bytes(self, trials: int) -> int:
        """Of all models while the sweep runs: each trial's two and its trunk's state, and checkpoints in training."""
        model = 4 * max(planning.parameters(trial.member.recipe) for trial in self.trials.values())
        return model * (2 * trials + 3 * trials + 6 * max(1, self.sweep.at_once))

    def _answer_stage(self, trials: Sequence[Trial]) -> Stage:
        return answer_stage(self.sweep, self.space, trials, self.root)

    def _prune(self, best_first: Sequence[str]) -> None:
        """Only the best points keep their models; scores and metrics stay, and so do trunks, for other sweeps."""
        best = [trial for trial in self.trials.values() if trial.member.variant in best_first[: self.sweep.keep]]
        kept = {stage.fingerprint for trial in best for stage in order(trial.targets)}
        for stage in order([target for trial in self.trials.values() for target in trial.targets]):
            trained = stage.name in (PRETRAINED.stage, ALIGNED.stage)
            if trained and stage.fingerprint not in kept and stage.is_done(self.root):
                prune(stage, self.root, MODEL)


def _make_trial(
    members: Mapping[str, Member], sweep: Sweep, words: Sequence[str], label: str, tell: Callable[[float, float], None]
) -> dict[str, Any]:
    """A trial on the cluster: make what its recipe lacks; the merit of its objective."""
    member = members[label]
    recipe = member.recipe
    engine = Engine(recipe.compute)
    (trial,) = build([member], metrics_of(sweep))
    repeated_at_start: list[float] = []

    def heard(stage: str, metrics: Mapping[str, Any]) -> None:
        if "heldout_accuracy" not in metrics:
            return
        repeated_at_start.append(metrics["auto_bleu"])
        gained = metrics["auto_bleu"] - repeated_at_start[0]
        # A gain that is bought with repetition is none.
        tell(min(100.0, 100 * metrics["progress"]), metrics["heldout_accuracy"] - max(0.0, gained))

    engine.observe = heard
    root, record = Folder(recipe.root), provenance(words, recipe)
    materialise(trial.targets, root, engine, record, parallel=recipe.compute.parallel_stages, wait=True)
    return {"value": merit(judge(trial, sweep.objective, root))}
