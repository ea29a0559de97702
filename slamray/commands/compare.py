"""Runs from MLflow beside the paper's Tables 2 and 3, and sweeps, or runs side by side: what each scored and cost.

The paper's metrics and our own never share a column: topic_cloze is not tSC, grammar is not sBLIMP, words is not
sWUGGY. A run has a figure in a column of the paper's only where it was scored on that published set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from slamray import store
from slamray.commands.help import is_asked, print_help
from slamray.commands.study import show, summarise
from slamray.commands.words import as_command, given_path, split_words
from slamray.config.base import Settings
from slamray.errors import BadInput
from slamray.report.page import Clip
from slamray.report.runs import Entry, Paper, Score, SweepEntry, read_paper, read_runs, read_sweeps
from slamray.stage.folder import Folder
from slamray.stage.stage import MANIFEST, read_manifest
from slamray.stages.checkpoints import TITLES
from slamray.stages.heard import Continued
from slamray.stages.report import SOUNDS, clip_of
from slamray.tracking import check_answers, sqlite_uri

MOST_RUNS = 6  # on one page; chosen by eye


class CompareWords(Settings):
    """Words of jobs/compare.py."""

    root: str = Field("runs", description="folder of the runs; its mlflow.db is read where no uri is given")
    uri: str = Field("", description="MLflow server; empty: MLFLOW_TRACKING_URI, else the SQLite store under root")
    experiment: str = Field("slamray", description="MLflow experiment")
    runs: tuple[str, ...] = Field((), description="names of runs to show; empty: all")
    price_per_device_hour: float | None = Field(
        None, ge=0, description="adds a cost to our runs; the paper's devices are others, and it tells no price"
    )
    out: str = Field(
        "comparison.png",
        description="picture of FLOPs against scores; or page.html: the runs side by side, with the sounds of those "
        "below root",
    )


def main(words: Sequence[str]) -> int:
    """Print the tables and draw the picture, or write the page; 2 with one line when the words are at fault."""
    if is_asked(words):
        return print_help("compare")

    def work() -> int:
        from slamray.report.comparison_figure import draw  # matplotlib takes a second

        own, others = split_words(words, CompareWords)
        if others:
            raise BadInput(f"{others[0]}: no such word; there are {' '.join(CompareWords.model_fields)}")
        out = given_path("out", own.out)
        store.check_folder(out.parent, "out")
        if out.is_dir():
            raise BadInput(f"out={own.out}: a folder; give the name of a picture or a page, as in out=comparison.png")
        paper = read_paper()
        uri = _uri(own)
        check_answers(uri)
        if out.suffix == ".html":
            return _write_page(own, uri, out)
        entries = read_runs(uri, own.experiment, own.runs, paper, TITLES)
        sweeps = read_sweeps(uri, own.experiment, own.runs)
        if not entries and not sweeps:
            raise BadInput(f"experiment {own.experiment} of {uri} holds no checkpoint yet; run jobs/slam.py first")
        print("\n\n".join([tables(paper, entries, own.price_per_device_hour), *map(show_sweep, sweeps)]))
        out.parent.mkdir(parents=True, exist_ok=True)
        draw(paper, entries, out)
        print(f"picture: {own.out}")
        return 0

    return as_command(work)


def _write_page(own: CompareWords, uri: str, out: Path) -> int:
    """The runs side by side; those that began last, where there are many."""
    from slamray.report.comparison_page import write_comparison
    from slamray.report.runs import read_beside

    runs = read_beside(uri, own.experiment, own.runs)
    if not runs:
        raise BadInput(f"experiment {own.experiment} of {uri} holds no run with a score yet; run jobs/slam.py first")
    shown = runs[-MOST_RUNS:]
    if len(shown) < len(runs):
        sys.stderr.write(f"the last {MOST_RUNS} of {len(runs)} runs; runs=[NAME, ...] names others\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    root = Folder(given_path("root", own.root).resolve())
    write_comparison([replace(run, sounds=_sounds(root, run.fingerprint)) for run in shown], out)
    print(f"page: {own.out}")
    return 0


def _sounds(root: Folder, fingerprint: str) -> dict[str, Clip]:
    """The continuations of a run's last checkpoint by prompt, where its report lies below the root."""
    report = root / "report" / fingerprint
    if not (report.exists(MANIFEST) and report.exists(SOUNDS)):
        return {}
    inputs = read_manifest(report)["inputs"]
    last = [name for name in TITLES if f"scores_{name}" in inputs][-1]
    scored = root / f"scores_{last}" / inputs[f"scores_{last}"]
    found = [Continued(**row) for row in report.read_json(SOUNDS) if row["checkpoint"] == last]
    return {one.prompt_id: clip_of(scored, one, "the prompt, then the model") for one in found}


