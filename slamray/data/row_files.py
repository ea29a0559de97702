"""Rows of the files that people keep text in: JSON lines, an array of JSON, Parquet, plain text; compressed or not.

A bad row is that row's: it comes with its place and the reason. A file that cannot be read on is BadInput, which names
it and how far it could be read.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

import pyarrow.parquet as pq

from slamray.config.listing import File
from slamray.errors import BadInput
from slamray.given import LFS, check_pointer, lines_of, opening, reason_of

CHUNK = 1 << 20
READ_ROWS = 1024  # of a Parquet file, at a time; chosen, not tuned
LONGEST_ELEMENT = 64 << 20  # characters of an array's element; what is longer is no row. Chosen, not tuned
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Row:
    """What stands at a place (`file:line`, `file:row`) of a file, or the reason why nothing can be made of it."""

    place: str
    value: Any
    reason: str = ""


def read_rows(file: File, columns: Sequence[str], key: str) -> Iterator[Row]:
    """Every row of a file, in its order: a mapping of JSON, or the given columns of Parquet.

    key: of the recipe, which a message about a missing column names.
    """
    rows = _parquet_rows(file, columns, key) if file.has_suffix(".parquet") else _json_rows(file)
    yield from _as_far_as_read(file, rows)


def read_texts(file: File, marker: str) -> Iterator[Row]:
    """The texts of a plain file: what stands between markers, or all of it where it has none."""
    yield from _as_far_as_read(file, _texts(file, marker))


def _as_far_as_read(file: File, rows: Iterator[Row]) -> Iterator[Row]:
    last = ""
    while True:
        try:
            with opening(file.path):
                row = next(rows, None)
        except BadInput as error:
            whole = _whole_lines(file) if isinstance(error.__cause__, zlib.error | EOFError | OSError) else 0
            last = f"{file.own_name}:{whole}" if whole else last
            raise BadInput(f"{error}; it could be read to {last}" if last else str(error)) from error
        if row is None:
            return
        last = row.place
        yield row


def _whole_lines(file: File) -> int:
    """How many lines of a compressed file come before the place where it is damaged."""
    lines = 0
    with file.open() as raw:
        unpacking = zlib.decompressobj(wbits=31)  # of gzip
        with suppress(zlib.error):  # where it is damaged
            while byte := raw.read(1):
                lines += unpacking.decompress(byte).count(b"\n")
    return lines


@contextmanager
def _opened(file: File) -> Iterator[IO[bytes]]:
    """The file's content; what is compressed by gzip is read as what it holds, whatever its name."""
    with file.open() as raw:
        head = raw.read(len(LFS))
        raw.seek(0)
        check_pointer(head, file.path)
        compressed = head.startswith(_GZIP)
        if head and not compressed and file.has_suffix(".gz"):
            raise BadInput(f"{file.path}: not compressed by gzip, as its name says; rename or replace it")
        if compressed:
            with gzip.open(raw) as inner:
                yield inner  # type: ignore[misc]  # as a file of bytes, which it is
        else:
            yield raw


def _json_rows(file: File) -> Iterator[Row]:
    with _opened(file) as opened:
        lines = ((number, line) for number, line in enumerate(lines_of(opened), start=1) if line.strip())
        for number, line in lines:
            if line.lstrip().startswith(b"[") and _is_array(line):
                yield from _elements(file.own_name, line, lines)
                return
            yield _json_row(f"{file.own_name}:{number}", line)
            break
        for number, line in lines:
            yield _json_row(f"{file.own_name}:{number}", line)


def _json_row(place: str, line: bytes) -> Row:
    try:
        return Row(place, json.loads(line))
    except (ValueError, RecursionError) as error:
        return Row(place, None, f"not JSON ({reason_of(error)})")


def _is_array(line: bytes) -> bool:
    """Whether a first line begins an array of rows, not one row that is an array."""
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return True  # the array goes on over the next lines
    return not first or isinstance(first[0], dict | str)


def _elements(name: str, line: bytes, lines: Iterator[tuple[int, bytes]]) -> Iterator[Row]:
    """The elements of an array, one after the other as they come: an array may be larger than the memory."""
    decoder, number, waiting = json.JSONDecoder(), 0, line.decode().lstrip()
    before = ""  # the last sign: an element follows "[" and ",", and nothing is open before the first and after "]"
    while True:
        waiting = waiting.lstrip()
        sign = waiting[:1]
        if (sign, before) in (("[", ""), ("[", "]"), ("]", "["), ("]", "element"), (",", "element")):
            before, waiting = sign, waiting[1:]
            continue
        try:
            if before not in ("[", ",") or not sign:
                raise ValueError("an array ends or a comma stands there" if sign else "the array has no end")
            value, end = decoder.raw_decode(waiting)
        except ValueError as error:
            more = b"" if sign and before not in ("[", ",") else b"".join(line for _, line in _some(lines))
            if not more and not sign and before == "]":
                return
            if not more or len(waiting) > LONGEST_ELEMENT:
                raise ValueError(f"no array of JSON after its element {number}: {reason_of(error)}") from error
            waiting += more.decode()
            continue
        number += 1
        yield Row(f"{name}:{number}", value)
        before, waiting = "element", waiting[end:]


def _some(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    read = 0
    for number, line in lines:
        yield number, line
        read += len(line)
        if read >= CHUNK:
            return


def _parquet_rows(file: File, columns: Sequence[str], key: str) -> Iterator[Row]:
    with file.open() as opened:
        parquet = pq.ParquetFile(opened)
        missing = [column for column in columns if column not in parquet.schema_arrow.names]
        if missing:
            named, there = " ".join(map(repr, missing)), parquet.schema_arrow.names
            raise BadInput(f"{key}: {file.own_name} has no column {named}; it has {there}")
        number = 0
        for batch in parquet.iter_batches(READ_ROWS, columns=list(columns)):
            for value in batch.to_pylist():
                yield Row(f"{file.own_name}:{number}", value)
                number += 1


def _texts(file: File, marker: str) -> Iterator[Row]:
    end, number, waiting = marker.encode(), 0, bytearray()
    with _opened(file) as opened:
        for line in lines_of(opened):
            searched = max(0, len(waiting) - len(end))
            waiting += line
            while (place := waiting.find(end, searched)) >= 0:
                number, searched = number + 1, 0
                yield from _text(f"{file.own_name}:{number}", waiting[:place], may_be_empty=True)
                del waiting[: place + len(end)]
    yield from _text(f"{file.own_name}:{number + 1}" if number else file.own_name, waiting, may_be_empty=number > 0)


def _text(place: str, content: bytearray, may_be_empty: bool) -> Iterator[Row]:
    """A text in UTF-8; none where there is none and may be none."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        yield Row(place, None, f"not UTF-8 text ({error.reason} at byte {error.start})")
        return
    if text.strip() or not may_be_empty:
        yield Row(place, text)
