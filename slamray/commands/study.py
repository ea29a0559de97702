"""A study: variants of one recipe, each with several seeds, made by the same stages, then one picture and one table.

What variants have in common is made once, for equal stages have equal fingerprints. A variant that fails is reported
and costs only itself; the picture shows the others. Run again, the command makes what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from slamray.commands.help import is_asked, print_help
from slamray.commands.run import FLAGS, make, plan, provenance, quiet, verify
from slamray.commands.words import as_command
from slamray.config.load import Member, Study, load_study
from slamray.config.tree import Recipe
from slamray.console import say
from slamray.errors import BadInput
from slamray.evaluate.metrics import GENPPL, PUBLISHED_SETS, GainMetric, PairMetric, field_of, find_metric, metric_of
from slamray.recipe.evaluation import measured
from slamray.recipe.ready import known, ready
from slamray.recipe.slam import build as build_recipe
from slamray.report.study_figure import Curve, draw
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder, Root
from slamray.stage.materialise import materialise
from slamray.stage.records import to_table
from slamray.stage.stage import Inputs, Stage, order, unique
from slamray.stage.work import Machine
from slamray.stages.checkpoints import ALIGNED, PRETRAINED, UNTRAINED

RUNS = "runs.parquet"  # a FigureRow for each variant, seed and metric
SUMMARY = "summary.parquet"  # a SpreadRow for each variant and metric
PICTURE = "study.png"


@dataclass(frozen=True)
class Trial:
    """A variant with a seed, as stages."""

    member: Member
    checkpoint: str  # the one that is measured
    targets: tuple[Stage, ...]  # its scores; its evaluation on published sets and its GenPPL, where they are measured

    @property
    def label(self) -> str:
        return f"{self.member.variant}, seed {self.member.seed}"

    @property
    def scores(self) -> Stage:
        return self.targets[0]

    def is_done(self, root: Root) -> bool:
        return all(target.is_done(root) for target in self.targets)

    def find(self, name: str) -> Stage | None:
        """The stage of that name among its targets and what they need."""
        return next((stage for stage in order(self.targets) if stage.name == name), None)

    def stage(self, name: str) -> Stage:
        """The same, of a stage that it must have."""
        found = self.find(name)
        assert found is not None, f"{self.label} has no stage {name}"
        return found

    def measures(self, metric: str) -> Stage:
        """The stage that has measured the checkpoint by a metric."""
        return self.stage(_measured_by(metric, self.checkpoint))

    def facts(self, name: str, root: Root) -> Mapping[str, Any]:
        """The facts of a finished stage."""
        facts: Mapping[str, Any] = self.stage(name).manifest(root)["facts"]
        return facts


@dataclass(frozen=True)
class FigureRow:
    """A metric of a trial, with what the trial cost; shares lie in 0..1, with the interval over their items."""

    variant: str
    seed: int
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    parameters: int
    tokens: int
    flops: float
    train_seconds: float
    scores: str  # fingerprint of the stage that has measured it


@dataclass(frozen=True)
class SpreadRow:
    """A metric of a variant over its seeds: mean, least and greatest."""

    variant: str
    metric: str
    seeds: int
    mean: float
    low: float
    high: float


def main(words: Sequence[str]) -> int:
    """The whole command: 0 when all is made, 1 when a variant failed, 2 when the user's input is at fault."""
    if is_asked(words):
        return print_help("study")
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    study, members = load_study([word for word in words if word not in FLAGS])
    looks = bool({"--plan", "--verify"} & set(words))
    members = each(members, known if looks else lambda recipe: ready(recipe, build_recipe))
    trials = build(members, study.metrics, study.checkpoint)
    root = Folder(members[0].recipe.root)
    if "--plan" in words:
        print(show_plan(study, trials))
        return 0
    if "--verify" in words:
        return verify(root, [target for trial in trials for target in trial.targets])
    engine = Engine(members[0].recipe.compute)  # one for all: words set execution, variants do not
    try:
        with quiet(root, words):
            failed = make_trials(trials, engine, words)
    finally:
        engine.close()
    for label, reason in failed.items():
        sys.stderr.write(f"error: {label} failed: {reason}\n")
    made = [trial for trial in trials if trial.label not in failed]
    if not made:
        raise BadInput("no variant of the study could be made; the reasons are above")
    target = study_stage(study, made, root)
    facts = materialise([target], root, engine, provenance(words, members[0].recipe))[target.name]["facts"]
    print("\n".join(facts["table"]))
    print(f"study: {target.folder(root) / PICTURE}, {RUNS}, {SUMMARY}")
    return 1 if failed else 0