def _uri(own: CompareWords) -> str:
    if uri := own.uri or os.environ.get("MLFLOW_TRACKING_URI", ""):
        return uri
    database = given_path("root", own.root).resolve() / "mlflow.db"
    if not database.is_file():  # MLflow would make an empty one
        raise BadInput(f"root={own.root}: no mlflow.db there; run jobs/slam.py first, or give root= or uri=")
    return sqlite_uri(database)


def tables(paper: Paper, entries: Sequence[Entry], price: float | None) -> str:
    """The paper's tables, our runs under the same columns, and what only our runs were measured by."""
    parts = [f"{title}\n{_table(paper, rows, None)}" for title, rows in paper.tables.items()]
    parts.append(f"These runs\n{_table(paper, entries, price)}")
    parts.append(
        "FLOPs: 6 N D, N with embeddings, from the printed figures for the paper's rows. With attention: counted piece "
        "by piece, ours only.\n±: to the least and the greatest of the paper's 3 seeds. []: interval over items. "
        "*: another number of items than published."
    )
    metrics = list(dict.fromkeys(metric for entry in entries for metric in entry.own))
    if metrics:
        rows = [[entry.name, *(_cell(entry.own.get(m)) for m in metrics)] for entry in entries]
        parts.append(
            "Our own metrics: other test items than the paper's, so no figure here stands beside one above\n"
            + align([["", *metrics], *rows])
            + "\n"
            + _items(entries, metrics)
        )
    return "\n\n".join(parts)


def show_sweep(entry: SweepEntry) -> str:
    """A sweep's points, metric by metric over the seeds, and its sentence."""
    metrics = list(dict.fromkeys(row["metric"] for row in entry.rows))
    figures = [(row["variant"], row["metric"], row["value"]) for row in entry.rows]
    return "\n".join([f"Sweep: {entry.title}", *show(metrics, summarise(figures)), entry.note])


def _table(paper: Paper, entries: Sequence[Entry], price: float | None) -> str:
    names = [f"{name} {unit}".strip() for name, unit in paper.units.items()]
    head = ["", "devices", "params", "tokens", "FLOPs", "+ attention", "device-h"]
    lines = [[*head, *(["cost"] if price is not None else []), *names]]
    for entry in entries:
        hours = entry.device_hours
        cost = [] if price is None else ["-" if hours is None else f"{hours * price:,.2f}"]
        tokens = short(entry.tokens) + (f" + {short(entry.preference_tokens)}" if entry.preference_tokens else "")
        flops = [power(entry.flops), power(entry.flops_with_attention)]
        spent = [
            entry.devices or "-",
            short(entry.parameters),
            tokens,
            *flops,
            "-" if hours is None else f"{hours:,.4g}",
        ]
        scores = [_cell(entry.scores.get(name), paper.items[name]) for name in paper.units]
        lines.append([entry.name, *spent, *cost, *scores])
    return align(lines)


def _cell(score: Score | None, published: Sequence[int] = ()) -> str:
    if score is None:
        return "-"
    if score.n and score.low is not None:
        text = f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]"
    else:
        text = f"{score.value:.2f}" + ("" if score.low is None else f" ±{score.value - score.low:.2f}")
    return text + ("*" if score.n and published and score.n not in published else "")


def _items(entries: Sequence[Entry], metrics: Sequence[str]) -> str:
    counts = {m: sorted({e.own[m].n for e in entries if m in e.own and e.own[m].n}) for m in metrics}
    return "items: " + ", ".join(f"{m} {' or '.join(map(str, n))}" for m, n in counts.items() if n)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    cells = [
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))] for line in lines
    ]
    return "\n".join("  ".join(line) for line in cells)


def short(count: float | None) -> str:
    """358M, 16.7B, 1T; a hyphen for None."""
    if count is None:
        return "-"
    for size, sign in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{sign}"
    return f"{count:.0f}"


def power(count: float | None) -> str:
    """3.0e18; a hyphen for None, 0 for nothing spent."""
    return "-" if count is None else f"{count:.1e}".replace("e+", "e") if count else "0"
