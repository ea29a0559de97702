"""How time, memory and files of the data stages grow with the corpus.

    python benchmarks/scale.py documents=20000 [root=runs/scale] [lines=FILE] [picture=FILE] [a.b=c ...]

Synthetic stories of 18 sentences go through the stages corpus, units, packed, preferences and items, and then through
what scoring reads. A kernel stands for voice and encoder: random units (900 to 1,400 a story) and each word's time.
Everything else is the run's own. Memory is the largest of what one process held, sampled every half second.
Says on stderr which workers of Ray, by their titles, held most.
Prints one line of JSON, and appends it to `lines`; a second start with the same root makes what is missing.
With `picture` the lines that are there are drawn, and nothing is run.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pairs import commit, machine
from pydantic import Field
from silent import SENTENCES, WORDS

from slamray.commands.run import make
from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings, part_of
from slamray.config.evaluation import ScoringSettings
from slamray.config.load import load_recipe
from slamray.data.text import VALIDATION
from slamray.evaluate.metrics import run_metrics
from slamray.recipe.slam import build
from slamray.runtime.engine import Engine, EngineSeat
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import MANIFEST, by_name, order
from slamray.stage.work import Done, Pool

STAGES = ("corpus", "units", "packed", "preferences", "items")
RECIPE = [
    "recipe=demo", "profile=laptop", "tracking.enabled=false", "speech.train_documents=0",
    "speech.validation_documents=0",
    "pack.context=1024", "pack.contexts_per_row=8", "pretrain.tokens_per_step=8192",
    "preferences.max_pairs=2000",
]  # fmt: skip


class Words(Settings):
    """Words of this benchmark."""

    documents: int = Field(20_000, ge=100, description="stories of the corpus")
    root: str = Field("runs/scale", description="folder of the text and of all stages")
    lines: str = Field("", description="file of JSON lines; the result is added to it")
    picture: str = Field("", description="draw the figures of `lines` to this file, and run nothing")


@dataclass(frozen=True)
class Grown:
    """The line that is printed. seconds: of each stage; plan_seconds: of building a finished run's stages again."""

    documents: int
    seconds: float
    driver_peak_mb: float
    actor_peak_mb: float
    files: int
    manifest_bytes: int
    by_stage: dict[str, float]
    plan_seconds: float
    tokens: int
    machine: str
    commit: str


class SilentEngine(Engine):
    """An engine whose seats send the rows of every stage that speaks through `Silent`."""

    def seats(self, count: int) -> list[EngineSeat]:
        found = super().seats(count)
        for seat in found:
            seat.rows = partial(_silently, seat.rows)  # type: ignore[method-assign]
        return found


def _silently(
    send: Any, name: str, rows: Sequence[Any], pools: Sequence[Pool], total: int, unit: str, done: Done
) -> None:
    send(name, rows, [Pool("silent:Silent", {}, pools[0].actors)], total, unit, done)


class Watch(threading.Thread):
    """The most memory that this process, and any one of Ray's workers, by what it did, has held: MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver = 0.0
        self.workers: dict[str, float] = {}
        self._ended = threading.Event()

    @property
    def actor(self) -> float:
        return max(self.workers.values(), default=0.0)

    def run(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.5):
            self.driver = max(self.driver, _unshared_mb(own))
            for one in psutil.process_iter(["cmdline"]):
                title = (one.info["cmdline"] or [""])[0]
                if title.startswith("ray::"):
                    self.workers[title] = max(self.workers.get(title, 0.0), _unshared_mb(one))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _unshared_mb(process: psutil.Process) -> float:
    """Without files that are mapped: their pages are the kernel's to drop."""
    try:
        held = process.memory_info()
        return (held.rss - held.shared) / 1e6
    except psutil.NoSuchProcess:
        return 0.0


