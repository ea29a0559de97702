"""Draw a sweep: each metric against what is varied, mean and spread over seeds, the chosen point marked."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slamray.evaluate.metrics import PairMetric, metric_of
from slamray.report.study_figure import CHANCE, style


def draw(
    title: str, sentence: str, metrics: Sequence[str], points: Sequence[Mapping[str, Any]], axis: str,
    rows: Sequence[Mapping[str, Any]], summary: Sequence[Mapping[str, Any]], chosen: str, path: Path,
) -> None:  # fmt: skip
    """A PNG with a panel for each metric.

    points: label, x (a number or a word) and line (a word, one line for each) of every point; axis: what x is, with
    its unit; rows: variant (a point's label), metric and value of each run; summary: mean, low, high over the seeds.
    """
    figure = Figure(figsize=(max(6.0, 3.9 * len(metrics)), 4.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        own = [row for row in rows if row["metric"] == metric]
        means = {row["variant"]: row for row in summary if row["metric"] == metric}
        _draw_metric(axes, metric, points, own, means, chosen)
        axes.set_xlabel(axis)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), fontsize=7)
    figure.suptitle(f"{title}\n{textwrap.fill(sentence, 42 * len(metrics))}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_metric(
    axes: Axes, metric: str, points: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]],
    means: Mapping[str, Mapping[str, Any]], chosen: str,
) -> None:  # fmt: skip
    accuracy, scale = isinstance(metric_of(metric), PairMetric), metric_of(metric).scale
    ticks = list(dict.fromkeys(point["x"] for point in points))  # equally far apart: shares grow by factors
    places = {point["label"]: ticks.index(point["x"]) for point in points}
    for number, line in enumerate(dict.fromkeys(point["line"] for point in points)):
        colour, dash = style(number)
        shown = [point for point in points if point["line"] == line and point["label"] in means]
        at = [places[point["label"]] for point in shown]
        found = [means[point["label"]] for point in shown]
        mean, low, high = ([scale * row[key] for row in found] for key in ("mean", "low", "high"))
        label = f"{line or 'mean'}, least to greatest of {found[0]['seeds']} seeds" if found else line
        axes.plot(at, mean, dash, color=colour, marker="o", markersize=4, label=label)
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        own = [(places[row["variant"]], scale * row["value"]) for row in rows if row["variant"] in
               {point["label"] for point in shown}]  # fmt: skip
        axes.plot([x for x, _ in own], [y for _, y in own], "_", color=colour, markersize=8, alpha=0.6)
    if chosen in means:
        axes.plot(places[chosen], scale * means[chosen]["mean"], "*", color="#D55E00", markersize=14, label="chosen")
    if accuracy:
        axes.axhline(scale * CHANCE, color="grey", linestyle="--", linewidth=0.8, label="chance")
    axes.set_xticks(
        range(len(ticks)), [f"{tick:g}" if isinstance(tick, float | int) else str(tick) for tick in ticks], fontsize=7
    )
    axes.set_title(metric.replace("_", " "), fontsize=9)
    axes.set_ylabel("% right" if accuracy else metric.replace("_", " "))
    axes.grid(alpha=0.3)
