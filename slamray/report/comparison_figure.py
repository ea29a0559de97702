"""Draw scores against training compute, as in the paper's figure 1; metrics that the paper lacks in a second panel.

The curve is Cuervo and Marxer's: how the metric grows with compute (docs/paper.md 5.1), through their endpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from slamray.evaluate.scaling_law import TSC_EXPONENT, expected_topic_cloze
from slamray.report.panels import CHANCE_PERCENT, COLOURS, save
from slamray.report.runs import Entry, Paper

METRIC = "tSC"  # the metric of figure 1
X_TITLE = "training compute, 6 N D (FLOPs)"
MARKERS = "osD^vP*X"
SHIFT = 0.045  # decades between the bars of two metrics of one checkpoint; chosen by eye
# Where a name may stand beside its circle: to the side (-1 left, 1 right), above or below, and how far (1: touching).
PLACES = ((1, 0, 1), (-1, 0, 1), (0, 1, 1), (0, -1, 1), (0, -1, 1.3), (0, 1, 1.3), (1, 1, 0.8), (-1, -1, 0.8))
SIDES = {1: "left", -1: "right", 0: "center"}  # alignment of a name, by the side on which it stands
RISES = {1: "bottom", -1: "top", 0: "center"}
LEGEND_SIZES = (1e8, 1e9, 7e9)  # parameters


def draw(paper: Paper, entries: Sequence[Entry], path: Path) -> None:
    """A PNG: the published models and, beside them, our runs; only what has both FLOPs and a score is drawn."""
    ours = [entry for entry in entries if entry.flops and entry.own]
    metrics = [m for m in dict.fromkeys(m for e in ours for m in e.own) if any(e.own[m].n for e in ours if m in e.own)]
    figure = Figure(figsize=(14 if metrics else 8, 6.4), dpi=120, layout="constrained")
    left, *rest = figure.subplots(1, 2 if metrics else 1, squeeze=False)[0]
    _draw_published(left, paper, [entry for entry in entries if entry.flops])
    if metrics:
        _draw_own(rest[0], ours, metrics)
    save(figure, path)


def _draw_published(axes: Axes, paper: Paper, ours: Sequence[Entry]) -> None:
    rows = {entry.name: entry for table in paper.tables.values() for entry in table if entry.flops}  # in both: once
    ends = {entry.flops: entry for entry in paper.endpoints}
    drawn = [
        (entry, COLOURS[1] if entry.name.startswith("Slam") else COLOURS[0], "o")
        for entry in rows.values()
        if entry.flops not in ends  # Table 2 has the larger one
    ]
    drawn += [(entry, COLOURS[3], "D") for entry in ends.values()]
    drawn += [(entry, COLOURS[2], "s") for entry in ours]
    drawn = [(entry, colour, marker) for entry, colour, marker in drawn if METRIC in entry.scores]
    for entry, colour, marker in drawn:
        assert entry.parameters is not None
        x, y = _point(entry)
        axes.scatter(x, y, s=_area(entry.parameters), color=colour, marker=marker, alpha=0.6, linewidths=0)
    curve = Line2D(*law_curve(paper, [_point(entry)[0] for entry, _, _ in drawn]), color=COLOURS[3], ls="--", lw=1)
    curve.set_label(f"Cuervo and Marxer's law, C^{TSC_EXPONENT:g}")
    axes.add_line(curve)
    axes.set_xscale("log")
    axes.set_xlabel(X_TITLE)
    axes.set_ylabel("Topic StoryCloze, spoken (% right)")
    axes.set_title("Published models (Tables 2 and 3), and runs scored on the same set")
    axes.grid(alpha=0.3)
    named = [("Slam", COLOURS[1], "o"), ("others", COLOURS[0], "o")]
    named += [("these runs", COLOURS[2], "s")] if any(marker == "s" for _, _, marker in drawn) else []
    handles = [Line2D([], [], color=c, marker=m, ls="", label=name) for name, c, m in named]
    handles += [curve, Line2D([], [], color=COLOURS[3], marker="D", ls="", label="its authors' endpoints")]
    for size in LEGEND_SIZES:
        label = f"{size / 1e9:g}B parameters"
        handles.append(Line2D([], [], color="grey", marker="o", ls="", ms=_area(size) ** 0.5, alpha=0.6, label=label))
    axes.legend(handles=handles, loc="upper left", fontsize=7, labelspacing=1.1)
    _name_points(axes, [entry for entry, _, _ in drawn])


def law_curve(paper: Paper, flops: Sequence[float]) -> tuple[list[float], list[float]]:
    """Points of the law's curve over the range of some compute: FLOPs, and Topic StoryCloze in %."""
    known = [_point(entry) for entry in paper.endpoints]
    x = [float(value) for value in np.geomspace(min(flops), max(flops), 50)]
    return x, [expected_topic_cloze(value, known) for value in x]


