"""Draw a study: validation loss while training, and each metric of each variant, with the spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from slamray.evaluate.metrics import PairMetric, metric_of

# Okabe and Ito's colours, told apart by those who do not see red or green; dashes where they begin again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")
CHANCE = 0.5  # accuracy of a pair that is guessed
POINTS = 200  # of a mean curve
SPREAD = 10  # a figure that grows by more from the least variant to the greatest has a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """Validation loss (nats per token) of one run over the tokens that it has seen."""

    variant: str
    tokens: Sequence[float]
    loss: Sequence[float]


def draw(
    title: str,
    metrics: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    summary: Sequence[Mapping[str, Any]],
    curves: Sequence[Curve],
    path: Path,
) -> None:
    """A PNG. rows: variant, metric and value of each seed; summary: mean, low and high over the seeds."""
    variants = list(dict.fromkeys(row["variant"] for row in summary))
    figure = Figure(figsize=(5.5 + 3.4 * len(metrics), 2.6 + 0.34 * len(variants)), dpi=130, layout="constrained")
    first, *rest = figure.subplots(1, 1 + len(metrics), width_ratios=[1.5] + [1] * len(metrics), squeeze=False)[0]
    _draw_curves(first, variants, curves)
    for axes, metric in zip(rest, metrics, strict=True):
        own = [row for row in rows if row["metric"] == metric]
        _draw_metric(axes, metric, variants, own, [row for row in summary if row["metric"] == metric])
        axes.tick_params(labelleft=axes is rest[0])
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def band(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, mean, least, greatest) of the losses of several seeds, over the tokens that all of them have seen."""
    last = min(max(curve.tokens) for curve in curves)
    tokens = np.linspace(max(min(curve.tokens) for curve in curves), last, POINTS)
    losses = np.array([np.interp(tokens, curve.tokens, curve.loss) for curve in curves])
    return tokens, losses.mean(0), losses.min(0), losses.max(0)


def style(place: int) -> tuple[str, str]:
    return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]


def _draw_curves(axes: Axes, variants: Sequence[str], curves: Sequence[Curve]) -> None:
    for place, variant in enumerate(variants):
        own = [curve for curve in curves if curve.variant == variant]
        colour, dash = style(place)
        tokens, mean, low, high = band(own)
        axes.plot(tokens, mean, dash, color=colour, label=variant, linewidth=1.4)
        axes.fill_between(tokens, low, high, color=colour, alpha=0.18, linewidth=0)
    # The untrained model's loss would flatten all that comes after it.
    later = [loss for curve in curves for loss in list(curve.loss)[1:]]
    if later:
        room = 0.05 * (max(later) - min(later)) or 0.1
        axes.set_ylim(min(later) - room, max(later) + room)
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("validation loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _draw_metric(
    axes: Axes,
    metric: str,
    variants: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    summary: Sequence[Mapping[str, Any]],
) -> None:
    accuracy, scale = isinstance(metric_of(metric), PairMetric), metric_of(metric).scale
    for row in summary:
        place = variants.index(row["variant"])
        colour, _ = style(place)
        mean, low, high = (scale * row[key] for key in ("mean", "low", "high"))
        axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=3, markersize=5)
        own = [scale * one["value"] for one in rows if one["variant"] == row["variant"]]
        axes.plot(own, [place] * len(own), "|", color=colour, markersize=9, alpha=0.6)
    if not accuracy and max(row["high"] for row in summary) > SPREAD * min(row["low"] for row in summary) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if accuracy:
        axes.axvline(scale * CHANCE, color="grey", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(variants)), variants, fontsize=8)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlabel(f"{metric.replace('_', ' ')} (% right)" if accuracy else metric.replace("_", " "))
    axes.grid(alpha=0.3, axis="x")
