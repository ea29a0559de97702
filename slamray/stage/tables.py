"""Tables that several stages leave: units of utterances, and the rows that were set aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stage.parts import read_parts

QUARANTINE = "quarantine"
UNITS = "units"  # in a folder of speech: units of its utterances, in parts
SAMPLES = "audio_samples"  # beside it: the audio of the first few, to be listened to
_BAD_ROW = pa.schema([("id", pa.string()), ("reason", pa.string())])


def write_quarantine(out: Folder, bad: Sequence[dict[str, str]], name: str = "rows") -> None:
    """Set bad rows aside with their id (or place) and the reason; nothing is written when there are none."""
    if bad:
        out.write_table(f"{QUARANTINE}/{name}.parquet", pa.Table.from_pylist(list(bad), _BAD_ROW))


def read_quarantine(out: Folder, named: str = "*") -> list[dict[str, str]]:
    """Every row set aside by a stage, or those in the tables of this name."""
    return [row for name in out.names(f"{QUARANTINE}/{named}.parquet") for row in out.read_table(name).to_pylist()]


def unit_parts(folder: Folder, columns: list[str] | None = None, filters: Any = None) -> Iterator[pa.Table]:
    """The units of a stage, a part at a time, in the order of its requests."""
    return read_parts(folder, UNITS, columns, filters)


def read_units(folder: Folder, columns: list[str] | None = None) -> pa.Table:
    """All units of a stage as one table: for test items and pairs, of which there are some thousands."""
    return pa.concat_tables(unit_parts(folder, columns))


def check_bad_share(bad: Sequence[dict[str, str]], total: int, allowed_share: float, key: str) -> None:
    """BadInput when more than the allowed share of a stage's rows had to be quarantined."""
    first_reason = f"{bad[0]['id']}: {bad[0]['reason']}" if bad else ""
    if total == 0:
        raise BadInput(f"{key}: no rows at all; {first_reason or 'the input is empty'}")
    if len(bad) > allowed_share * total:
        raise BadInput(
            f"{key}: {len(bad)} of {total} rows are bad, more than the share {allowed_share:g} that may be; "
            f"first: {first_reason}"
        )