def _name_points(axes: Axes, entries: Sequence[Entry]) -> None:
    """Each name beside its circle, at the first of PLACES where it covers no circle, no other name and no legend."""
    axes.margins(x=0.12)
    figure = axes.get_figure(root=True)
    legend = axes.get_legend()
    assert figure is not None and legend is not None
    figure.draw_without_rendering()  # settles the layout, so that places can be measured
    circles = [_circle(axes, entry, figure.dpi) for entry in entries]
    names: list[Bbox] = [legend.get_window_extent()]
    for entry, own in zip(entries, circles, strict=True):
        taken = [*names, *(circle for circle in circles if circle is not own)]
        for side, rise, far in PLACES:
            gap = (own.width / 2 + 3) * 72 / figure.dpi * far
            shift, across, along = (side * gap, rise * gap), SIDES[side], RISES[rise]
            name = axes.annotate(
                entry.name, _point(entry), shift, textcoords="offset points", fontsize=8, ha=across, va=along
            )
            box = name.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and box.y1 <= axes.bbox.y1
            if inside and not any(box.overlaps(other) for other in taken):
                names.append(box)
                break
            name.remove()  # where no place is free the circle has no name; the tables have it


def _point(entry: Entry) -> tuple[float, float]:
    assert entry.flops is not None
    return entry.flops, entry.scores[METRIC].value


def _circle(axes: Axes, entry: Entry, dpi: float) -> Bbox:
    """The square around an entry's circle, in pixels."""
    assert entry.parameters is not None
    x, y = axes.transData.transform(_point(entry))
    half = _area(entry.parameters) ** 0.5 / 2 * dpi / 72
    return Bbox([[x - half, y - half], [x + half, y + half]])


def _draw_own(axes: Axes, ours: Sequence[Entry], metrics: Sequence[str]) -> None:
    """A colour for each metric, a marker for each checkpoint. Bars are intervals over items, set side by side."""
    for number, entry in enumerate(ours):
        marker = MARKERS[number % len(MARKERS)]
        for i, metric in enumerate(metrics):
            score, colour = entry.own.get(metric), COLOURS[i % len(COLOURS)]
            if score is None or score.low is None or score.high is None:
                continue
            bars = [[score.value - score.low], [score.high - score.value]]
            assert entry.flops
            place = entry.flops * 10 ** ((i - (len(metrics) - 1) / 2) * SHIFT + (number % 2 - 0.5) * SHIFT / 3)
            axes.errorbar(place, score.value, bars, color=colour, marker=marker, ms=5, capsize=2, lw=1, alpha=0.9)
    axes.axhline(CHANCE_PERCENT, color="grey", ls=":", lw=1)
    axes.set_xscale("log")
    axes.set_xlabel(X_TITLE)
    axes.set_ylabel("pairs scored right (%); chance is 50")
    axes.set_title("Our own metrics: other test items, not comparable with the left")
    least, most = (pick(entry.flops or 0 for entry in ours) for pick in (min, max))
    axes.set_xlim(least / 2.5, most * 2.5)
    axes.grid(alpha=0.3)
    handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], lw=2, label=m) for i, m in enumerate(metrics)]
    handles += [
        Line2D([], [], color="grey", marker=MARKERS[i % len(MARKERS)], ls="", label=entry.name)
        for i, entry in enumerate(ours)
    ]
    axes.legend(handles=handles, fontsize=8, loc="best")


def _area(parameters: float) -> float:
    """The area of a circle in square points: it grows with the root of N, so that 80M is seen beside 13B."""
    return max(20, 0.0055 * parameters**0.5)