def each(members: Sequence[Member], change: Callable[[Recipe], Recipe]) -> list[Member]:
    """The members with their recipes changed; BadInput with the variant's name."""
    changed = []
    for member in members:
        try:
            changed.append(replace(member, recipe=change(member.recipe)))
        except BadInput as error:
            raise BadInput(f"variant {member.variant}: {error}") from error
    return changed


def build(members: Sequence[Member], metrics: Sequence[str], checkpoint: str = "") -> list[Trial]:
    """The stages of every member; BadInput, with the variant's name, for what can be known before any work.

    checkpoint: which is measured; empty: the last one.
    """
    trials = []
    for member in members:
        last = PRETRAINED if member.recipe.dpo.budget is None else ALIGNED
        chosen = checkpoint or last.stage
        try:
            found = {stage.name: stage for stage in order(build_recipe(member.recipe))}
        except BadInput as error:
            raise BadInput(f"variant {member.variant}: {error}") from error
        if f"scores_{chosen}" not in found:
            raise BadInput(f"variant {member.variant}: no {chosen}, for dpo.budget is null; study another")
        _check_metrics(metrics, member)
        names = dict.fromkeys((f"scores_{chosen}", "evaluation", *(_measured_by(name, chosen) for name in metrics)))
        trials.append(Trial(member, chosen, tuple(found[name] for name in names if name in found)))
    return trials


def _measured_by(metric: str, checkpoint: str) -> str:
    """The name of the stage that measures a checkpoint by a metric."""
    needs = metric_of(metric).needs
    if PUBLISHED_SETS in needs:
        return "evaluation"
    return f"{GENPPL}_{checkpoint}" if GENPPL in needs else f"scores_{checkpoint}"


def _check_metrics(metrics: Sequence[str], member: Member) -> None:
    known = measured(member.recipe)
    for metric in metrics:
        if metric not in known:
            raise BadInput(
                f"metrics: {metric} is not measured, only {' '.join(known)}; give evaluate.sets.{metric}=FOLDER "
                "if it is a published set, evaluate.genppl.prompts=1000 if it is of transcripts, or say "
                "study.metrics=[...] or sweep.metrics=[...]"
            )


def make_trials(trials: Sequence[Trial], engine: Engine, words: Sequence[str]) -> dict[str, str]:
    """Make one trial after the other; the reasons of those that failed, by label."""
    failed = {}
    for number, trial in enumerate(trials, start=1):
        say(f"--- {trial.label} ({number} of {len(trials)})")
        try:
            make(trial.member.recipe, list(trial.targets), engine, words)
        except Exception as error:  # whatever it was, the other variants can still be made; it is reported at the end
            failed[trial.label] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            say(f"{trial.label} failed: {failed[trial.label]}")
    return failed


def show_plan(study: Study, trials: Sequence[Trial]) -> str:
    """The variants, what they change, and every stage once; starts nothing."""
    lines = [f"study {study.title!r} ({study.of}): {len(study.variants)} variants x {len(study.seeds)} seeds"]
    recipe = trials[0].member.recipe
    root = Folder(recipe.root)
    for name, values in study.variants.items():
        seeds = [trial for trial in trials if trial.member.variant == name]
        done = sum(trial.is_done(root) for trial in seeds)
        changes = ", ".join(f"{key}={value}" for key, value in values.items()) or "the recipe as it is"
        lines.append(f"  {name:<24}{done} of {len(seeds)} done   {changes}")
    targets = [target for trial in trials for target in trial.targets]
    return "\n".join([*lines, plan(recipe, [*targets, study_stage(study, trials, root)])])


def study_stage(study: Study, trials: Sequence[Trial], root: Root) -> Stage:
    """The stage that draws these trials; its inputs are what measured them."""
    settings = {"study": study, "members": [[trial.member.variant, trial.member.seed] for trial in trials]}
    inputs = unique([target for trial in trials for target in trial.targets])
    return Stage("study", partial(_draw, trials, root), settings, tuple(inputs), version=3)


@dataclass(frozen=True)
class StudyFacts:
    """table: lines for the terminal."""

    table: Sequence[str]
    summary: Sequence[SpreadRow]


