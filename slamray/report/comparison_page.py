"""Write the page of several runs side by side: scores, costs, what differs, curves over each other, sounds in a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slamray.evaluate.metrics import METRICS, find_metric
from slamray.report.charts import Series, line_chart
from slamray.report.page import RECOGNISER, Clip, drawn, duration, metric_name, number, sound_uri, write_page

DEFAULT = "as by default"  # what a run has of a setting that another one changes
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("parameters", lambda value: number(value, 0)),
    "tokens": ("tokens of pre-training", lambda value: number(value, 0)),
    "preference_tokens": ("tokens of DPO", lambda value: number(value, 0)),
    "flops": ("FLOPs, 6 N D", lambda value: f"{value:.2e}"),
    "flops_with_attention": ("FLOPs with attention", lambda value: f"{value:.2e}"),
    "device_hours": ("device-hours of training", lambda value: f"{value:.3g}"),
    "heldout_margin": ("DPO: chosen over rejected, held out (nats)", lambda value: f"{value:+.2f}"),
}
CURVES = (  # title, titles of the axes, metric on x (none: the step), metric on y
    ("Loss of pre-training", "tokens seen", "nats per token", "pretrained/tokens", "pretrained/loss"),
    ("Validation loss", "tokens seen", "nats per token", "pretrained/tokens", "pretrained/validation_loss"),
    ("Margin of DPO", "DPO step", "chosen - rejected (nats x beta)", "", "aligned/rewards/margins"),
    ("Loss of DPO", "DPO step", "nats", "", "aligned/loss"),
    ("Pairs that DPO has right", "DPO step", "share of a step's pairs", "", "aligned/rewards/accuracies"),
)


@dataclass(frozen=True)
class Beside:
    """A run as MLflow has it. figures, params: by name. curves: by metric, the value at each step."""

    name: str
    fingerprint: str
    started: str
    note: str
    words: str
    commit: str
    figures: Mapping[str, float]
    params: Mapping[str, str]
    curves: Mapping[str, Mapping[int, float]]
    sounds: Mapping[str, Clip] = field(default_factory=dict)  # continuations of its last checkpoint, by prompt


def write_comparison(runs: Sequence[Beside], out: Path) -> None:
    """One self-contained file, as the report is: every text is escaped, and it asks for nothing outside itself."""
    labels = label(runs)
    prompts = list(dict.fromkeys(prompt for run in runs for prompt in run.sounds))
    shown = {
        "title": f"{len(runs)} runs side by side",
        "runs": list(zip(labels, runs, strict=True)),
        "scores": score_rows(runs),
        "costs": cost_rows(runs),
        "differences": differing(runs),
        "curves": drawn(
            [line_chart(title, on_x, on_y, _series(runs, labels, x, y)) for title, on_x, on_y, x, y in CURVES]
        ),
        "sounds": [(prompt, [_player(run.sounds.get(prompt)) for run in runs]) for prompt in prompts],
        "recogniser": RECOGNISER,
        "listened": any(clip.heard is not None for run in runs for clip in run.sounds.values()),
    }
    sections = {"scores": "Scores", "costs": "Costs", "differences": "What differs", "curves": "Curves"}
    there = [(key, title) for key, title in (sections | {"sounds": "Listen"}).items() if shown[key]]
    write_page("comparison.html", shown | {"sections": there}, out)


def label(runs: Sequence[Beside]) -> list[str]:
    """A name for each run: its own and, where others have it too, what its settings differ in, or its fingerprint."""
    differ = dict(differing(runs))
    found = []
    for place, run in enumerate(runs):
        apart = [f"{key}={values[place]}" for key, values in differ.items() if values[place] != DEFAULT]
        alone = [other.name for other in runs].count(run.name) == 1
        found.append(run.name if alone else f"{run.name}, {', '.join(apart[:2]) or DEFAULT}")
    return [
        name if found.count(name) == 1 else f"{name} ({run.fingerprint[:6]})"
        for name, run in zip(found, runs, strict=True)
    ]


def differing(runs: Sequence[Beside]) -> list[tuple[str, list[str]]]:
    """Each setting that is not the same in all runs, with its value in each."""
    keys = dict.fromkeys(key for run in runs for key in run.params)
    rows = [(key, [run.params.get(key, DEFAULT) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def score_rows(runs: Sequence[Beside]) -> list[tuple[str, list[str], int]]:
    """A row for each metric and checkpoint: its title, each run's figure, and the place of the best; -1 of none."""
    keys = dict.fromkeys(key for run in runs for key in run.figures)
    names = {key: key.rpartition("/")[2] for key in keys}
    order = list(METRICS)
    rows = []
    for key in sorted(names, key=lambda one: (one.rpartition("/")[0], _place(names[one], order))):
        metric = find_metric(names[key])
        before = key.rpartition("/")[0]
        if metric is None or before not in ("", "pretrained", "untrained"):
            continue
        values = [run.figures.get(key) for run in runs]
        known = [value for value in values if value is not None]
        best = (max if metric.higher_is_better else min)(known)
        title = metric_name(names[key]) if metric.scale == 100 else metric.title
        unit = " %" if metric.scale == 100 else ""
        when = {"": "", "pretrained": ", before DPO", "untrained": ", untrained"}[before]
        place = values.index(best) if len(known) > 1 and known.count(best) == 1 else -1
        rows.append((f"{title}{unit}{when}", [metric.show(value) for value in values], place))
    return rows


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def cost_rows(runs: Sequence[Beside]) -> list[tuple[str, list[str]]]:
    """What each run cost, and the seconds of its stages."""
    rows = [
        (title, [show(run.figures[key]) if key in run.figures else "-" for run in runs])
        for key, (title, show) in COSTS.items()
        if any(key in run.figures for run in runs)
    ]
    stages = dict.fromkeys(key for run in runs for key in run.figures if key.startswith("seconds/"))
    return rows + [
        (f"stage {key.removeprefix('seconds/')}", [duration(run.figures.get(key)) for run in runs]) for key in stages
    ]


def _series(runs: Sequence[Beside], labels: Sequence[str], x: str, y: str) -> list[Series]:
    found = []
    for run, name in zip(runs, labels, strict=True):
        places = run.curves.get(x, {})
        points = [(places.get(step, step) if x else step, value) for step, value in run.curves.get(y, {}).items()]
        found.append(Series(name, [at for at, _ in points], [value for _, value in points]))
    return found


def _player(clip: Clip | None) -> tuple[Clip, str, str] | None:
    return None if clip is None else (clip, sound_uri(clip), duration(len(clip.audio) / clip.rate_hz))
