"""Tables in parts: nothing is lost at their borders, and what is read does not depend on how it was cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from slamray.stage import parts
from slamray.stage.folder import Folder
from slamray.stage.parts import RowReader, Stretches, parts_of, read_parts, write_parts


@dataclass(frozen=True)
class Row:
    number: int


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of ten rows, groups of four."""
    monkeypatch.setattr(parts, "PART_ROWS", 10)
    monkeypatch.setattr(parts, "GROUP_ROWS", 4)


def numbers(folder: Folder, name: str) -> list[int]:
    return [number for table in read_parts(folder, name) for number in table["number"].to_pylist()]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 47])
def test_every_row_is_read_once_in_its_order(tmp_path: Path, small: None, count: int) -> None:
    folder = Folder(tmp_path)
    assert write_parts(folder, "rows", (Row(n) for n in range(count)), Row) == count
    assert numbers(folder, "rows") == list(range(count))
    assert len(folder.names("rows/*")) == max(1, -(-count // 10))
    assert sum(part.rows for part in parts_of(folder, "rows")) == count


@pytest.mark.parametrize("at_most", [1, 10, 13, 47, 60])
def test_the_first_rows_are_those_of_the_first_parts(tmp_path: Path, small: None, at_most: int) -> None:
    folder = Folder(tmp_path)
    write_parts(folder, "rows", (Row(n) for n in range(47)), Row)
    found = parts_of(folder, "rows", at_most)
    assert sum(part.rows for part in found) == min(at_most, 47)
    assert len(found) == -(-min(at_most, 47) // 10)


@pytest.mark.parametrize("size", [1, 3, 4, 10, 25])
@pytest.mark.parametrize("at_most", [0, 23])
def test_stretches_cover_every_row_once_and_none_crosses_a_file(
    tmp_path: Path, small: None, size: int, at_most: int
) -> None:
    folder, reader = Folder(tmp_path), RowReader()
    write_parts(folder, "rows", (Row(n) for n in range(47)), Row)
    stretches = Stretches(parts_of(folder, "rows", at_most), size)
    found = [reader.read(stretch)["number"].to_pylist() for stretch in stretches]
    assert [number for own in found for number in own] == list(range(at_most or 47))
    assert max(len(own) for own in found) <= size
    assert all(own[0] // 10 == own[-1] // 10 for own in found)
    anywhere = RowReader()
    assert [
        anywhere.read(stretches[place])["number"].to_pylist() for place in reversed(range(len(stretches)))
    ] == found[::-1]


def test_a_stretch_is_read_by_its_row_groups(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = Folder(tmp_path), list[list[int]]()
    write_parts(folder, "rows", (Row(n) for n in range(10)), Row)
    whole = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_groups", lambda self, groups: read.append(groups) or whole(self, groups)
    )
    reader = RowReader()
    for stretch in Stretches(parts_of(folder, "rows"), 2):
        reader.read(stretch)
    assert read == [[0], [1], [2]]  # each group once: stretches of two in groups of four


def test_no_stretches_are_made_of_no_rows() -> None:
    assert len(Stretches([], 3)) == 0 and list(Stretches([], 3)) == []
