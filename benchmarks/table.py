"""Run the benchmarks of speed, and write docs/results/speed.md from the lines that they print.

    python benchmarks/table.py [page=docs/results/speed.md] [lines=runs/bench/speed.jsonl] [run=true]

`make bench` is this. Each benchmark is a command of COMMANDS; what it prints is kept in `lines` with the command, the
machine and the load when it began, and run=false writes the page from there. With SLAMKIT=FOLDER in the environment,
extraction is compared with slamkit, and evaluation too. benchmarks/scaling.py is apart: it measures no speed, and
takes an hour.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairs import Result, machine
from pydantic import Field

from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings
from slamray.errors import BadInput

COMMANDS = (
    "benchmarks/extraction.py",
    "benchmarks/extraction.py speak=true seconds=2400",
    "benchmarks/pretraining.py steps=4 pairs=3",
    "benchmarks/pretraining.py against=packed steps=4 pairs=3",
    "benchmarks/pretraining.py against=bare steps=4 pairs=3",
    "benchmarks/preference.py steps=4 pairs=3",
    "benchmarks/preference.py precomputed=true steps=4 pairs=3",
    "benchmarks/pretraining.py shape=opt steps=2 pairs=3",
    "benchmarks/pretraining.py shape=opt against=packed steps=2 pairs=3",
)
WITH_SLAMKIT = (
    "benchmarks/packing.py",
    "benchmarks/extraction.py whole=true seconds=1800 pairs=1",
    "benchmarks/evaluation.py lm_alone=true",
    "benchmarks/evaluation.py items=100 pairs=1",
)


class Words(Settings):
    """Words of this command."""

    page: str = Field("docs/results/speed.md", description="Markdown page to write")
    lines: str = Field("runs/bench/speed.jsonl", description="a line for each benchmark")
    run: bool = Field(True, description="false: write the page from the lines that are there")


@dataclass(frozen=True)
class Line:
    """A benchmark's result, and on what it was measured. load: of the last minute when it began."""

    result: Result
    command: str
    machine: str
    load: float


def main(words: Sequence[str]) -> int:
    """0, or 2 with one line where a word is at fault or a benchmark fails."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, others = split_words(words, Words)
    if others:
        raise BadInput(f"{others[0]}: no such word; there are {' '.join(Words.model_fields)}")
    kept = Path(own.lines)
    if own.run:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        for command in (*COMMANDS, *(WITH_SLAMKIT if os.environ.get("SLAMKIT") else ())):
            with kept.open("a") as file:
                file.write(json.dumps(run(command)) + "\n")
    if not kept.exists():
        raise BadInput(f"lines={own.lines}: there is no such file; say run=true")
    Path(own.page).write_text(page([line_of(json.loads(text)) for text in kept.read_text().splitlines()]))
    return 0


def run(command: str) -> dict[str, Any]:
    """What a benchmark prints, with its command, the machine and the load."""
    about = {"command": f"python {command}", "machine": machine(), "load": os.getloadavg()[0]}
    done = subprocess.run([sys.executable, *shlex.split(command)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BadInput(f"python {command}: failed, see above")
    return json.loads(done.stdout.splitlines()[-1]) | about


def line_of(read: dict[str, Any]) -> Line:
    """A line as it is kept."""
    about = {name: read.pop(name) for name in ("command", "machine", "load")}
    return Line(Result(**read), **about)


def page(lines: Sequence[Line]) -> str:
    """The whole page: a table for each machine."""
    out = [
        "# Speed",
        "",
        "`make bench` writes this page: pairs measured in turn in one run, a row for each benchmark. The ratio is the",
        "median of the pairs' own, with the least and the greatest of them; load is that of the minute before. A",
        "commit with a plus had changes.",
    ]
    if not lines:
        return "\n".join([*out, "", "It has not been measured on a quiet machine yet."]) + "\n"
    for name in dict.fromkeys(line.machine for line in lines):
        out += ["", f"On {name}:", ""]
        out += ["| what | anchor | ours | ratio | least to greatest | load | commit |", "|---|---|---|---|---|---|---|"]
        out += [row(line) for line in lines if line.machine == name]
    out += ["", "| what | command |", "|---|---|"]
    each = dict.fromkeys((line.result.what, line.command) for line in lines)
    out += [f"| {what} | `{command}` |" for what, command in each]
    return "\n".join(out) + "\n"


def row(line: Line) -> str:
    """One benchmark."""
    r = line.result
    return (
        f"| {r.what} | {r.anchor:.3g} | {r.ours:.3g} | **{r.ratio:.2f}** | {r.low:.2f} to {r.high:.2f} "
        f"| {line.load:.1f} | `{r.commit}` |"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
