"""Draw a study: validation loss while training, and each metric of each variant, with the spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from slamray.report.panels import CHANCE_PERCENT, Panel, Row, draw_band, make_panel, save, style

POINTS = 200  # points of a mean curve
ONE_SEED = "bars of one seed are the interval over its items; figures without a bar have none"
LOG_RATIO = 10  # a figure whose greatest value is more than this times its least has a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """Validation loss (nats per token) of one run over the tokens that it has seen."""

    variant: str
    tokens: Sequence[float]
    loss: Sequence[float]


def draw(
    title: str, metrics: Sequence[str], rows: Sequence[Row], summary: Sequence[Row], curves: Sequence[Curve], path: Path
) -> None:
    """A PNG. rows: variant, metric and value of each seed; summary: mean, low and high over the seeds."""
    variants = list(dict.fromkeys(row["variant"] for row in summary))
    lines = 1 if len(metrics) < 5 else 2
    columns = -(-(1 + len(metrics)) // lines)
    size = (5.5 + 3.4 * (columns - 1), (2.6 + 0.34 * len(variants)) * lines)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    grid = figure.subplots(lines, columns, width_ratios=[1.5] + [1] * (columns - 1), squeeze=False)
    first, *rest = grid.flat
    _draw_curves(first, variants, curves)
    panels = [make_panel(metric, rows, summary) for metric in metrics]
    for axes, panel in zip(rest, panels, strict=False):
        _draw_metric(axes, panel, variants)
        axes.tick_params(labelleft=axes is rest[0] or axes in grid[1:, 0])
    for axes in rest[len(metrics) :]:
        axes.set_axis_off()
    figure.suptitle(f"{title}\n{ONE_SEED}" if any(panel.intervals for panel in panels) else title)
    save(figure, path)


def band(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, mean, least, greatest) of the losses of several seeds, over the tokens that all of them have seen."""
    last = min(max(curve.tokens) for curve in curves)
    tokens = np.linspace(max(min(curve.tokens) for curve in curves), last, POINTS)
    losses = np.array([np.interp(tokens, curve.tokens, curve.loss) for curve in curves])
    return tokens, losses.mean(0), losses.min(0), losses.max(0)


def _draw_curves(axes: Axes, variants: Sequence[str], curves: Sequence[Curve]) -> None:
    for place, variant in enumerate(variants):
        tokens, mean, low, high = band([curve for curve in curves if curve.variant == variant])
        draw_band(axes, tokens, mean, low, high, place, variant, linewidth=1.4)
    # The untrained model's loss would flatten all that comes after it.
    later = [loss for curve in curves for loss in list(curve.loss)[1:]]
    if later:
        room = 0.05 * (max(later) - min(later)) or 0.1
        axes.set_ylim(min(later) - room, max(later) + room)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("validation loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _draw_metric(axes: Axes, panel: Panel, variants: Sequence[str]) -> None:
    for variant, spread in panel.spreads.items():
        place = variants.index(variant)
        colour, _ = style(place)
        low, high = panel.intervals.get(variant, (spread.low, spread.high))
        bars = [[spread.mean - low], [high - spread.mean]]
        axes.errorbar(spread.mean, place, xerr=bars, fmt="o", color=colour, capsize=3, markersize=5)
        seeds = [value for name, value in panel.values if name == variant]
        axes.plot(seeds, [place] * len(seeds), "|", color=colour, markersize=9, alpha=0.6)
    if not panel.accuracy and not panel.gain and _ratio(panel) > LOG_RATIO:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if panel.accuracy or panel.gain:
        chance = CHANCE_PERCENT if panel.accuracy else 0
        axes.axvline(chance, color="grey", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(variants)), variants, fontsize=8)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    unit = " (% right)" if panel.accuracy else " (nats)" if panel.gain else ""
    axes.set_xlabel(panel.name + unit)
    axes.grid(alpha=0.3, axis="x")


def _ratio(panel: Panel) -> float:
    """Greatest value over the least; 0 where the least is not positive, as no logarithmic axis could show it."""
    low, high = min(s.low for s in panel.spreads.values()), max(s.high for s in panel.spreads.values())
    return high / low if low > 0 else 0.0
