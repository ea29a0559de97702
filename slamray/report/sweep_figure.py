"""Draw a sweep: each metric against what is varied, mean and spread over seeds, the chosen point marked."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slamray.report.panels import CHANCE_PERCENT, Panel, Row, draw_band, make_panel, save, style


def draw(
    title: str,
    sentence: str,
    metrics: Sequence[str],
    points: Sequence[Row],
    axis: str,
    rows: Sequence[Row],
    summary: Sequence[Row],
    chosen: str,
    path: Path,
) -> None:
    """A PNG with a panel for each metric.

    points: label, x (a number or a word) and line (a word, one line for each) of every point; axis: what x is, with
    its unit; rows: variant (a point's label), metric and value of each run; summary: mean, low, high over the seeds.
    """
    figure = Figure(figsize=(max(6.0, 3.9 * len(metrics)), 4.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        _draw_metric(axes, make_panel(metric, rows, summary), points, chosen)
        axes.set_xlabel(axis)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), fontsize=7)
    figure.suptitle(f"{title}\n{textwrap.fill(sentence, 42 * len(metrics))}", fontsize=9)
    save(figure, path)


def _draw_metric(axes: Axes, panel: Panel, points: Sequence[Row], chosen: str) -> None:
    ticks = list(dict.fromkeys(point["x"] for point in points))  # equally far apart, as shares grow by factors
    places = {point["label"]: ticks.index(point["x"]) for point in points}
    for number, line in enumerate(dict.fromkeys(point["line"] for point in points)):
        shown = [p["label"] for p in points if p["line"] == line and p["label"] in panel.spreads]
        at, spreads = [places[label] for label in shown], [panel.spreads[label] for label in shown]
        mean, low, high = [s.mean for s in spreads], [s.low for s in spreads], [s.high for s in spreads]
        legend = f"{line or 'mean'}, least to greatest of {spreads[0].seeds} seeds" if spreads else line
        draw_band(axes, at, mean, low, high, number, legend, marker="o", markersize=4)
        seeds = [(places[label], value) for label, value in panel.values if label in shown]
        colour, _ = style(number)
        axes.plot([x for x, _ in seeds], [y for _, y in seeds], "_", color=colour, markersize=8, alpha=0.6)
    if chosen in panel.spreads:
        best = panel.spreads[chosen].mean
        axes.plot(places[chosen], best, "*", color="#D55E00", markersize=14, label="chosen")
    if panel.accuracy:
        axes.axhline(CHANCE_PERCENT, color="grey", linestyle="--", linewidth=0.8, label="chance")
    names = [f"{tick:g}" if isinstance(tick, float | int) else str(tick) for tick in ticks]
    axes.set_xticks(range(len(ticks)), names, fontsize=7)
    axes.set_title(panel.name, fontsize=9)
    axes.set_ylabel("% right" if panel.accuracy else panel.name)
    axes.grid(alpha=0.3)
