"""How many documents a second a cluster speaks, from one node to a thousand: measured here, simulated beyond.

    python benchmarks/simulate.py [root=runs/simulate] [documents=2100000] [page=FILE.md] [picture=FILE.png] [a.b=c ...]

Measured on this machine, once, and kept in measured.json below the root: stories through the demo's voice and encoder
with one actor and with two; shards that cost nothing through the same actors, which shows what the driver can hand out;
a part that is merged from shards. The simulation (stream_model.py) takes these figures. Draws the picture, writes the
page, and prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from extraction import Timed
from pairs import commit, machine
from pydantic import Field
from stream_model import Cluster, Outcome, Work, simulate, strikes

from slamray import store
from slamray.commands.calibrate import apart, measure_disk, measure_speech
from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings
from slamray.config.load import load_recipe
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN
from slamray.report.panels import COLOURS, save
from slamray.runtime import data
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.parts import PART_ROWS, Stretch, parts_of
from slamray.stage.work import SHARDS, Pool
from slamray.stages import corpus, speak_and_listen
from slamray.stages.shards import Shard, merge

MEASURED = "measured.json"
NODES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SHORT, LONG = 2_000, 8 * data.BLOCKS  # shards of no cost that are handed out: one in a block, and eight
DAY, HOUR = 86_400.0, 3_600.0
SEED = 0
CALIBRATION_SECONDS = 20.0  # of speaking on one core; chosen, not tuned


class Words(Settings):
    """Words of this benchmark. What cannot be measured on one machine is a word, with what is taken for it."""

    root: str = Field("runs/simulate", description="folder of the measurement")
    documents: int = Field(2_100_000, ge=1, description="stories to be spoken; TinyStories has 2.1 million")
    measured_documents: int = Field(
        40, ge=8, description="stories that are spoken to measure, for each count of actors"
    )
    node_actors: int = Field(16, ge=1, description="actors, and cores, of a node")
    node_seconds: float = Field(120, ge=0, description="until a node that was asked for is there; taken, not measured")
    notice_seconds: float = Field(30, ge=0, description="until the loss of a node is known; taken, not measured")
    create_per_second: float = Field(100, gt=0, description="actors that are created a second; taken, not measured")
    store_mb: float = Field(100, gt=0, description="MB a second of the store that all share; taken, not measured")
    page: str = Field("", description="Markdown page to write; empty: simulation.md below the root")
    picture: str = Field("", description="picture to draw; empty: simulation.png below the root")


@dataclass(frozen=True)
class Measured:
    """documents_per_second: by how many actors were at work; shards_per_second: of no cost; both by the clock.

    load: of the machine when that began. Of processor time, which others on the machine change less: document_seconds,
    of one actor for a document; block_seconds and shard_seconds, of the driver for a block and for each shard in it;
    merge_seconds, for a document of a part. start_seconds: until the first actor has its first document.
    """

    documents_per_second: Mapping[str, float]
    shards_per_second: Mapping[str, float]
    load: float
    document_seconds: float
    start_seconds: float
    block_seconds: float
    shard_seconds: float
    merge_seconds: float
    document_bytes: float
    disk_mb: float
    machine: str
    commit: str
    date: str


@dataclass(frozen=True)
class Curve:
    """A line of the picture: what befalls the nodes, and how many documents a second come out, by number of nodes."""

    name: str
    rates: tuple[float, ...]
    outcomes: tuple[Outcome, ...]


def main(words: Sequence[str]) -> int:
    """The whole benchmark: 0, or 2 with one line where a word is at fault."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, others = split_words(words, Words)
    root = Path(own.root).resolve()
    recipe = load_recipe(["profile=laptop", f"root={root}", *others])
    if not (root / MEASURED).exists():
        store.write_json(root / MEASURED, asdict(measure(recipe, root, own)))
    found = Measured(**store.read_json(root / MEASURED))
    curves = [Curve(name, *_curve(own, found, recipe, name)) for name in SCENES]
    picture = Path(own.picture or root / "simulation.png")
    draw(curves, ideal(own, found), picture)
    page = Path(own.page or root / "simulation.md")
    command = "python benchmarks/simulate.py " + " ".join(word for word in words if not word.startswith("root="))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text(own, found, recipe, curves, f"../pictures/{picture.name}", command.strip()))
    print(json.dumps(asdict(found) | {curve.name: [round(rate) for rate in curve.rates] for curve in curves}))
    return 0


