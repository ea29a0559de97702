"""Write report.html: one self-contained file with the scores, curves, sounds, configuration and provenance of a run."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from slamray.evaluate.metrics import CORPUS_ITEMS, METRICS, PairMetric, ScalarMetric, find_metric
from slamray.evaluate.summary import INTERVALS
from slamray.report.charts import Series, interval_chart, line_chart
from slamray.speech.audio import to_mp3

Row = Mapping[str, Any]
RECOGNISER = "PocketSphinx"
SECTIONS = {
    "scores": "Scores",
    "across": "Heard and read",
    "sets": "Published test sets",
    "answers": "Spoken questions",
    "tasks": "Speech to text, text to speech",
    "steps": "What each step bought",
    "training": "Training",
    "dpo": "DPO",
    "listen": "Listen",
    "writes": "What it writes",
    "items": "Items",
    "stages": "Stages",
    "configuration": "Configuration",
    "provenance": "Provenance",
}


@dataclass(frozen=True)
class Clip:
    """A sound of the report: audio float32 (samples,) mono, with its title and a line of explanation.

    said: what its prompt says, where that is known. heard: what a recogniser hears after the prompt; None where none
    listened.
    """

    title: str
    text: str
    audio: np.ndarray
    rate_hz: int
    said: str = ""
    heard: str | None = None


@dataclass(frozen=True)
class ScalarTable:
    """A table of a scalar metric. rows: `checkpoint` and the fields of the metric's columns, numbers or None."""

    metric: ScalarMetric
    rows: Sequence[Row]


@dataclass(frozen=True)
class ReportData:
    """All that the report shows, as plain rows; an empty list leaves its section out. Checkpoints keep their order."""

    title: str
    summary: list[str] = field(default_factory=list)
    """Sentences under the title: what was found."""
    scores: Sequence[Row] = field(default_factory=list)
    """checkpoint, metric, n, ties, accuracy, low, high (0..1): `summary.ItemSummary` and a checkpoint."""
    published: Sequence[Row] = field(default_factory=list)
    """checkpoint, metric, part, n, ties, accuracy, low, high: `summary.ItemSummary`, of published test sets."""
    gains: Sequence[Row] = field(default_factory=list)
    """checkpoint, metric, n, nats, low, high: `summary.PassageGain`, of endings that are heard or read."""
    scored: str = ""
    """What of a pair whose prompt and ending are heard or read was scored, as a sentence."""
    scalars: Sequence[ScalarTable] = field(default_factory=list)
    answers: Sequence[Row] = field(default_factory=list)
    """checkpoint, set, kind, way, rule, n, without_sound, share, low, high, constant (0..1): of spoken questions."""
    answered: Sequence[Row] = field(default_factory=list)
    """A few of them: checkpoint, way, passage, question, answers, said, right."""
    mixture: Sequence[Row] = field(default_factory=list)
    """name, share, tokens (that there are), read, epochs: of each kind and source of the training rows."""
    word_errors: Sequence[Row] = field(default_factory=list)
    """name, rate (0..), words, sentences, ended: of a voice, its units, and models that write and say sentences."""
    written: Sequence[Row] = field(default_factory=list)
    """A few of them: name, wanted, got."""
    quality: Row | None = None
    """unit_error_rate, units_per_real_unit: of the text-to-token model."""
    differences: Sequence[Row] = field(default_factory=list)
    """metric, n, before, after, difference, low, high: `summary.Difference`, of DPO."""
    training: Sequence[Row] = field(default_factory=list)
    """run ('pre-training' ...), tokens, seconds, flops, loss, and validation_loss where it was measured."""
    dpo: Sequence[Row] = field(default_factory=list)
    """step, loss, accuracy, reward_chosen, reward_rejected, margin, logp_chosen, logp_rejected."""
    continued: Sequence[Row] = field(default_factory=list)
    """checkpoint, heard (whether), prompt, said: what a model of text and speech writes."""
    sounds: list[Clip] = field(default_factory=list)
    examples: Sequence[Row] = field(default_factory=list)
    """A few test items: metric, prompt_text, chosen_text, rejected_text."""
    stages: Sequence[Row] = field(default_factory=list)
    """name, fingerprint, status, seconds, device_seconds."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The whole resolved recipe, nested."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Git commit, versions, hardware, command."""
    confidence: float = 0.95


