"""Files of a run: atomic writes, checksums, listings. Knows nothing about what the files mean."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slamray.errors import BadInput

CHUNK_BYTES = 1 << 20


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds all of it or does not exist: temp file beside it, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temp.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except OSError as error:
        temp.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(f"{path}: the disk is full; free some space and run the same command again") from error
        raise


def fsync(path: Path) -> None:
    """Have a file, or the entries of a folder, on the disk for sure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_bytes(value: Any) -> bytes:
    """A JSON document; keys sorted, so that equal values are equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically."""
    write_atomic(path, json_bytes(value))


def read_json(path: Path) -> Any:
    """Read a JSON document; BadInput names the file when it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or no text
        raise BadInput(f"{path}: not JSON ({error}); remove the file to have it made again") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def list_files(folder: Path) -> list[Path]:
    """All files below `folder`, sorted by relative path; hidden names (locks, temporaries) are left out."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def check_folder(folder: Path, key: str, writes: bool = True) -> None:
    """BadInput, which begins with the word's key, when a path is no folder and can be none.

    writes: also when nothing can be written there.
    """
    existing = folder
    while not os.path.lexists(existing) and existing.parent != existing:
        existing = existing.parent
    if not existing.is_dir():
        kind = "a file" if existing.is_file() else "a link that leads nowhere" if existing.is_symlink() else "no folder"
        raise BadInput(f"{key}={folder}: {existing} is {kind}; give a folder, or remove it")
    if writes and not os.access(existing, os.W_OK | os.X_OK):
        raise BadInput(f"{key}={folder}: nothing can be written in {existing}; give another folder, or the right to")


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """BadInput when the disk under `folder` has less than `needed_bytes` free."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise BadInput(f"{folder}: {what} needs about {needed_bytes / 1e6:.0f} MB but {free / 1e6:.0f} MB are free")


def file_system(path: Path) -> str:
    """The type of the file system of a path, as the kernel calls it (nfs4, ext4); empty where it does not say."""
    place, found = path.resolve(), {}
    try:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            found[Path(fields[4])] = fields[fields.index("-") + 1]  # the last one mounted at a place is seen
    except OSError:  # no Linux
        return ""
    return next((found[folder] for folder in (place, *place.parents) if folder in found), "")


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock file; the kernel drops it when the process dies, so nothing is left to clean up.

    BadInput where another process holds it, or else its turn is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BadInput(f"{path.parent}: another run is writing here; wait for it or choose another root") from error
        yield
