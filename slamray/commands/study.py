"""A study: variants of one recipe, each with several seeds, made by the same stages, then one picture and one table.

What variants have in common is made once, for equal stages have equal fingerprints. A variant that fails is reported
and costs only itself; the picture shows the others. Run again, the command makes what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from slamray.commands.run import make, plan, provenance, verify
from slamray.commands.words import as_command
from slamray.config.load import Member, Study, load_study
from slamray.errors import BadInput
from slamray.recipe.evaluation import ITEM_METRICS
from slamray.recipe.slam import build as build_recipe
from slamray.report.study_figure import Curve, draw
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.stage import Inputs, Stage, order
from slamray.stage.work import Machine

RUNS = "runs.parquet"  # a row for each variant, seed and metric
SUMMARY = "summary.parquet"  # a row for each variant and metric, over the seeds
PICTURE = "study.png"
PERPLEXITY = "perplexity"
RUN_COLUMNS = [
    ("variant", pa.string()), ("seed", pa.int64()), ("metric", pa.string()), ("value", pa.float64()),
    ("low", pa.float64()), ("high", pa.float64()), ("n", pa.int64()), ("parameters", pa.int64()),
    ("tokens", pa.int64()), ("flops", pa.float64()), ("train_seconds", pa.float64()), ("scores", pa.string()),
]  # fmt: skip
SUMMARY_COLUMNS = [
    ("variant", pa.string()), ("metric", pa.string()), ("seeds", pa.int64()), ("mean", pa.float64()),
    ("low", pa.float64()), ("high", pa.float64()),
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A variant with a seed, as stages."""

    member: Member
    checkpoint: str  # the one that is measured
    targets: tuple[Stage, ...]  # its scores, and its evaluation on published sets where there are any

    @property
    def label(self) -> str:
        return f"{self.member.variant}, seed {self.member.seed}"

    def find(self, name: str) -> Stage | None:
        """The stage of that name among its targets and what they need."""
        return next((stage for stage in order(self.targets) if stage.name == name), None)

    def stage(self, name: str) -> Stage:
        """The same, of a stage that it must have."""
        found = self.find(name)
        assert found is not None, f"{self.label} has no stage {name}"
        return found