def write_report(data: ReportData, out: Path) -> None:
    """Write the file; every text is escaped, and a content policy in it forbids any request."""
    made, across = as_rows(data.provenance), across_table(data)
    shown = {
        "data": data,
        "table": score_table([row for row in data.scores if not is_across(row["metric"])]),
        "across": across,
        "answers": answer_table(data.answers),
        "published": published_table(data.published),
        "published_scored": data.scored if any(is_across(row["metric"]) for row in data.published) else "",
        "charts": drawn(draw_scores(data)),
        "curves": drawn(draw_training(data.training)),
        "dpo_curves": drawn(draw_dpo(data.dpo)),
        "sounds": [(sound, sound_uri(sound), duration(len(sound.audio) / sound.rate_hz)) for sound in data.sounds],
        "listened": any(sound.heard is not None for sound in data.sounds),
        "recogniser": RECOGNISER,
        "config": as_rows(data.config),
        "provenance": [row for row in made if not row[0].startswith("compute.")],
        "machine": [row for row in made if row[0].startswith("compute.")],
        "intervals": INTERVALS,
    }
    there = {"scores": data.scores, "across": across["rows"], "sets": data.published, "answers": data.answers}
    there |= {"tasks": data.word_errors, "steps": shown["charts"], "training": shown["curves"] or data.mixture}
    there |= {"dpo": shown["dpo_curves"], "listen": data.sounds, "writes": data.continued, "items": data.examples}
    there |= {"stages": data.stages}
    there |= {"configuration": data.config, "provenance": data.provenance}
    sections = [(key, SECTIONS[key]) for key, rows in there.items() if rows]
    write_page("page.html", shown | {"sections": sections}, out)


