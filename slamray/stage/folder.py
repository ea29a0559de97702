"""A folder of a run. Every file that a stage reads or writes goes through this class.

It lies on a disk that all workers see. What is written is whole or absent: a file or a tree appears at once.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slamray import store


@dataclass(frozen=True)
class Folder:
    """Names are relative to the folder and written with slashes."""

    path: Path

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of its path; of a stage's folder, its fingerprint."""
        return self.path.name

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def names(self, pattern: str) -> list[str]:
        """Files and folders that match, sorted; hidden ones (locks, what is being written) are left out."""
        found = (path for path in self.path.glob(pattern) if not path.name.startswith("."))
        return sorted(path.relative_to(self.path).as_posix() for path in found)

    def fetch(self, name: str = "") -> Path:
        """A local path of a file or folder in it, for libraries that read by themselves."""
        return self.path / name

    def write(self, name: str, content: bytes) -> None:
        store.write_atomic(self.path / name, content)

    def write_json(self, name: str, value: Any) -> None:
        store.write_json(self.path / name, value)

    def read_json(self, name: str) -> Any:
        """BadInput names the file when it is damaged."""
        return store.read_json(self.path / name)

    def write_table(self, name: str, table: pa.Table, group_rows: int | None = None) -> None:
        """Write one Parquet file, the same bytes for the same rows and the same metadata of their schema.

        group_rows: what can be read at a time.
        """
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=group_rows)
        self.write(name, buffer.getvalue())

    def read_table(self, name: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        return pq.read_table(self.path / name, columns=columns, filters=filters)

    def write_tree(self, name: str, write: Callable[[Path], None]) -> None:
        """Whatever `write` leaves at the path that it is given, a file or a folder, appears at once."""
        target, beside = self.path / name, (self.path / name).with_name(f".{Path(name).name}.partial")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        write(beside)
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def require_space(self, needed_bytes: int, what: str) -> None:
        """BadInput when the disk has less free."""
        store.require_space(self.path, needed_bytes, what)