def main(words: Sequence[str]) -> int:
    """The whole command: 0 when all is made, 1 when a variant failed, 2 when the user's input is at fault."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    study, members = load_study([word for word in words if word not in ("--plan", "--verify")])
    runs = build(members, study.metrics, study.checkpoint)
    if "--plan" in words:
        print(show_plan(study, runs))
        return 0
    if "--verify" in words:
        return verify(Path(members[0].recipe.root), [target for run in runs for target in run.targets])
    engine = Engine(members[0].recipe.compute)  # one for all: words set execution, variants do not
    try:
        failed = make_runs(runs, engine, words)
    finally:
        engine.close()
    for label, reason in failed.items():
        sys.stderr.write(f"error: {label} failed: {reason}\n")
    root = Path(members[0].recipe.root)
    made = [run for run in runs if run.label not in failed]
    if not made:
        raise BadInput("no variant of the study could be made; the reasons are above")
    target = study_stage(study, made, root)
    facts = materialise([target], root, engine, provenance(words, members[0].recipe))[target.name]["facts"]
    print("\n".join(facts["table"]))
    print(f"study: {target.folder(root).fetch(PICTURE)}, {RUNS}, {SUMMARY}")
    return 1 if failed else 0


def build(members: Sequence[Member], metrics: Sequence[str], checkpoint: str = "") -> list[Run]:
    """The stages of every member; BadInput, with the variant's name, for what can be known before any work.

    checkpoint: which is measured; empty: the last one.
    """
    runs = []
    for member in members:
        measured = checkpoint or ("pretrained" if member.recipe.dpo.budget is None else "aligned")
        try:
            found = {stage.name: stage for stage in order(build_recipe(member.recipe))}
            targets = [found.get(f"scores_{measured}"), found.get("evaluation")]
        except BadInput as error:
            raise BadInput(f"variant {member.variant}: {error}") from error
        if targets[0] is None:
            raise BadInput(f"variant {member.variant}: no {measured}, for dpo.budget is null; study another")
        _check_metrics(metrics, member)
        runs.append(Run(member, measured, tuple(target for target in targets if target is not None)))
    return runs


def _check_metrics(metrics: Sequence[str], member: Member) -> None:
    evaluate = member.recipe.evaluate
    counts = evaluate.items.model_dump(include=set(ITEM_METRICS))
    known = [PERPLEXITY, *(name for name, count in counts.items() if count), *evaluate.sets]
    for metric in metrics:
        if metric not in known:
            raise BadInput(
                f"metrics: {metric} is not measured, only {' '.join(known)}; give evaluate.sets.{metric}=FOLDER "
                "if it is a published set, or say study.metrics=[...] or sweep.metrics=[...]"
            )


def make_runs(runs: Sequence[Run], engine: Engine, words: Sequence[str]) -> dict[str, str]:
    """Make one run after the other; the reasons of those that failed, by label."""
    failed = {}
    for number, run in enumerate(runs, start=1):
        sys.stderr.write(f"--- {run.label} ({number} of {len(runs)})\n")
        try:
            make(run.member.recipe, list(run.targets), engine, words)
        except Exception as error:  # whatever it was, the other variants can still be made; it is reported at the end
            failed[run.label] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            sys.stderr.write(f"{run.label} failed: {failed[run.label]}\n")
    return failed


def show_plan(study: Study, runs: Sequence[Run]) -> str:
    """The variants, what they change, and every stage once; starts nothing."""
    lines = [f"study {study.title!r} ({study.of}): {len(study.variants)} variants x {len(study.seeds)} seeds"]
    root = Path(runs[0].member.recipe.root)
    for name, values in study.variants.items():
        own = [run for run in runs if run.member.variant == name]
        done = sum(all(target.is_done(root) for target in run.targets) for run in own)
        changes = ", ".join(f"{key}={value}" for key, value in values.items()) or "the recipe as it is"
        lines.append(f"  {name:<24}{done} of {len(own)} done   {changes}")
    targets = [target for run in runs for target in run.targets]
    return "\n".join([*lines, plan(runs[0].member.recipe, [*targets, study_stage(study, runs, root)])])


def study_stage(study: Study, runs: Sequence[Run], root: Path) -> Stage:
    """The stage that draws these runs; its inputs are what measured them."""
    settings = {"study": study, "members": [[run.member.variant, run.member.seed] for run in runs]}
    inputs = {target.fingerprint: target for run in runs for target in run.targets}
    return Stage("study", partial(_draw, runs, root), settings, tuple(inputs.values()), version=2)


@dataclass(frozen=True)
class StudyFacts:
    """table: lines for the terminal. summary: a row for each variant and metric."""

    table: Sequence[str]
    summary: Sequence[Mapping[str, Any]]


def _draw(
    runs: Sequence[Run], root: Path, inputs: Inputs, out: Folder, machine: Machine, study: Study, members: Any
) -> StudyFacts:
    """Write both tables and the picture."""
    rows = [row for run in runs for row in measured_rows(run, study.metrics, root)]
    summary = summarise(rows)
    out.write_table(RUNS, pa.Table.from_pylist(rows, pa.schema(RUN_COLUMNS)))
    out.write_table(SUMMARY, pa.Table.from_pylist(summary, pa.schema(SUMMARY_COLUMNS)))
    title = f"{study.title} ({study.of})"
    draw(title, list(study.metrics), rows, summary, _curves(runs, root), out.fetch(PICTURE))
    return StudyFacts(show(study.metrics, summary), summary)


def measured_rows(run: Run, metrics: Sequence[str], root: Path) -> list[dict[str, Any]]:
    """A row for each metric; accuracies lie in 0..1, with the interval over their items."""
    scores = run.targets[0]
    facts = scores.manifest(root)["facts"]
    spent = _facts(run, "aligned" if run.checkpoint == "aligned" else "pretrained", root)
    figures = {PERPLEXITY: {"value": facts["perplexity"]["perplexity"], "n": facts["perplexity"]["targets"]}}
    measured = list(facts["pairs"].values())
    for target in run.targets[1:]:
        measured += target.manifest(root)["facts"]["checkpoints"][run.checkpoint]["metrics"]
    for row in measured:
        if row.get("part", "all") == "all":
            figures[row["metric"]] = {"value": row["accuracy"], **{key: row[key] for key in ("low", "high", "n")}}
    for metric in metrics:
        if metric not in figures:
            raise BadInput(
                f"metrics: no item of {metric} could be made from this corpus; leave it out, or give more text"
            )
    shared = {
        "variant": run.member.variant, "seed": run.member.seed, "scores": scores.fingerprint,
        "parameters": _facts(run, "untrained", root)["parameters"],
        **{key: spent[key] for key in ("tokens", "flops", "train_seconds")},
    }  # fmt: skip
    return [{**shared, "metric": metric, **figures[metric]} for metric in metrics]


def _facts(run: Run, name: str, root: Path) -> dict[str, Any]:
    facts: dict[str, Any] = run.stage(name).manifest(root)["facts"]
    return facts


def _curves(runs: Sequence[Run], root: Path) -> list[Curve]:
    """Validation loss over tokens while each run was pre-trained."""
    curves = []
    for run in runs:
        history = run.stage("pretrained").folder(root).read_json("history.json")
        points = [(row["tokens"], row["validation_loss"]) for row in history if "validation_loss" in row]
        curves.append(Curve(run.member.variant, [x for x, _ in points], [y for _, y in points]))
    return curves


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean, least and greatest over the seeds of each variant and metric: how the paper gives its +- (Table 2)."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["variant"], row["metric"]), []).append(row["value"])
    return [
        {
            "variant": variant, "metric": metric, "seeds": len(values), "mean": sum(values) / len(values),
            "low": min(values), "high": max(values),
        }
        for (variant, metric), values in found.items()
    ]  # fmt: skip


def show(metrics: Sequence[str], summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for the terminal: a row for each variant, a column for each metric."""
    cells = {(row["variant"], row["metric"]): row for row in summary}
    variants = dict.fromkeys(row["variant"] for row in summary)
    width = max(map(len, variants))
    lines = [" " * width + "".join(f"{metric:>26}" for metric in metrics)]
    for variant in variants:
        shown = [_cell(cells[variant, metric]) for metric in metrics]
        lines.append(f"{variant:<{width}}" + "".join(f"{text:>26}" for text in shown))
    return [*lines, "mean [least, greatest] over the seeds; accuracies in %"]


def _cell(row: Mapping[str, Any]) -> str:
    scale = 1 if row["metric"] == PERPLEXITY else 100
    mean, low, high = (scale * row[key] for key in ("mean", "low", "high"))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"
