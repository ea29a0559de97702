"""Stage `evaluation`: many checkpoints by many metrics in one stream, on what was encoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from slamray.config.base import Located, part_of
from slamray.config.evaluation import Scored, ScoringSettings
from slamray.config.model import BaseSettings
from slamray.config.tree import Recipe
from slamray.data.published_sets import metrics_of_set
from slamray.evaluate.metrics import PairMetric, ScalarMetric, field_of, metric_of
from slamray.evaluate.summary import INTERVALS, ItemSummary
from slamray.speech.encoders.base import EncoderFacts
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages.checkpoints import MODEL
from slamray.stages.scoring import SCORED, SCORES, CheckpointFacts, JointText, measure
from slamray.stages.vocabulary import vocabulary_of
from slamray.tokens.vocabulary import Vocabulary

NAME = "evaluation"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class EvaluationFacts:
    """checkpoints: what each came to, by name. table: the same as lines for a terminal."""

    checkpoints: Mapping[str, CheckpointFacts]
    table: Sequence[str]


def stage(
    recipe: Recipe, checkpoints: Mapping[str, Located | None], metrics: Sequence[str], inputs: Sequence[Stage]
) -> Stage:
    """checkpoints: by name; None is the checkpoint of the input stage of that name."""
    settings = {
        "checkpoints": dict(checkpoints),
        "metrics": list(metrics),
        "scoring": part_of(recipe.evaluate, ScoringSettings),
        "encoder": check_encoder(recipe.speech.encoder),
    }
    known = vocabulary_of(recipe)
    if known.is_joint:
        settings |= {"vocabulary": known, "base": Located(lambda: None, part_of(recipe.model, BaseSettings))}
        settings["scored"] = recipe.evaluate.scored
    cost = f"{len(checkpoints)} checkpoints by {len(metrics)} metrics"
    return Stage(NAME, run, settings, tuple(inputs), version=2, cost=lambda: cost)


def stages(recipe: Recipe, checkpoints: Sequence[Stage], sets: Sequence[Stage]) -> tuple[Stage, ...]:
    """The run's own checkpoints on its published sets, where it names some."""
    if not sets:
        return ()
    names = {checkpoint.name: None for checkpoint in checkpoints}
    metrics = [metric for name in sorted(recipe.evaluate.sets) for metric in metrics_of_set(name)]
    return (stage(recipe, names, metrics, (*checkpoints, *sets)),)


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    checkpoints: Mapping[str, Located | None],
    metrics: Sequence[str],
    scoring: ScoringSettings,
    encoder: EncoderFacts,
    vocabulary: Vocabulary | None = None,
    base: Located | None = None,
    scored: Scored = "continuation",
) -> EvaluationFacts:
    """Score every checkpoint by every metric: a row for each pair to Parquet, figures to the facts and summary.json.

    vocabulary, base, scored: of text and speech, whose tokeniser is the base's.
    """
    text = JointText(vocabulary, base.place, scored) if vocabulary and base else None
    models = {name: Folder(at.place) if at else inputs[name] / MODEL for name, at in checkpoints.items()}
    others = {name: folder for name, folder in inputs.items() if name not in models}
    outs = {name: out / name for name in models}
    rows, facts = measure("evaluation", models, metrics, others, outs, machine, scoring, encoder, text)
    out.write_table(SCORES, rows)
    out.write_json(SUMMARY, {name: asdict(found) for name, found in facts.items()})
    return EvaluationFacts(facts, table(facts, SCORED[scored]))


def table(found: Mapping[str, CheckpointFacts], across: str = "") -> list[str]:
    """Lines for the terminal: a row for each metric and part, a column for each checkpoint.

    across: what is said of metrics whose prompt and ending are heard or read, where there are any.
    """
    width = max(24, *(len(name) + 2 for name in found))
    lines = [f"{'':<32}{'items':>8}" + "".join(f"{name:>{width}}" for name in found)]
    scalars: list[str] = []
    first = next(iter(found.values()))
    for name in first.figures:
        metric = metric_of(name)
        if isinstance(metric, ScalarMetric):
            cells = [metric.show(field_of(facts.figures[name], metric.value)) for facts in found.values()]
            scalars.append(f"{metric.title:<32}{'':>8}" + "".join(f"{cell:>{width}}" for cell in cells))
            continue
        lines.append(_line(name, [facts.figures[name] for facts in found.values()], width))
        parts = {key: part for key, part in first.parts.items() if part.metric == name}
        lines += [_line(f"  {part.part}", [f.parts[key] for f in found.values()], width) for key, part in parts.items()]
    rows = (metric_of(name) for name in first.figures)
    said = [across] if across and any(isinstance(row, PairMetric) and row.across for row in rows) else []
    return [*lines, *scalars, f"accuracy in %; interval: {INTERVALS}; ties, of pairs, where there are any", *said]


def _line(name: str, summaries: Sequence[ItemSummary], width: int) -> str:
    return f"{name:<32}{summaries[0].n:>8,}" + "".join(f"{_cell(one):>{width}}" for one in summaries)


def _cell(one: ItemSummary) -> str:
    ties = f" ties {one.ties:,}" if one.ties else ""
    return f"{100 * one.accuracy:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]{ties}"
