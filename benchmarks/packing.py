"""How fast units become packed rows, against slamkit.

    SLAMKIT=FOLDER python benchmarks/packing.py [units=20000000] [pairs=1] [root=runs/bench/packing]

Documents of 900 to 1,400 random units, as the parts that stage `units` leaves and as slamkit's features.jsonl. Ours is
stage `packed` whole; the peer's is the work of its prepare_tokens and of its data set (benchmarks/peer_slamkit.py), on
all cores, starting left out. Figures are units a second. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from extraction import ask_slamkit
from pairs import measure
from pydantic import Field
from silent import UNITS, lists_of

from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings
from slamray.config.compute import Compute
from slamray.config.model import PackSettings
from slamray.data.text import TRAIN, VALIDATION
from slamray.errors import BadInput
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.parts import PART_ROWS, PartWriter
from slamray.stage.tables import UNITS as UNITS_TABLE
from slamray.stages import packed
from slamray.stages.shards import SCHEMA
from slamray.tokens.vocabulary import Vocabulary

CONTEXT = 1024
VALIDATION_ROWS = 50  # documents; there must be some
MEAN_UNITS = 1150  # of a document


class Words(Settings):
    """Words of this benchmark."""

    units: int = Field(20_000_000, ge=100_000, description="of all documents, about")
    pairs: int = Field(1, ge=1, description="how often each is measured")
    root: str = Field("runs/bench/packing", description="folder of the units and of what comes of them")


def main(words: Sequence[str]) -> int:
    """The whole benchmark: 0, or 2 with one line where a word is at fault."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, others = split_words(words, Words)
    slamkit = os.environ.get("SLAMKIT", "")
    if others:
        raise BadInput(f"{others[0]}: no such word; there are {' '.join(Words.model_fields)}")
    if not slamkit:
        raise BadInput("SLAMKIT: name a clone of slp-rl/slamkit in the environment; this compares with nothing else")
    root = Path(own.root).resolve()
    shutil.rmtree(root, ignore_errors=True)
    count = write_units(root, own.units // MEAN_UNITS)
    result = measure(
        f"packing {count / 1e6:.0f}M units into rows of {CONTEXT}, units/s: against slamkit, all cores",
        lambda: count / ask_slamkit(Path(slamkit), "pack", root, CONTEXT, os.cpu_count()),
        partial(our_rate, root, count),
        own.pairs,
    )
    print(json.dumps(asdict(result)))
    return 0


def write_units(root: Path, documents: int) -> int:
    """Units as both sides take them: parts below `units`, and two files of JSON lines. Returns how many there are."""
    rng, count = np.random.default_rng(0), 0
    files = {split: root / f"{split}.jsonl" for split in (TRAIN, VALIDATION)}
    root.mkdir(parents=True)
    with PartWriter(Folder(root / "units"), UNITS_TABLE, SCHEMA) as parts:
        for first in range(0, documents, PART_ROWS):
            numbers = np.arange(first, min(first + PART_ROWS, documents))
            table = _some(numbers, rng)
            parts.add(table)
            for row in table.select(["utterance_id", "split", "units", "durations"]).to_pylist():
                count += len(row["units"])
                line = {"file_name": row["utterance_id"], "units": row["units"], "duration": row["durations"]}
                with files[row["split"]].open("a") as file:
                    file.write(json.dumps(line) + "\n")
    return count


def _some(numbers: np.ndarray, rng: np.random.Generator) -> pa.Table:
    lengths = rng.integers(900, 1400, len(numbers))
    units = (np.cumsum(rng.integers(1, UNITS, int(lengths.sum()))) % UNITS).astype(np.uint16)
    columns = {
        "utterance_id": pa.array([f"{number:016x}" for number in numbers]),
        "split": pa.array([VALIDATION if number < VALIDATION_ROWS else TRAIN for number in numbers]),
        "units": lists_of(lengths, pa.array(units)),
        "durations": lists_of(lengths, pa.array(rng.integers(1, 3, len(units)).astype(np.uint16))),
    }
    missing = {field.name: pa.nulls(len(numbers), field.type) for field in SCHEMA if field.name not in columns}
    return pa.table(columns | missing).select(SCHEMA.names).cast(SCHEMA)


def our_rate(root: Path, count: int) -> float:
    """Units a second of the stage."""
    out = Folder(root / "packed")
    shutil.rmtree(root / "packed", ignore_errors=True)
    (seat,) = Engine(Compute()).seats(1)
    seat.call("packed", dict, cpus=0)  # Ray and a worker are there before the clock starts
    began = time.perf_counter()
    settings, vocabulary = PackSettings(context=CONTEXT), Vocabulary.of_units(UNITS)
    packed.run({"units": Folder(root / "units")}, out, seat, settings, 0.01, vocabulary)
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