def main(words: Sequence[str]) -> int:
    """The whole benchmark: 0, or 2 with one line where a word is at fault."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, others = split_words(words, Words)
    if own.picture:
        draw([json.loads(line) for line in Path(own.lines).read_text().splitlines()], Path(own.picture))
        return 0
    root = Path(own.root).resolve()
    text = write_stories(root / f"stories-{own.documents}.jsonl", own.documents)
    given = [*RECIPE, f"root={root}", f"corpus.paths=[{text}]", *others]
    recipe = load_recipe(given)
    engine, watch = SilentEngine(recipe.compute), Watch()
    watch.start()
    began = time.monotonic()
    try:
        stages = by_name(order(build(recipe)))
        made = make(recipe, [stages[name] for name in STAGES], engine, given).manifests
        folders = {name: stages[name].folder(root) for name in STAGES}
        scoring = time.monotonic()
        tokens = engine.call("scoring", partial(read_for_scoring, folders, given))
        ended = time.monotonic()
    finally:
        engine.close()
        watch.stop()
    planned = time.monotonic()
    assert all(stage.is_done(root) for stage in order([by_name(order(build(load_recipe(given))))[n] for n in STAGES]))
    result = Grown(
        own.documents,
        round(ended - began, 1),
        round(watch.driver),
        round(watch.actor),
        sum(len(folder.files()) for folder in folders.values()),
        sum(folder.fetch(MANIFEST).stat().st_size for folder in folders.values()),
        {name: made[name]["wall_seconds"] for name in STAGES} | {"scoring": round(ended - scoring, 1)},
        round(time.monotonic() - planned, 2),
        tokens,
        machine(),
        commit(),
    )
    line = json.dumps(asdict(result))
    for title, held_mb in sorted(watch.workers.items(), key=lambda one: -one[1])[:12]:
        sys.stderr.write(f"{held_mb:,.0f} MB {title}\n")
    print(line)
    if own.lines:
        with Path(own.lines).open("a") as file:
            file.write(f"{line}\n")
    return 0


def draw(lines: Sequence[dict[str, Any]], picture: Path) -> None:
    """Seconds and memory over documents, both axes logarithmic; beside seconds what a straight line would be."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    lines = sorted(lines, key=lambda line: line["documents"])
    documents = [line["documents"] for line in lines]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    seconds.plot(documents, [line["seconds"] for line in lines], "o-", label="measured")
    per_document = lines[-1]["seconds"] / documents[-1]
    seconds.plot(documents, [per_document * n for n in documents], ":", color="grey", label="in proportion")
    for name, label in (("driver_peak_mb", "driver"), ("actor_peak_mb", "largest actor")):
        memory.plot(documents, [line[name] for line in lines], "o-", label=label)
    memory.set_ylim(bottom=0)
    for axes, title in ((seconds, "seconds"), (memory, "most memory of one process, MB")):
        axes.set_xscale("log")
        axes.set_xticks(documents, [f"{n:,}" for n in documents], minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("documents")
        axes.set_title(title)
        axes.legend()
    seconds.set_yscale("log")
    figure.savefig(picture, dpi=120)


def write_stories(path: Path, documents: int) -> Path:
    """JSON lines of stories whose words are drawn from 2,000 of four letters."""
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    known = np.array(["".join(letters) for letters in rng.choice(list("abcdefghijklmnop"), (2000, 4))])
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    with beside.open("w") as file:
        for _ in range(documents):
            words = known[rng.integers(0, len(known), (SENTENCES, WORDS))].tolist()
            file.write(json.dumps({"text": " ".join(" ".join(own).capitalize() + "." for own in words)}) + "\n")
    os.replace(beside, path)
    return path


def read_for_scoring(folders: dict[str, Folder], words: Sequence[str]) -> int:
    """What the metrics of a run read before a model scores it: prompts, pairs, and validation pieces, whose tokens."""
    from slamray.stages.scoring import read_pairs
    from slamray.stages.scoring_kernel import RunMaterial
    from slamray.tokens.rows import RowStore

    recipe = load_recipe(words)
    scoring = part_of(recipe.evaluate, ScoringSettings)
    encoder = check_encoder(recipe.speech.encoder)
    material = RunMaterial(folders, scoring, encoder, encoder.vocabulary, 2048, folders["items"], None)
    assert len(material.prompts(scoring.sampling.prompts, 0)) == scoring.sampling.prompts
    assert read_pairs(folders, run_metrics())
    tokens = sum(len(piece) for piece in material.validation_pieces())
    rows = RowStore(folders["packed"].fetch(VALIDATION))
    all_tokens = int(rows.tokens_R.sum())
    assert tokens == all_tokens or tokens > 0.9 * scoring.perplexity_tokens, f"{tokens} of {all_tokens}"
    return tokens


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
