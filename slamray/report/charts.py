"""Draw the report's figures as SVG text that takes its colours from the page, so that it reads in light and in dark.

matplotlib would draw them too, but with fixed colours, a second of start-up and ten times the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, PLOT_HEIGHT, BOTTOM = 460, 62, 24, 200, 44  # pixels of the view box; chosen by eye
LETTER = 6.6  # mean width in pixels of a letter at 12 px
MAX_POINTS = 300  # more are averaged in groups: what a line of this width can show
MAX_DOTS = 40  # points of a line that are drawn as dots too; chosen by eye
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 3")  # beside colour, for those who do not see it


@dataclass(frozen=True)
class Series:
    """A named line; low and high, if given, are the ends of error bars."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class ChartAxis:
    """An axis of a chart: title with unit, range, whether it is logarithmic, and the values that have labels."""

    title: str
    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Position 0..1 of a value."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low)


def make_axis(title: str, values: Sequence[float], log: bool = False) -> ChartAxis:
    """An axis that holds all values, with labels at round numbers (1, 2 or 5 times a power of ten)."""
    low, high = min(values), max(values)
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        wide = math.log10(high / low) > 3
        ticks = [m * 10.0**d for d in decades for m in ((1,) if wide else (1, 2, 5)) if low <= m * 10.0**d <= high]
        return ChartAxis(title, low, high if high > low else low * 10, True, tuple(ticks))
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if span / (m * step) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last += last == first
    return ChartAxis(title, first * step, last * step, False, tuple(i * step for i in range(first, last + 1)))


def label(value: float) -> str:
    """A number as short as it can be read: 0.55, 20k, 1.5M, 3e15."""
    size = abs(value) * 1.0001  # 19,999.99 is 20k
    if size >= 1e12:
        return f"{value:.2g}".replace("e+", "e")
    for limit, unit, sign in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit:
            return f"{value / unit:.4g}{sign}"
    return f"{value:.4g}"


