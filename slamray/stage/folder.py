"""A folder of a run. Every file that a stage reads or writes goes through this class.

It lies on a disk that all workers see, or in an object store. What is written is whole or absent.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from slamray import store
from slamray.errors import BadInput
from slamray.stage.objects import SCHEMES, Objects

FILE = "file://"


class Held(Protocol):
    """A folder that nobody else writes."""

    def check(self) -> None:
        """BadInput when another driver has taken it over."""


class Backend(Protocol):
    """What a folder lies on; names are relative to it."""

    @property
    def name(self) -> str: ...

    @property
    def parent(self) -> Backend: ...

    def __truediv__(self, name: str) -> Backend: ...

    def check(self, writes: bool) -> None: ...

    def exists(self, name: str) -> bool: ...

    def names(self, pattern: str) -> list[str]: ...

    def files(self) -> dict[str, int]: ...

    def checksums(self, names: list[str]) -> list[str]: ...

    def fetch(self, name: str = "") -> Path: ...

    def read(self, name: str) -> bytes: ...

    def footer(self, name: str) -> pq.FileMetaData: ...

    def write(self, name: str, content: bytes) -> None: ...

    def write_tree(self, name: str, write: Callable[[Path], None], last: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def scratch(self, name: str = "") -> Path: ...

    def claim(self, name: str, wait: bool) -> AbstractContextManager[Held]: ...

    def require_space(self, needed_bytes: int, what: str) -> None: ...


class Locked:
    """A folder whose lock this process has."""

    def check(self) -> None:
        """The lock ends with the process alone."""


@dataclass(frozen=True)
class Disk:
    """A folder on a disk that all workers see."""

    path: Path

    def __truediv__(self, name: str) -> Disk:
        return Disk(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def parent(self) -> Disk:
        return Disk(self.path.parent)

    @property
    def name(self) -> str:
        return self.path.name

    def check(self, writes: bool) -> None:
        """BadInput when it is no folder, or nothing can be written there."""
        store.check_folder(self.path, "root", writes)

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def names(self, pattern: str) -> list[str]:
        found = (path for path in self.path.glob(pattern) if not path.name.startswith("."))
        return sorted(path.relative_to(self.path).as_posix() for path in found)

    def files(self) -> dict[str, int]:
        return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in store.list_files(self.path)}

    def checksums(self, names: list[str]) -> list[str]:
        return [store.sha256_of(self.path / name) for name in names]

    def fetch(self, name: str = "") -> Path:
        return self.path / name

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def footer(self, name: str) -> pq.FileMetaData:
        return pq.read_metadata(self.path / name)

    def write(self, name: str, content: bytes) -> None:
        store.write_atomic(self.path / name, content)

    def write_tree(self, name: str, write: Callable[[Path], None], last: str) -> None:
        target = self.path / name
        beside = target.with_name(f".partial-{target.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        write(beside)
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
        store.fsync(target.parent)

    def remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def scratch(self, name: str = "") -> Path:
        (self.path / name).mkdir(parents=True, exist_ok=True)
        return self.path / name

    @contextmanager
    def claim(self, name: str, wait: bool) -> Iterator[Held]:
        with store.locked(self.path / name, wait):
            yield Locked()

    def require_space(self, needed_bytes: int, what: str) -> None:
        store.require_space(self.path, needed_bytes, what)


class Folder:
    """Names are relative to the folder and written with slashes; hidden ones (locks, what is being written) are no
    names.

    place: a path, an address (s3://bucket/folder, gs://..., file:///..., or a path), or another folder.
    """

    def __init__(self, place: Path | str | Folder | Backend) -> None:
        if isinstance(place, Folder):
            place = place.on
        elif isinstance(place, str):
            place = Objects(place.rstrip("/")) if place.startswith(SCHEMES) else Path(place.removeprefix(FILE))
        self.on: Backend = Disk(place) if isinstance(place, Path) else place

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.on / name)

    def __str__(self) -> str:
        """Its address: another process makes the folder of it."""
        return str(self.on)

    def __repr__(self) -> str:
        return f"Folder({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and self.on == other.on

    def __hash__(self) -> int:
        return hash(self.on)

    @property
    def name(self) -> str:
        """The last part of its path; of a stage's folder, its fingerprint."""
        return self.on.name

    @property
    def parent(self) -> Folder:
        return Folder(self.on.parent)

    @property
    def is_shared(self) -> bool:
        """Whether every worker sees its files as files."""
        return isinstance(self.on, Disk)

    def check(self, writes: bool = True) -> None:
        """BadInput when it cannot be used: no folder, a disk that is read only, a store that does not answer."""
        self.on.check(writes)

    def exists(self, name: str) -> bool:
        return self.on.exists(name)

    def names(self, pattern: str) -> list[str]:
        """Files and folders that match, sorted."""
        return self.on.names(pattern)

    def files(self) -> dict[str, int]:
        """Bytes of every file in it and below, sorted by name."""
        return self.on.files()

    def checksums(self, names: list[str]) -> list[str]:
        """SHA-256 of these files, as they are where they lie."""
        return self.on.checksums(names)

    def fetch(self, name: str = "") -> Path:
        """A path on this machine of a file or folder in it, to be read by libraries; of nothing, where it has none.

        The path of an object store's file is good on this machine alone, and for reading only.
        """
        return self.on.fetch(name)

    def scratch(self, name: str = "") -> Path:
        """A folder for files that may be lost with this machine; on a disk that is the folder itself."""
        return self.on.scratch(name)

    def claim(self, name: str = ".lock", wait: bool = False) -> AbstractContextManager[Held]:
        """Hold the folder alone while the context lasts; BadInput where another driver does, or wait for it.

        A driver that dies holds nothing.
        """
        return self.on.claim(name, wait)

    def read(self, name: str) -> bytes:
        return self.on.read(name)

    def write(self, name: str, content: bytes) -> None:
        self.on.write(name, content)

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, store.json_bytes(value))

    def read_json(self, name: str) -> Any:
        """BadInput names the file when it is damaged."""
        try:
            return json.loads(self.read(name))
        except ValueError as error:  # no JSON, or no text
            raise BadInput(f"{self / name}: not JSON ({error}); remove the file to have it made again") from error

    def write_table(self, name: str, table: pa.Table, group_rows: int | None = None) -> None:
        """Write one Parquet file, the same bytes for the same rows and the same metadata of their schema.

        group_rows: what can be read at a time.
        """
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=group_rows)
        self.write(name, buffer.getvalue())

    def read_table(self, name: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        return pq.read_table(self.fetch(name), columns=columns, filters=filters)

    def footer(self, name: str) -> pq.FileMetaData:
        """Of a Parquet file."""
        return self.on.footer(name)

    def write_tree(self, name: str, write: Callable[[Path], None], last: str = "") -> None:
        """Whatever `write` leaves at the path that it is given, a file or a folder, replaces what was there.

        On a disk it appears at once; in a store file by file, and a file called `last` when all others are there.
        """
        self.on.write_tree(name, write, last)

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        self.on.remove(name)

    def require_space(self, needed_bytes: int, what: str) -> None:
        """BadInput when the disk has less free."""
        self.on.require_space(needed_bytes, what)


Root = Folder | Path  # where a folder may be given by its path on a disk
