"""Files of an object store on this machine's disk, fetched once for all its processes; what was not used goes first.

A file is good while its size and its time of change are those of the object. What a process has open goes on being
readable when it is removed, and what was asked for in the last minutes is not removed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slamray import store
from slamray.config.base import cache_folder

IN_USE_SECONDS = 600.0  # a file that was asked for so recently may not be open yet; chosen, not tuned
LOCKS = 64  # files of different names that may be fetched side by side, at most


@dataclass(frozen=True)
class Cache:
    """What this machine holds of one store. all: the folder of the caches of all stores, which share the room."""

    all: Path
    folder: Path
    limit_bytes: int | None  # None: half of the disk that others leave

    @classmethod
    def of(cls, store_name: str) -> Cache:
        """SLAMRAY_CACHE says where, SLAMRAY_CACHE_GB how much."""
        everything = cache_folder() / "roots"
        limit = os.environ.get("SLAMRAY_CACHE_GB")
        own = hashlib.sha256(store_name.encode()).hexdigest()[:16]
        return cls(everything, everything / own, int(float(limit) * 1e9) if limit else None)

    def path(self, name: str) -> Path:
        """Where a file lies, or would. name: of the object in the store, its bucket included."""
        return self.folder / "files" / name

    def keep(self, name: str, size: int, changed: int, fetch: Callable[[Path], None]) -> None:
        """Have the file here. fetch: writes it to a path; called by one process of this machine at a time."""
        path = self.path(name)
        if _is_good(path, size, changed):
            return
        number = int(hashlib.sha256(str(path).encode()).hexdigest()[:8], 16) % LOCKS
        with store.locked(self.all / ".locks" / str(number), wait=True):
            if _is_good(path, size, changed):  # another process has fetched it
                return
            self._make_room(size)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}.fetched")
            try:
                fetch(partial)
                os.utime(partial, ns=(time.time_ns(), changed))
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    def forget_all_but(self, folder: str, wanted: Collection[str]) -> None:
        """Remove files below a folder that are not among those wanted: the store has others now."""
        here = self.path(folder)
        for path in store.list_files(here) if here.is_dir() else []:
            if path.relative_to(self.path("")).as_posix() not in wanted:
                path.unlink(missing_ok=True)

    def own(self, name: str) -> Path:
        """A folder beside the cached files, that nobody removes."""
        folder = self.folder / "own" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder, removed at the end."""
        place = self.folder / "scratch"
        place.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=place))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _make_room(self, needed: int) -> None:
        """Remove what was not used for longest, as far as it may go, until the new file fits."""
        kept = []
        for path in self.all.glob("*/files/**/*"):
            try:
                if path.is_file():
                    status = path.stat()
                    kept.append((status.st_atime, status.st_size, path))
            except FileNotFoundError:
                continue  # another process was quicker
        total = sum(size for _, size, _ in kept)
        limit = (total + shutil.disk_usage(self.all).free) // 2 if self.limit_bytes is None else self.limit_bytes
        for used, size, path in sorted(kept):
            if total + needed <= limit or used > time.time() - IN_USE_SECONDS:
                return
            path.unlink(missing_ok=True)
            total -= size


def _is_good(path: Path, size: int, changed: int) -> bool:
    """Whether it is what the store holds; if so it was used now."""
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) != (size, changed):
            return False
        os.utime(path, ns=(time.time_ns(), changed))
    except FileNotFoundError:
        return False
    return True
