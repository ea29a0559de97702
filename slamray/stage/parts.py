"""Tables of any length: parts of some thousand rows, a file each, written and read one after the other.

Whoever reads them in turn holds one part, whatever the whole is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slamray.stage.folder import Folder
from slamray.stage.records import schema_of, to_table

Record = TypeVar("Record")

PART_ROWS = 8192  # 200 parts for 2 million stories, 30 MB of units each; chosen, not tuned
GROUP_ROWS = 256  # what is read at least, of a part: 0.3 MB of text (chosen, not tuned)


@dataclass(frozen=True)
class Part:
    """Rows of one Parquet file, from the first: all of them unless fewer are wanted. path: a folder's address."""

    path: str
    rows: int


@dataclass(frozen=True)
class Stretch:
    """Consecutive rows of a file."""

    path: str
    start: int
    stop: int


def part_file(name: str, number: int) -> str:
    """Where a part of a table lies."""
    return f"{name}/part-{number:05d}.parquet"


class PartWriter:
    """Writes a table, some rows at a time. The same rows give the same bytes, however they come."""

    def __init__(self, folder: Folder, name: str, schema: pa.Schema) -> None:
        self._folder, self._name = folder, name
        self._waiting = schema.empty_table()
        self._parts = self.rows = 0

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # A table of no rows has one part, which says its columns.
        if kind is None and (len(self._waiting) or not self._parts):
            self._write()

    def add(self, rows: pa.Table) -> None:
        self._waiting = pa.concat_tables([self._waiting, rows])
        self.rows += len(rows)
        while len(self._waiting) >= PART_ROWS:
            self._write()

    def _write(self) -> None:
        part = self._waiting.slice(0, PART_ROWS).combine_chunks()
        self._folder.write_table(part_file(self._name, self._parts), part, group_rows=GROUP_ROWS)
        self._waiting = self._waiting.slice(PART_ROWS)
        self._parts += 1


def write_parts(folder: Folder, name: str, records: Iterable[Any], kind: type) -> int:
    """Write records of one kind as a table; how many there were."""
    with PartWriter(folder, name, schema_of(kind)) as writer:
        for some in in_lists(records, PART_ROWS):
            writer.add(to_table(some, kind))
    return writer.rows


def in_lists(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """Records in lists of `size`; the last may be shorter."""
    waiting = iter(records)
    while found := list(itertools.islice(waiting, size)):
        yield found


def read_parts(folder: Folder, name: str, columns: list[str] | None = None, filters: Any = None) -> Iterator[pa.Table]:
    """The parts of a table in their order, or what of each the filters let through."""
    return (folder.read_table(part, columns, filters) for part in folder.names(f"{name}/part-*.parquet"))


def parts_of(folder: Folder, name: str, at_most: int = 0) -> list[Part]:
    """The parts that hold the first `at_most` rows of a table; 0: all of it."""
    found, left = [], at_most
    for part in folder.names(f"{name}/part-*.parquet"):
        rows = folder.footer(part).num_rows
        found.append(Part(str(folder / part), min(rows, left) if at_most else rows))
        left -= rows
        if at_most and left <= 0:
            break
    return [part for part in found if part.rows]


class Stretches(Sequence[Stretch]):
    """The rows of parts, cut into stretches of `size`; none crosses from one file to the next. Made when asked for."""

    def __init__(self, parts: Sequence[Part], size: int) -> None:
        self._parts, self._size = parts, size
        self._ends = np.cumsum([-(-part.rows // size) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = int(np.searchsorted(self._ends, number, side="right"))
        part, first = self._parts[place], int(self._ends[place - 1]) if place else 0
        start = (number - first) * self._size
        return Stretch(part.path, start, min(start + self._size, part.rows))


class RowReader:
    """Reads stretches of files; keeps the row groups that were read last, for stretches come in order."""

    def __init__(self) -> None:
        self._path, self._first, self._rows = "", 0, pa.table({})

    def read(self, stretch: Stretch) -> pa.Table:
        """The rows of a stretch."""
        last = self._first + len(self._rows)
        if stretch.path != self._path or not self._first <= stretch.start <= stretch.stop <= last:
            with pq.ParquetFile(Folder(stretch.path).fetch()) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                ends = np.cumsum(sizes)
                first = int(np.searchsorted(ends, stretch.start, side="right"))
                last_group = int(np.searchsorted(ends, stretch.stop, side="left"))
                self._rows = file.read_row_groups(list(range(first, last_group + 1)))
            self._path, self._first = stretch.path, int(ends[first] - sizes[first])
        return self._rows.slice(stretch.start - self._first, stretch.stop - stretch.start)
