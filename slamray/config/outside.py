"""What a recipe names and does not hold (models, centroids, corpora): who it is, by content and never by path."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import fsspec

from slamray import store
from slamray.config.base import SHAPE, Content, Within, asset_path
from slamray.errors import BadInput


@dataclass(frozen=True)
class File:
    """A file of a corpus: its name from the given folder's own name on (a file's own), and a path that fsspec opens."""

    name: str
    path: str
    bytes: int

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2].rpartition(".")[0]

    def read_text(self) -> str:
        """The whole file as UTF-8 text. ValueError when it is not."""
        with fsspec.open(self.path, "rb") as file:
            return file.read().decode("utf-8")


def find_files(paths: Sequence[str], key: str, suffixes: tuple[str, ...] = ()) -> list[File]:
    """Every file the paths name (files, folders, patterns; local or at any path fsspec opens), sorted by name.

    suffixes: of the files that count; none counts all. An empty path names nothing.
    BadInput, which names the recipe's `key`, when a path names no file or two files have one name.
    """
    found: dict[str, File] = {}
    for given in filter(None, paths):
        try:
            files = [file for file in _files_of(asset_path(given)) if not suffixes or file.name.endswith(suffixes)]
        except (OSError, ValueError, ImportError) as error:
            raise BadInput(f"{key}: cannot read {given} ({error}); check the path") from error
        if not files:
            kind = f" of kind {' '.join(suffixes)}" if suffixes else ""
            raise BadInput(f"{key}: {given} names no file{kind}; check the path")
        for file in files:
            if found.setdefault(file.name, file).path != file.path:
                raise BadInput(f"{key}: {file.name} is found twice; give folders of different names")
    return [found[name] for name in sorted(found)]


def _files_of(given: str) -> list[File]:
    fs, inner = fsspec.url_to_fs(given)
    inner = inner.rstrip("/")
    if "*" in inner:
        sizes = {path: info for path, info in fs.glob(inner, detail=True).items() if info["type"] == "file"}
        root = re.split(r"[^/]*\*", inner, maxsplit=1)[0].rstrip("/")
    else:
        sizes = fs.find(inner, detail=True)
        root = inner if fs.isdir(inner) else f"{inner.rpartition('/')[0]}/"  # a file has its own name alone
    start = root.rpartition("/")[0]
    return [
        File(path[len(start) :].lstrip("/"), fs.unstrip_protocol(path) if "://" in given else path, int(info["size"]))
        for path, info in sizes.items()
        if not any(part.startswith(".") for part in path[len(start) :].split("/"))
    ]


def listing_content(files: Sequence[File]) -> dict[str, Any]:
    """A data set by its listing: how many files, their bytes, and one checksum of all names and sizes."""
    lines = "\n".join(f"{file.name} {file.bytes}" for file in files)
    return {
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "listing_sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def model_content(path: str, revision: str | None, key: str) -> dict[str, str]:
    """A model: a local folder by the checksum of its files, a hub id by its pinned revision."""
    local = Path(asset_path(path))
    if local.is_dir():
        return {"sha256": folder_checksum(local)}
    if path.startswith(SHAPE):
        return {"shape": path.removeprefix(SHAPE)}
    require_hub_id(path, revision, key)
    return {"hub": path, "revision": str(revision)}


def file_content(path: str, key: str) -> str:
    """A file by its checksum."""
    local = Path(asset_path(path))
    if not local.is_file():
        raise BadInput(f"{key}={path}: no such file")
    return _file_checksum(local, _stamp(local))


def folder_checksum(folder: Path) -> str:
    """One checksum for a model's files, its card left out; computed again only when a file's size or time changed."""
    files = tuple(path for path in store.list_files(folder) if path.name != "README.md")
    return _folder_checksum(folder, files, tuple(_stamp(path) for path in files))


def require_hub_id(path: str, revision: str | None, key: str) -> None:
    """BadInput when `path` is no hub id of the form owner/name, or is not pinned to a commit."""
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise BadInput(f"{key}={path}: no such folder, and no hub id of the form owner/name")
    if revision is None:
        raise BadInput(f"{key}={path}: pin a hub id with its revision (a commit), or the name could change its meaning")


Stamp = tuple[str, int, int]


def _stamp(path: Path) -> Stamp:
    facts = path.stat()
    return str(path), facts.st_size, facts.st_mtime_ns


@lru_cache(maxsize=64)
def _folder_checksum(folder: Path, files: tuple[Path, ...], stamps: tuple[Stamp, ...]) -> str:
    return store.checksum_files(folder, files)


@lru_cache(maxsize=64)
def _file_checksum(path: Path, stamp: Stamp) -> str:
    return store.sha256_of(path)


def model_field(key: str, revision: str = "revision") -> Content:
    """Marks a model's folder or hub id, whose commit the field `revision` beside it says."""
    name = key.rpartition(".")[2]
    return Content(lambda given, key: model_content(getattr(given, name), getattr(given, revision), key), key)


def folder_field(key: str) -> Content:
    """Marks a local folder that holds a model."""
    name = key.rpartition(".")[2]
    return Content(lambda given, key: model_content(getattr(given, name), None, key), key)


def file_field(key: str) -> Content:
    """Marks a file."""
    name = key.rpartition(".")[2]
    return Content(lambda given, key: file_content(getattr(given, name), key), key)


def listing_field(key: str, suffixes: tuple[str, ...] = ()) -> Content:
    """Marks the path or paths of a data set, of which files with these suffixes are read; no path is an empty one."""
    name = key.rpartition(".")[2]

    def content(given: Any, key: str) -> dict[str, Any]:
        paths = getattr(given, name)
        return listing_content(find_files([paths] if isinstance(paths, str) else paths, key, suffixes))

    return Content(content, key)


Revision = Annotated[str | None, Within()]  # the commit of a hub id
