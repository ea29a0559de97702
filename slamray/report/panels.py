"""What the pictures of studies, sweeps and comparisons share: colours, a metric's figures, bands over seeds, saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from slamray.evaluate.metrics import GainMetric, PairMetric, metric_of

# Okabe and Ito's colours, told apart by those who do not see red or green; dashes where they begin again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")
CHANCE_PERCENT = 50  # accuracy of pairs that are guessed

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds: mean, least and greatest."""

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Panel:
    """A metric as a picture shows it: accuracies in percent, other figures as they are."""

    name: str
    accuracy: bool
    gain: bool  # nats that something adds: 0 is nothing
    values: Sequence[tuple[str, float]]  # variant and value of each run
    spreads: Mapping[str, Spread]  # by variant
    intervals: Mapping[str, tuple[float, float]]  # over the items, of variants of one run whose metric has one


def make_panel(metric: str, rows: Sequence[Row], summary: Sequence[Row]) -> Panel:
    """The metric's part of `rows` (variant, metric, value, low, high of each run) and of `summary` (the seeds').

    A metric of pairs is an accuracy (0..1); how others are shown says their row of the table of metrics.
    """
    found = [row for row in rows if row["metric"] == metric]
    scale = metric_of(metric).scale
    spreads = {
        row["variant"]: Spread(scale * row["mean"], scale * row["low"], scale * row["high"], row["seeds"])
        for row in summary
        if row["metric"] == metric
    }
    values = [(row["variant"], scale * row["value"]) for row in found]
    intervals = {
        row["variant"]: (scale * row["low"], scale * row["high"])
        for row in found
        if spreads[row["variant"]].seeds == 1 and row.get("low") is not None
    }
    kind = metric_of(metric)
    name, is_gain = metric.replace("_", " "), isinstance(kind, GainMetric)
    return Panel(name, isinstance(kind, PairMetric), is_gain, values, spreads, intervals)


def style(place: int) -> tuple[str, str]:
    """The colour and the dashes of the line at that place in the legend."""
    return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]


def draw_band(
    axes: Axes, x: ArrayLike, mean: ArrayLike, low: ArrayLike, high: ArrayLike, place: int, label: str, **line: Any
) -> None:
    """A line of means in the style of its place in the legend, with a band from low to high."""
    colour, dash = style(place)
    axes.plot(x, mean, dash, color=colour, label=label, **line)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def save(figure: Figure, path: Path) -> None:
    """Write the PNG, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
