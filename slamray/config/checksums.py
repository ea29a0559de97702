"""SHA-256 of files outside, each read once: known again by its place, size and stamp, in this and in later commands.

Between commands they lie in `contents/` below the root of the runs (recipe/ready.py): tables of some hundred thousand
files, one row a folder. A process holds which table knows which folder, and of the tables those in use.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from slamray import given as given_files
from slamray import store
from slamray.config.base import ASSETS, asset_path
from slamray.config.listing import File
from slamray.console import say
from slamray.errors import BadInput

CONTENTS = "contents"  # below root
READ_AT_ONCE = 4096  # files that wait for a thread; chosen, not tuned
LARGE_BYTES = 4_000_000_000  # of files that are read for their checksum: it is said, as it takes a while
TABLE_FILES = 1 << 18  # a table of 10 MB; what a kill may lose of a first reading (chosen, not tuned)
OPENED_TABLES = 2  # a folder may lie across a border
RECENT_FOLDERS = 4  # a folder's files are looked up with those below it in between
KEY_BYTES = 8  # of 13 million files none is mistaken for another of its folder: a thousand pairs in 2 ** 64
ENTRY_BYTES = KEY_BYTES + 32
SCHEMA = pa.schema([("folder", pa.binary()), ("files", pa.large_binary())])  # files: entries of ENTRY_BYTES


class Kept(Protocol):
    """Where tables lie between commands: a stage.folder.Folder."""

    def names(self, pattern: str) -> list[str]: ...

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table: ...

    def write(self, name: str, content: bytes) -> None: ...


class Checksums:
    """SHA-256 of files outside by their paths; a file is read again when its size or its stamp is another one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: Kept | None = None
        self._writes = False
        self._places: dict[bytes, list[tuple[str, int]]] = {}  # of each folder: tables and rows
        self._here: defaultdict[bytes, bytearray] = defaultdict(bytearray)  # of each folder: entries of no full table
        self._here_files = 0  # of them, those that belong into a table
        self._is_new = False  # whether one of these is in no table yet
        self._name = ""  # of the table that is filled
        self._opened: dict[str, pa.Table] = {}
        self._recent: dict[bytes, dict[bytes, bytes]] = {}  # folders looked at last, the latest at the end

    def know(self, kept: Kept) -> None:
        """What earlier commands have left there, in place of what they left elsewhere; nothing is written there yet."""
        with self._lock:
            if kept != self._kept:
                self._is_new, self._name = self._here_files > 0, _new_name()
            self._kept, self._writes = kept, False
            self._places, self._opened, self._recent = {}, {}, {}
            for name in kept.names(f"{CONTENTS}/*.parquet"):
                self._find_places(name)

    def keep(self) -> None:
        """Have all that is new written there, now and whenever more is."""
        with self._lock:
            self._writes = True
            self._write()

    def of(self, files: Sequence[File]) -> list[str]:
        """The checksum of each file. BadInput when one cannot be read."""
        return [found for _, found in self.each(files)]

    def each(self, files: Iterable[File]) -> Iterator[tuple[File, str]]:
        """Each file with its checksum, some thousand looked up, and read side by side where not known, at a time."""
        waiting, read_bytes, is_said = iter(files), 0, False
        with ThreadPoolExecutor() as threads:
            while some := list(itertools.islice(waiting, READ_AT_ONCE)):
                with self._lock:
                    known = self._look_up(some)
                new = [file for file, found in zip(some, known, strict=True) if not found]
                read_bytes += sum(file.bytes for file in new)
                if read_bytes > LARGE_BYTES and not is_said:
                    say(f"reading files once, to know their content: {read_bytes / 1e9:,.0f} GB, and it may be more")
                    is_said = True
                found_new = dict(zip((file.path for file in new), threads.map(_read_checksum, new), strict=True))
                with self._lock:
                    for file in new:
                        self._add(file, found_new[file.path])
                    if self._here_files >= TABLE_FILES:
                        self._write()
                yield from ((file, found or found_new[file.path]) for file, found in zip(some, known, strict=True))
        with self._lock:
            self._write()

    def _look_up(self, files: Sequence[File]) -> list[str]:
        """Checksums; an empty one of what is not known."""
        found = []
        for file in files:
            entry = self._entries(_folder(file)).get(_key(file)) if file.stamp else None  # else it may change unnoticed
            found.append(entry.hex() if entry else "")
        return found

    def _entries(self, folder: bytes) -> dict[bytes, bytes]:
        """Checksums of a folder's files by their keys."""
        entries = self._recent.pop(folder, None)
        if entries is None:
            blobs = [bytes(self._here[folder])] if folder in self._here else []
            blobs += [self._table(name)["files"][row].as_py() for name, row in self._places.get(folder, ())]
            entries = {
                blob[start : start + KEY_BYTES]: blob[start + KEY_BYTES : start + ENTRY_BYTES]
                for blob in blobs
                for start in range(0, len(blob), ENTRY_BYTES)
            }
        self._recent[folder] = entries
        if len(self._recent) > RECENT_FOLDERS:
            del self._recent[next(iter(self._recent))]
        return entries

    def _table(self, name: str) -> pa.Table:
        if name not in self._opened:
            while len(self._opened) >= OPENED_TABLES:
                del self._opened[next(iter(self._opened))]
            self._opened[name] = self._read(name)
        return self._opened[name]

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        assert self._kept is not None
        try:
            return self._kept.read_table(name, columns)
        except (OSError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            reason = given_files.reason_of(error)
            raise BadInput(
                f"{self._kept}/{name}: cannot be read ({reason}); remove it, and files are read again"
            ) from error

    def _find_places(self, name: str) -> None:
        for row, folder in enumerate(self._read(name, ["folder"])["folder"].to_pylist()):
            self._places.setdefault(folder, []).append((name, row))

    def _add(self, file: File, found: str) -> None:
        if file.stamp:
            folder, key, sum_ = _folder(file), _key(file), bytes.fromhex(found)
            self._here[folder] += key + sum_
            self._entries(folder)[key] = sum_
            if _is_outside(file.path):
                self._here_files += 1
                self._is_new = True

    def _write(self) -> None:
        """Leave what is new in the table that is filled, under its name again: its rows only grow, in their order.

        A full one is known from there then, and no longer held.
        """
        if self._kept is None or not self._writes or not self._is_new:
            return
        rows = {folder: bytes(files) for folder, files in self._here.items() if _is_outside(folder.decode(*TEXT))}
        table = pa.table({"folder": list(rows), "files": list(rows.values())}, SCHEMA)
        buffer = io.BytesIO()
        # Checksums are random: nothing of them can be compressed, or told by the least and the greatest.
        pq.write_table(table, buffer, compression="none", use_dictionary=False, write_statistics=False)
        self._kept.write(self._name, buffer.getvalue())
        self._is_new = False
        if self._here_files >= TABLE_FILES:
            self._opened.pop(self._name, None)
            self._find_places(self._name)
            self._here_files, self._name = 0, _new_name()
            for folder in rows:
                del self._here[folder]


CHECKSUMS = Checksums()
TEXT = ("utf-8", "surrogateescape")  # a folder's path may be no text


def _new_name() -> str:
    return f"{CONTENTS}/{uuid.uuid4().hex[:16]}.parquet"


def _folder(file: File) -> bytes:
    return file.path.rpartition("/")[0].encode(*TEXT)


def _key(file: File) -> bytes:
    told = f"{file.path.rpartition('/')[2]}\0{file.bytes}\0{file.stamp}"
    return hashlib.blake2b(told.encode(*TEXT), digest_size=KEY_BYTES).digest()


def _is_outside(path: str) -> bool:
    """Whether a file is no part of the package, which is small, and lies elsewhere in each job's copy of it."""
    return not path.startswith(_package())


@cache
def _package() -> str:
    return asset_path(ASSETS)


def _read_checksum(file: File) -> str:
    digest = hashlib.sha256()
    with given_files.opening(file.path), file.open() as opened:
        while chunk := opened.read(store.CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