def measure(recipe: Recipe, root: Path, own: Words) -> Measured:
    """All that this machine can tell."""
    load = os.getloadavg()[0]
    core = apart(measure_speech, recipe, CALIBRATION_SECONDS)
    engine = Engine(recipe.compute)
    try:
        engine.connect()
        spoken = {count: _speak(recipe, engine, root, count, own.measured_documents) for count in (1, 2)}
        asked = [(rows, count) for rows in (SHORT, LONG) for count in (1, 2)]
        handed = {of: _hand_out(engine, *of) for of in asked}
    finally:
        engine.close()
    per_document, document_bytes = _merge(root / "speech-2")
    # a block of one shard, and one of eight
    one, eight = handed[SHORT, 2][1], handed[LONG, 2][1] * LONG / data.BLOCKS
    shard = max(0.0, (eight - one) / (LONG / data.BLOCKS - 1))
    return Measured(
        {str(count): rate for count, (rate, _) in spoken.items()},
        {f"{rows:,} shards, {count} actor(s)": rate for (rows, count), (rate, _) in handed.items()},
        load,
        core["document_seconds"] * (1 / core["speak"] + 1 / core["encode"]),
        spoken[1][1],
        one - shard,
        shard,
        per_document,
        document_bytes,
        measure_disk(root, 5.0)["disk_mb"],
        machine(),
        commit(),
        time.strftime("%Y-%m-%d"),
    )


def _speak(recipe: Recipe, engine: Engine, root: Path, actors: int, documents: int) -> tuple[float, float]:
    """Documents a second of so many actors, the first of each left out; and when the first document was there."""
    out = Folder(root / f"speech-{actors}")
    shutil.rmtree(out.fetch(), ignore_errors=True)
    compute = recipe.compute.model_copy(update={"encoder_actors": actors, "tts_actors": actors})
    speech = recipe.speech.model_copy(update={"shard_documents": 1, "sample_documents": 0})
    (seat,) = engine.seats(1)
    seat.compute = compute
    machine = Timed(seat)
    corpus.run({}, out / "corpus", machine, recipe.corpus)
    texts = parts_of(out / "corpus", TRAIN, documents)
    began = time.perf_counter()
    speak_and_listen.speak_parts(texts, out, machine, speech, f"speech of {actors} actors")
    seat.leave()
    ends = sorted(end for end, _ in machine.finished)
    rate = (len(ends) - actors) / (ends[-1] - ends[actors - 1])
    return rate, ends[0] - began - 1 / rate


def _hand_out(engine: Engine, shards: int, actors: int) -> tuple[float, float]:
    """Shards a second through actors that do nothing with them, and the driver's processor time for one."""
    ends: list[tuple[float, float]] = []
    (seat,) = engine.seats(1)
    pools = [Pool("slamray.commands.calibrate:Nothing", {}, actors)]
    rows = [Shard(number, Stretch("", 0, 1), "", 0) for number in range(shards)]
    now = partial(_now, ends)
    seat.rows("driver", rows, pools, shards, "shards", now)
    seat.leave()
    (began, spent), (ended, spent_then) = ends[0], ends[-1]
    return (len(ends) - 1) / (ended - began), (spent_then - spent) / (len(ends) - 1)


def _now(ends: list[tuple[float, float]], row: Mapping[str, object]) -> None:
    ends.append((time.perf_counter(), time.process_time()))


