"""Parquet tables of the stages: atomic, and the same bytes for the same rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from slamray.stage import store

QUARANTINE = "quarantine"
SHARDS = "units"  # in a speech stage's folder: units of its utterances, a file a shard
SAMPLES = "audio_samples"  # beside it: the audio of the first few, to be listened to


def write_table(path: Path, table: pa.Table) -> None:
    """Write one Parquet file atomically."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    store.write_atomic(path, buffer.getvalue())


def write_quarantine(out: Path, bad: Sequence[dict[str, str]], name: str = "rows") -> None:
    """Set bad rows aside with their id (or place) and the reason; nothing is written when there are none."""
    if bad:
        schema = pa.schema([("id", pa.string()), ("reason", pa.string())])
        write_table(out / QUARANTINE / f"{name}.parquet", pa.Table.from_pylist(list(bad), schema))


def read_shards(folder: Path) -> pa.Table:
    """All shards of a folder as one table, in the order of their names."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def read_quarantine(out: Path) -> list[dict[str, str]]:
    """Every row set aside by a stage."""
    folder = out / QUARANTINE
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
