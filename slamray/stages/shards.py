"""Shards of units while a stage is at work, and the parts that they become.

A shard is a few documents: what one kill may lose. Its file appears at once, and its bytes do not depend on which actor
made it. When all shards of a part are there, they are merged in their order into the part, which stays, and removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from slamray.stage.folder import Folder
from slamray.stage.parts import GROUP_ROWS, PART_ROWS, Stretch, Stretches, part_file
from slamray.stage.tables import QUARANTINE, UNITS, write_quarantine
from slamray.stage.work import SHARDS

COUNTS = b"slamray.counts"  # in a part's schema: what is in it
_SPAN = pa.struct([("text", pa.string()), ("start_frame", pa.uint32()), ("end_frame", pa.uint32())])
SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("split", pa.string()),  # as the corpus has it; else empty
        ("units", pa.list_(pa.uint16())),  # deduplicated
        ("durations", pa.list_(pa.uint16())),  # frames of each unit
        ("sentences", pa.list_(_SPAN)),
        ("words", pa.list_(_SPAN)),
        ("speaker", pa.string()),
        ("seconds", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """Requests to be made into units: rows of a Parquet file, and the folder of their stage.

    samples: how many of them, from the first, keep their audio to be listened to.
    """

    number: int
    requests: Stretch
    out: str  # its address
    samples: int

    @property
    def folder(self) -> Folder:
        return Folder(self.out)

    @property
    def file(self) -> str:
        """Where its units lie, below the stage's folder, until they are part of a part."""
        return f"{SHARDS}/shard-{self.number:07d}.arrow"

    @property
    def is_done(self) -> bool:
        """Whether an earlier try has left its units."""
        return self.folder.exists(self.file)


@dataclass(frozen=True)
class ShardDone:
    """A shard whose units lie in the stage's folder."""

    number: int
    audio_seconds: float


@dataclass(frozen=True)
class Counts:
    """What is in units. frames: of the encoder, before deduplication."""

    utterances: int
    quarantined: int
    audio_seconds: float
    units: int
    frames: int


@dataclass(frozen=True)
class Plan:
    """The shards of a stage and the parts that they become.

    samples: how many requests, from the first of all, keep their audio.
    """

    requests: Stretches
    out: Folder
    documents: int  # of a shard, at most
    samples: int
    table: str = UNITS  # below the stage's folder: what the parts are of

    @property
    def shards_per_part(self) -> int:
        return max(1, PART_ROWS // self.documents)

    @property
    def parts(self) -> int:
        return -(-len(self.requests) // self.shards_per_part)

    def shards_of(self, part: int) -> range:
        """Numbers of the shards of a part."""
        first = part * self.shards_per_part
        return range(first, min(first + self.shards_per_part, len(self.requests)))

    def shard(self, number: int) -> Shard:
        samples = max(0, self.samples - number * self.documents)
        return Shard(number, self.requests[number], str(self.out), min(samples, self.documents))

    def missing(self) -> dict[int, np.ndarray]:
        """Of each part that is not there yet, which of its shards (bool, in their order) are not there either."""
        parts = set(self.out.names(f"{self.table}/part-*.parquet"))
        shards = np.zeros(len(self.requests), bool)
        for name in self.out.names(f"{SHARDS}/shard-*.arrow"):
            shards[int(name[-13:-6])] = True
        left = [part for part in range(self.parts) if part_file(self.table, part) not in parts]
        return {part: ~shards[self.shards_of(part).start : self.shards_of(part).stop] for part in left}

    def numbers(self, missing: Mapping[int, np.ndarray]) -> np.ndarray:
        """The numbers (int64) of shards that are missing."""
        found = [np.flatnonzero(own) + self.shards_of(part).start for part, own in missing.items()]
        return np.concatenate(found) if found else np.zeros(0, np.int64)


class Todo(Sequence[Shard]):
    """Shards by their numbers, made when they are asked for: a million of them is a list of numbers."""

    def __init__(self, plan: Plan, numbers: np.ndarray) -> None:
        self._plan, self._numbers = plan, np.sort(numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._plan.shard(int(number)) for number in self._numbers[place]]
        return self._plan.shard(int(self._numbers[place]))


def write_shard(shard: Shard, table: pa.Table, bad: Sequence[dict[str, str]]) -> None:
    """Leave a shard's units, of SCHEMA, and the requests that could not be made into any with the reason."""
    table = table.replace_schema_metadata({b"bad": json.dumps(list(bad)).encode()})
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    shard.folder.write(shard.file, buffer.getvalue().to_pybytes())


def merge(out: Folder, part: int, numbers: Sequence[int], table: str = UNITS) -> None:
    """Shards, by their numbers in order, to one part with its quarantine; they are removed when it is there."""
    files = [f"{SHARDS}/shard-{number:07d}.arrow" for number in numbers]
    if not out.exists(part_file(table, part)):
        tables = [_read(out, file) for file in files]
        bad = [row for table in tables for row in json.loads(table.schema.metadata[b"bad"])]
        whole = pa.concat_tables([table.replace_schema_metadata() for table in tables])
        if table == UNITS:
            whole = whole.replace_schema_metadata({COUNTS: json.dumps(asdict(count(whole, len(bad)))).encode()})
        write_quarantine(out, bad, Path(part_file(QUARANTINE, part)).stem)
        # Last: the part is done when this file is there.
        out.write_table(part_file(table, part), whole, GROUP_ROWS)
    for file in files:
        out.remove(file)


def _read(out: Folder, file: str) -> pa.Table:
    with pa.ipc.open_file(pa.py_buffer(out.read(file))) as reader:
        return reader.read_all()


def count(table: pa.Table, quarantined: int) -> Counts:
    """What is in a table of units."""
    frames = sum(int(np.sum(chunk.flatten().to_numpy(), dtype=np.int64)) for chunk in table["durations"].chunks)
    return Counts(
        utterances=table.num_rows,
        quarantined=quarantined,
        audio_seconds=float(np.sum(table["seconds"].to_numpy(), dtype=np.float64)),
        units=sum(len(chunk.flatten()) for chunk in table["units"].chunks),
        frames=frames,
    )


def total(out: Folder) -> Counts:
    """The sum over all parts, read from what each says of itself."""
    found = [_counts(out, name) for name in out.names(f"{UNITS}/part-*.parquet")]
    return Counts(
        utterances=sum(one.utterances for one in found),
        quarantined=sum(one.quarantined for one in found),
        audio_seconds=sum(one.audio_seconds for one in found),
        units=sum(one.units for one in found),
        frames=sum(one.frames for one in found),
    )


def _counts(out: Folder, name: str) -> Counts:
    return Counts(**json.loads(out.footer(name).metadata[COUNTS]))