def line_chart(title: str, x_title: str, y_title: str, series: Sequence[Series], log_x: bool = False) -> str:
    """An SVG of lines with axes, titles and a legend; empty text if no series has a finite point."""
    kept = [thin(s, log_x) for s in series]
    kept = [s for s in kept if s.x]
    if not kept:
        return ""
    x = make_axis(x_title, [v for s in kept for v in s.x], log_x)
    y = make_axis(y_title, [v for s in kept for v in s.y])
    legend, top = _legend([s.name for s in kept])
    marks = []
    for i, s in enumerate(kept):
        points = [(_x(x, a), _y(y, b, top)) for a, b in zip(s.x, s.y, strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        marks.append(f'<polyline class="line c{i % 5}" stroke-dasharray="{DASHES[i % 5]}" points="{path}"/>')
        if len(points) <= MAX_DOTS:
            marks += [f'<circle class="dot c{i % 5}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in points]
    grid = _x_ticks(x, [(t, label(t)) for t in x.ticks], top) + _y_ticks(y, top)
    told = [f"{s.name}, from {s.y[0]:.3g} at {label(s.x[0])} to {s.y[-1]:.3g} at {label(s.x[-1])}" for s in kept]
    alternative = f"{title}. {y_title} over {x_title}. {'; '.join(told)}."
    return _svg(title, alternative, top, legend + grid + _titles(x.title, y.title, top) + "".join(marks))


def interval_chart(title: str, y_title: str, groups: Sequence[str], series: Sequence[Series], reference: float) -> str:
    """An SVG of points with error bars, series side by side in each named group; x is the group's index.

    reference: a value worth a line, 0.5 for chance.
    """
    if not groups or not any(s.x for s in series):
        return ""
    y = make_axis(y_title, [v for s in series for v in (*s.low, *s.high)] + [reference])
    x = ChartAxis("", -0.5, len(groups) - 0.5, False, ())
    legend, top = _legend([s.name for s in series], dots=True)
    level = _y(y, reference, top)
    marks = [f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>']
    told: list[str] = []
    for i, s in enumerate(series):
        shift = (i - (len(series) - 1) / 2) * min(0.18, 0.7 / len(series))
        for group, value, low, high in zip(s.x, s.y, s.low, s.high, strict=True):
            at, ends = _x(x, group + shift), (_y(y, low, top), _y(y, high, top))
            told.append(f"{s.name}, {groups[int(group)]}: {value:.3f} [{low:.3f}, {high:.3f}]")
            tip = escape(told[-1])
            caps = "".join(f"M{at - 4:.1f} {end:.1f}h8" for end in ends)
            marks.append(
                f'<g class="c{i % 5}"><title>{tip}</title>'
                f'<path class="bar" d="M{at:.1f} {ends[0]:.1f}V{ends[1]:.1f}{caps}"/>'
                f'<circle class="dot" cx="{at:.1f}" cy="{_y(y, value, top):.1f}" r="4"/></g>'
            )
    grid = _x_ticks(x, [(i, group.replace(" ", "\n", 1)) for i, group in enumerate(groups)], top) + _y_ticks(y, top)
    alternative = f"{title}. {y_title}. {'; '.join(told)}."
    return _svg(title, alternative, top, legend + grid + _titles("", y.title, top) + "".join(marks))


def thin(series: Series, log_x: bool) -> Series:
    """Finite points only (and x > 0 on a logarithmic axis); more than MAX_POINTS are averaged in equal groups."""
    points = [
        (float(a), float(b))
        for a, b in zip(series.x, series.y, strict=True)
        if a is not None and b is not None and math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x)
    ]
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)] if points else []
    means = [[sum(column) / len(group) for column in zip(*group, strict=True)] for group in groups]
    return Series(series.name, [mean[0] for mean in means], [mean[1] for mean in means])


def _x(axis: ChartAxis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: ChartAxis, value: float, top: float) -> float:
    return top + (1 - axis.place(value)) * PLOT_HEIGHT


def _legend(names: Sequence[str], dots: bool = False) -> tuple[str, float]:
    """The legend above the plot, of lines or dots, as many rows as it needs, and where the plot begins."""
    out, at, row = [], float(LEFT), 34
    for i, name in enumerate(names):
        width = 34 + LETTER * len(name)
        if at > LEFT and at + width > WIDTH:
            at, row = float(LEFT), row + 17
        line = f'<path class="line c{i % 5}" stroke-dasharray="{DASHES[i % 5]}" d="M{at:.0f} {row}h20"/>'
        dot = f'<circle class="dot c{i % 5}" cx="{at + 10:.0f}" cy="{row}" r="4"/>'
        out.append((dot if dots else line) + f'<text x="{at + 25:.0f}" y="{row + 4}">{escape(name)}</text>')
        at += width
    return "".join(out), row + 16.0


def _x_ticks(axis: ChartAxis, ticks: Sequence[tuple[float, str]], top: float) -> str:
    low, out = top + PLOT_HEIGHT, []
    for value, text in ticks:
        at = _x(axis, value)
        out.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top:.0f}" y2="{low:.0f}"/>')
        for row, line in enumerate(escape(text).split("\n")):
            out.append(
                f'<text class="tick" text-anchor="middle" x="{at:.1f}" y="{low + 16 + 13 * row:.0f}">{line}</text>'
            )
    return "".join(out)


def _y_ticks(axis: ChartAxis, top: float) -> str:
    out = []
    for value in axis.ticks:
        at = _y(axis, value, top)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{at + 4:.1f}">{label(value)}</text>')
    return "".join(out)


def _titles(x_title: str, y_title: str, top: float) -> str:
    centre, middle = (LEFT + WIDTH - RIGHT) / 2, top + PLOT_HEIGHT / 2
    upright = f'transform="translate(14 {middle:.0f}) rotate(-90)"'
    return (
        f'<text text-anchor="middle" x="{centre:.0f}" y="{top + PLOT_HEIGHT + 36:.0f}">{escape(x_title)}</text>'
        f'<text text-anchor="middle" {upright}>{escape(y_title)}</text>'
    )


def _svg(title: str, alternative: str, top: float, body: str) -> str:
    """alternative: the chart in words, for who does not see it."""
    height = top + PLOT_HEIGHT + BOTTOM
    heading = f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(alternative)}">{heading}{body}</svg>'
    )