def _draw(
    trials: Sequence[Trial], root: Root, inputs: Inputs, out: Folder, machine: Machine, study: Study, members: Any
) -> StudyFacts:
    """Write both tables and the picture."""
    rows = [row for trial in trials for row in figure_rows(trial, study.metrics, root)]
    summary = summarise([(row.variant, row.metric, row.value) for row in rows])
    out.write_table(RUNS, to_table(rows, FigureRow))
    out.write_table(SUMMARY, to_table(summary, SpreadRow))
    shown, spread = [asdict(row) for row in rows], [asdict(row) for row in summary]
    title, curves = f"{study.title} ({study.of})", _curves(trials, root)
    out.write_tree(PICTURE, partial(draw, title, study.metrics, shown, spread, curves))
    return StudyFacts(show(study.metrics, summary), summary)


def figure_rows(trial: Trial, metrics: Sequence[str], root: Root) -> list[FigureRow]:
    """A row for each metric. BadInput for one of which there is no item."""
    return [_figure_row(trial, metric, _facts_of(trial, metric, root), root) for metric in metrics]


def _facts_of(trial: Trial, metric: str, root: Root) -> Mapping[str, Any]:
    """The facts of a metric of the trial's checkpoint; none where no item was there."""
    facts: Mapping[str, Any] = trial.measures(metric).manifest(root)["facts"]
    if GENPPL in metric_of(metric).needs:
        return facts
    facts = facts.get("checkpoints", {}).get(trial.checkpoint, facts)
    row = metric_of(metric)
    found: Mapping[str, Any] = (
        facts["gains"].get(row.of, {}) if isinstance(row, GainMetric) else facts["figures"].get(metric, {})
    )
    return found


def _figure_row(trial: Trial, name: str, facts: Mapping[str, Any], root: Root) -> FigureRow:
    metric = metric_of(name)
    value = field_of(facts, metric.value) if facts else None
    if value is None:
        raise BadInput(f"metrics: no item of {name} could be made from this corpus; leave it out, or give more text")
    has_interval = isinstance(metric, PairMetric | GainMetric)
    spent = trial.facts(ALIGNED.stage if trial.checkpoint == ALIGNED.stage else PRETRAINED.stage, root)
    return FigureRow(
        trial.member.variant,
        trial.member.seed,
        name,
        value,
        facts["low"] if has_interval else None,
        facts["high"] if has_interval else None,
        field_of(facts, metric.count),
        trial.facts(UNTRAINED.stage, root)["parameters"],
        spent["tokens"],
        spent["flops"],
        spent["train_seconds"],
        trial.scores.fingerprint,
    )


def _curves(trials: Sequence[Trial], root: Root) -> list[Curve]:
    """Validation loss over tokens while each trial was pre-trained."""
    curves = []
    for trial in trials:
        history = trial.stage(PRETRAINED.stage).folder(root).read_json("history.json")
        points = [(row["tokens"], row["validation_loss"]) for row in history if "validation_loss" in row]
        curves.append(Curve(trial.member.variant, [x for x, _ in points], [y for _, y in points]))
    return curves


def summarise(figures: Sequence[tuple[str, str, float]]) -> list[SpreadRow]:
    """Mean, least and greatest over the seeds of each variant and metric: how the paper gives its +- (Table 2).

    figures: variant, metric and value of each trial.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for variant, metric, value in figures:
        found.setdefault((variant, metric), []).append(value)
    return [
        SpreadRow(variant, metric, len(values), sum(values) / len(values), min(values), max(values))
        for (variant, metric), values in found.items()
    ]


def show(metrics: Sequence[str], summary: Sequence[SpreadRow]) -> list[str]:
    """Lines for the terminal: a row for each variant, a column for each metric."""
    cells = {(row.variant, row.metric): row for row in summary}
    variants = dict.fromkeys(row.variant for row in summary)
    width = max(map(len, variants))
    lines = [" " * width + "".join(f"{metric:>26}" for metric in metrics)]
    for variant in variants:
        shown = [_cell(cells[variant, metric]) for metric in metrics]
        lines.append(f"{variant:<{width}}" + "".join(f"{text:>26}" for text in shown))
    return [*lines, "mean [least, greatest] over the seeds; accuracies in %"]


def _cell(row: SpreadRow) -> str:
    metric = find_metric(row.metric)
    scale = metric.scale if metric else 100  # a sweep's objective is a mean of accuracies
    return f"{scale * row.mean:.2f} [{scale * row.low:.2f}, {scale * row.high:.2f}]"