def _merge(spoken: Path) -> tuple[float, float]:
    """Seconds of merging for each document of a part, and its bytes, from shards of copies of a spoken document."""
    from slamray.stages.shards import write_shard

    out, source = Folder(spoken.with_name("merged")), Folder(spoken)
    shutil.rmtree(out.fetch(), ignore_errors=True)
    rows = source.read_table(source.names("units/part-*.parquet")[0]).slice(0, 8)
    shards = 128
    for number in range(shards):
        write_shard(Shard(number, Stretch("", 0, 8), str(out), 0), rows, [])
    size = sum(path.stat().st_size for path in out.fetch(SHARDS).iterdir())
    began = time.process_time()
    merge(out, 0, range(shards))
    return (time.process_time() - began) / shards / len(rows), size / shards / len(rows)


MEANS = {"a node is lost every 30 days": 30 * DAY, "preempted every 6 hours": 6 * HOUR, "preempted every hour": HOUR}
FIXED = f"nothing fails, at most {data.BLOCKS:,} blocks"
SCENES = ("nothing fails", *MEANS, FIXED)


def model(own: Words, found: Measured, recipe: Recipe, nodes: int, blocks: int) -> tuple[Cluster, Work]:
    """The cluster and the work as they were measured."""
    size = recipe.speech.shard_documents
    shards = -(-own.documents // size)
    cluster = Cluster(
        nodes,
        own.node_actors,
        start=found.start_seconds,
        notice=own.notice_seconds,
        create=1 / own.create_per_second,
    )
    work = Work(
        shards,
        shard=size * found.document_seconds,
        block_shards=-(-shards // blocks),
        block_dispatch=found.block_seconds,
        shard_dispatch=found.shard_seconds,
        store=size * found.document_bytes / (own.store_mb * 1e6),
        part_shards=max(1, PART_ROWS // size),
        merge=PART_ROWS * found.merge_seconds,
    )
    return cluster, work


def _curve(own: Words, found: Measured, recipe: Recipe, scene: str) -> tuple[tuple[float, ...], tuple[Outcome, ...]]:
    outcomes = []
    for nodes in NODES:
        blocks = data.BLOCKS if scene == FIXED else data.most_blocks(nodes * own.node_actors)
        cluster, work = model(own, found, recipe, nodes, blocks)
        struck = strikes(nodes, MEANS[scene], own.node_seconds, SEED) if scene in MEANS else iter(())
        outcomes.append(simulate(cluster, work, struck))
    return tuple(own.documents / one.seconds for one in outcomes), tuple(outcomes)


def ideal(own: Words, found: Measured) -> list[float]:
    """Documents a second of so many nodes, if each were as fast as one of them."""
    return [nodes * own.node_actors / found.document_seconds for nodes in NODES]


def draw(curves: Sequence[Curve], best: Sequence[float], path: Path) -> None:
    """Documents a second over nodes, both logarithmic; and the share of the ideal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(NODES, best, ":", color="grey", label="each as fast as one")
    for place, curve in enumerate(curves):
        style = {"color": COLOURS[place % len(COLOURS)], "marker": "o^svD"[place % 5], "ms": 4, "lw": 1.2}
        left.plot(NODES, curve.rates, label=curve.name, **style)
        shares = [100 * rate / most for rate, most in zip(curve.rates, best, strict=True)]
        right.plot(NODES, shares, label=curve.name, **style)
    for axes, title in ((left, "documents a second"), (right, "% of as many single nodes")):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("nodes")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:,.0f}")
    right.set_ylim(0, 105)
    left.legend(fontsize=8)
    save(figure, path)


def bend(curve: Curve, best: Sequence[float]) -> int:
    """The most nodes that still give three quarters of as many single ones, of those that were simulated."""
    return max((n for n, rate, most in zip(NODES, curve.rates, best, strict=True) if rate >= 0.75 * most), default=0)


def text(own: Words, found: Measured, recipe: Recipe, curves: Sequence[Curve], picture: str, command: str) -> str:
    """The page."""
    best = ideal(own, found)
    size = recipe.speech.shard_documents
    one, two = (found.documents_per_second[count] for count in ("1", "2"))
    block = found.block_seconds + found.shard_seconds
    lines = [
        "# From one node to a thousand",
        "",
        f"`{command}` at commit `{found.commit}`, {found.machine}, {found.date}. Measured on this machine, simulated "
        f"beyond; no cluster of more than one machine was at hand. The load when that began was {found.load:.1f}: "
        "where others use the machine, what is taken by the clock is a lower bound; the simulation takes processor "
        "time.",
        "",
        "## Measured",
        "",
        "| what | figure |",
        "|---|---|",
        f"| stories spoken and encoded a second, one actor ({own.measured_documents} stories of the package) "
        f"| {one:.2f} |",
        f"| two actors, one a core | {two:.2f} ({two / one:.2f} times) |",
        f"| processor time of one story | {found.document_seconds:.2f} s |",
        f"| until the first actor is ready: processes and models | {found.start_seconds:.1f} s |",
        *(
            f"| shards of no cost that the driver hands out a second, {name} | {rate:,.0f} |"
            for name, rate in found.shards_per_second.items()
        ),
        f"| processor time of the driver for a block, and for each shard in it | {1000 * found.block_seconds:.1f} ms, "
        f"{1000 * found.shard_seconds:.2f} ms |",
        f"| processor time of merging shards to a part, for each document | {1000 * found.merge_seconds:.2f} ms |",
        f"| units of a story on disk | {found.document_bytes:,.0f} bytes |",
        f"| the disk takes | {found.disk_mb:,.0f} MB/s |",
        "",
        f"A shard of {size} documents takes a core {size * found.document_seconds:.1f} s here. A driver that "
        f"hands out blocks of one shard would keep {size * found.document_seconds / block:,.0f} cores busy; a "
        "long stream has blocks of many.",
        "",
        "## Simulated",
        "",
        f"{own.documents:,} stories, {own.node_actors} actors a node, all nodes there at the beginning. Taken and not "
        f"measured: {own.create_per_second:g} actors are created a second, a lost node is noticed after "
        f"{own.notice_seconds:g} s and replaced after {own.node_seconds:g} s, the store takes {own.store_mb:g} MB/s. "
        f"A stream has at most {data.BLOCKS:,} blocks, or {data.ACTOR_BLOCKS} for each actor if those are more; in the "
        f"last curve, as it was before, {data.BLOCKS:,} in any case. Merges go on beside the speech and follow one "
        f"another: all of them take {own.documents * found.merge_seconds / HOUR:.2f} h. A lost node costs the shards "
        "that its actors were making; their blocks are handed out again, and shards that are there are passed over. "
        "The driver, its disk and its memory "
        "do not fail.",
        "",
        f"![documents a second over nodes]({picture})",
        "",
        "| nodes | " + " | ".join(curve.name for curve in curves) + " | ideal | hours, nothing fails | driver busy |",
        "|---" * (len(curves) + 4) + "|",
        *(
            f"| {nodes:,} | "
            + " | ".join(f"{curve.rates[place]:,.0f}" for curve in curves)
            + f" | {best[place]:,.0f} | {curves[0].outcomes[place].seconds / HOUR:.2f} "
            f"| {curves[0].outcomes[place].driver_busy:.0%} |"
            for place, nodes in enumerate(NODES)
        ),
        "",
        "Documents a second. The most nodes that give three quarters of the ideal: "
        + "; ".join(f"{curve.name}: {bend(curve, best):,}" for curve in curves)
        + ".",
        "",
        f"What bends the curve: few blocks for each actor, so that many wait in the last round "
        f"({data.most_blocks(50 * own.node_actors) / (50 * own.node_actors):.1f} blocks an actor at 50 nodes, "
        f"{data.ACTOR_BLOCKS} from {data.BLOCKS // data.ACTOR_BLOCKS // own.node_actors:,} on); then merges, which at "
        f"{NODES[-1]:,} nodes take {own.documents * found.merge_seconds / curves[0].outcomes[-1].seconds:.0%} of the "
        f"whole time, as one follows the other; then the driver, which is busy for "
        f"{curves[0].outcomes[-1].driver_busy:.0%} of it. Failures cost little, because a shard is {size} documents.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