def write_page(template: str, shown: Mapping[str, Any], out: Path) -> None:
    """Fill a template of this folder, in which every text is escaped, and write the page."""
    pages = Environment(
        loader=PackageLoader("slamray", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(percent=percent, duration=duration, number=number, metric=metric_name)
    out.write_text(pages.get_template(template).render(shown), encoding="utf-8")


def drawn(charts: Sequence[str]) -> list[Markup]:
    """The charts that are not empty, marked as safe: their texts were escaped when they were drawn."""
    return [Markup(chart) for chart in charts if chart]


def score_table(scores: Sequence[Row]) -> dict[str, Any]:
    """{metrics, rows: [(checkpoint, [score row or None for each metric])]} in the order of first appearance."""
    metrics = list(dict.fromkeys(row["metric"] for row in scores))
    found = {(row["checkpoint"], row["metric"]): row for row in scores}
    checkpoints = dict.fromkeys(row["checkpoint"] for row in scores)
    return {"metrics": metrics, "rows": [(c, [found.get((c, metric)) for metric in metrics]) for c in checkpoints]}


def published_table(rows: Sequence[Row]) -> dict[str, Any]:
    """{checkpoints, rows: [(metric and part, n, [row or None for each checkpoint])]} in the order of appearance."""
    checkpoints = list(dict.fromkeys(row["checkpoint"] for row in rows))
    found = {(row["metric"], row["part"], row["checkpoint"]): row for row in rows}
    lines = []
    for metric, part in dict.fromkeys((row["metric"], row["part"]) for row in rows):
        cells = [found.get((metric, part, checkpoint)) for checkpoint in checkpoints]
        n = next(cell["n"] for cell in cells if cell)
        lines.append((metric if part == "all" else f"{metric}: {part}", n, cells))
    return {"checkpoints": checkpoints, "rows": lines}


def is_across(metric: str) -> bool:
    """Whether prompt and ending are each heard or read."""
    found = find_metric(metric)
    return isinstance(found, PairMetric) and found.across is not None


def across_table(data: ReportData) -> dict[str, Any]:
    """{checkpoints, rows: [(metric, n, [(score row, gain row or None) or None for each checkpoint])]}."""
    rows = [row for row in data.scores if is_across(row["metric"])]
    checkpoints = list(dict.fromkeys(row["checkpoint"] for row in rows))
    gains = {(row["metric"], row["checkpoint"]): row for row in data.gains}
    found = {(row["metric"], row["checkpoint"]): (row, gains.get((row["metric"], row["checkpoint"]))) for row in rows}
    lines = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        cells = [found.get((metric, checkpoint)) for checkpoint in checkpoints]
        lines.append((metric, next(cell[0]["n"] for cell in cells if cell), cells))
    return {"checkpoints": checkpoints, "rows": lines}


def answer_table(rows: Sequence[Row]) -> dict[str, Any]:
    """{checkpoints, rows: [(set and kind, way, rule, row of any checkpoint, [row of each checkpoint])]}."""
    checkpoints = list(dict.fromkeys(row["checkpoint"] for row in rows))
    keys = ("set", "kind", "way", "rule")
    found = {(*(row[key] for key in keys), row["checkpoint"]): row for row in rows}
    lines = []
    for name, kind, way, rule in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        cells = [found.get((name, kind, way, rule, checkpoint)) for checkpoint in checkpoints]
        first = next(cell for cell in cells if cell)
        lines.append((name if kind == "all" else f"{name}: {kind}", way, rule, first, cells))
    return {"checkpoints": checkpoints, "rows": lines}


def draw_scores(data: ReportData) -> list[str]:
    """Accuracies of all checkpoints, and what DPO changed, both with error bars."""
    metrics = list(dict.fromkeys(row["metric"] for row in data.scores))
    series = []
    for checkpoint in dict.fromkeys(row["checkpoint"] for row in data.scores):
        rows = [row for row in data.scores if row["checkpoint"] == checkpoint]
        series.append(_bars(checkpoint, rows, metrics, "accuracy"))
    changed = list(dict.fromkeys(row["metric"] for row in data.differences))
    change = [_bars("after DPO minus before, same items", data.differences, changed, "difference")]
    kind = f"{100 * data.confidence:g} % intervals"
    names, changed_names = [metric_name(m) for m in metrics], [metric_name(m) for m in changed]
    return [
        interval_chart(f"Accuracy of each checkpoint ({kind})", "accuracy (0.5 is chance)", names, series, 0.5),
        interval_chart(f"What DPO changed ({kind})", "difference of accuracy", changed_names, change, 0.0),
    ]


def draw_training(rows: Sequence[Row]) -> list[str]:
    """Loss over tokens, over seconds and over FLOPs, training and validation of each run."""
    axes = (
        ("tokens", "Loss over tokens", "tokens seen"),
        ("seconds", "Loss over time", "optimiser time (s)"),
        ("flops", "Loss over compute", "training FLOPs (6 x parameters x tokens)"),
    )
    charts = []
    for column, title, x_title in axes:
        series = []
        for run in dict.fromkeys(row["run"] for row in rows):
            for loss, name in (("loss", run), ("validation_loss", f"{run}, validation")):
                kept = [row for row in rows if row["run"] == run and row.get(loss) is not None]
                series.append(Series(name, [row[column] for row in kept], [row[loss] for row in kept]))
        charts.append(line_chart(title, x_title, "loss (nats per token)", series))
    return charts


def draw_dpo(rows: Sequence[Row]) -> list[str]:
    """Rewards, margin, log-probabilities and loss over the steps of DPO."""
    panels: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("Rewards", "reward (nats x beta)", {"reward_chosen": "chosen", "reward_rejected": "rejected"}),
        ("Margin", "chosen - rejected (nats x beta)", {"margin": "margin"}),
        ("Log-probabilities", "sum over a sequence (nats)", {"logp_chosen": "chosen", "logp_rejected": "rejected"}),
        ("Loss and accuracy", "loss (nats), accuracy (0..1)", {"loss": "loss", "accuracy": "chosen preferred"}),
    )
    steps = [row["step"] for row in rows]
    return [
        line_chart(title, "DPO step", y_title, [Series(n, steps, [row[c] for row in rows]) for c, n in columns.items()])
        for title, y_title, columns in panels
    ]


def _bars(name: str, rows: Sequence[Row], metrics: Sequence[str], column: str) -> Series:
    x = [metrics.index(row["metric"]) for row in rows]
    return Series(name, x, *([row[c] for row in rows] for c in (column, "low", "high")))


def sound_uri(sound: Clip) -> str:
    """The audio as an MP3 data address: every browser plays it, about 4 kB a second at 16 kHz."""
    mp3 = to_mp3(np.clip(sound.audio, -1, 1), sound.rate_hz)
    return "data:audio/mpeg;base64," + base64.b64encode(mp3).decode()


def as_rows(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(dotted key, value) of every leaf, as the command line would take it."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        rows += as_rows(value, name + ".") if isinstance(value, Mapping) and value else [(name, str(value))]
    return rows


def metric_name(metric: str) -> str:
    """The title for readers of a metric made from the corpus's text; one of a published set goes by its name."""
    found = METRICS.get(metric)
    return found.title if isinstance(found, PairMetric) and CORPUS_ITEMS in found.needs else metric


def percent(share: float) -> str:
    """0.712 as 71.2."""
    return f"{100 * share:.1f}"


def duration(seconds: float | None) -> str:
    """1.4 s, 3 min 20 s, 2 h 05 min; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None, digits: int = 2) -> str:
    """A number with separated thousands and that many decimals; a dash for None."""
    return "-" if value is None else f"{value:,.{digits}f}"
