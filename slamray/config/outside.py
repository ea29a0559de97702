"""What a recipe names and does not hold (models, centroids, corpora): who it is, by content and never by path.

On the hub that is a name and a commit. A recipe may leave a commit out; config/pins.py says where it comes from then.
"""

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
from slamray.config.base import PUBLISHED, SHAPE, Content, Within, asset_path
from slamray.config.hub import HubData, data_files, hub_data
from slamray.config.published_files import published_files
from slamray.errors import BadInput

NO_COMMIT = "its commit is not known yet; a run asks the hub for it once and keeps it in pins.json below root"


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
            data = hub_data(given)
            below = _hub_files(data, key) if data else _files_of(asset_path(given))
            files = [file for file in below if not suffixes or file.name.endswith(suffixes)]
        except BadInput:
            raise
        except (OSError, ValueError, ImportError) as error:
            raise BadInput(f"{key}: cannot read {given} ({error}); check the path") from error
        if not files:
            kind = f" of kind {' '.join(suffixes)}" if suffixes else ""
            raise BadInput(f"{key}: {given} names no file{kind}; check the path")
        for file in files:
            if found.setdefault(file.name, file).path != file.path:
                raise BadInput(f"{key}: {file.name} is found twice; give folders of different names")
    return [found[name] for name in sorted(found)]


def _hub_files(data: HubData, key: str) -> list[File]:
    """Names begin with the data set's own, so that they are the same from the hub and from its cache."""
    own = data.name.rpartition("/")[2]
    return [File(f"{own}/{name}", path, size) for name, path, size in data_files(data, key)]


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


def data_content(paths: Sequence[str], key: str, suffixes: tuple[str, ...] = ()) -> dict[str, Any]:
    """A data set: what lies on the hub by name and commit, so that no hub is asked, and all else by its listing.

    BadInput when a commit is not known, or a path names no file.
    """
    given = [path for path in paths if path]
    hub = [data for path in given if (data := hub_data(path))]
    for data in hub:
        if not data.is_pinned:
            raise BadInput(f"{key}={data}: {NO_COMMIT}")
    others = [path for path in given if hub_data(path) is None]
    on_hub = {"hub": [str(data) for data in hub]} if hub else {}
    return on_hub | (listing_content(find_files(others, key, suffixes)) if others or not hub else {})


def model_content(path: str, revision: str | None, key: str) -> dict[str, str]:
    """A model: a local folder by the checksum of its files, a hub id by its commit, a published one by its checksum.

    BadInput when the folder is not there, or the commit not known.
    """
    if path.startswith(PUBLISHED):
        return {"published": file_content(path, key)}
    local = Path(asset_path(path))
    if local.is_dir():
        return {"sha256": folder_checksum(local)}
    if path.startswith(SHAPE):
        return {"shape": path.removeprefix(SHAPE)}
    require_hub_id(path, revision, key)
    return {"hub": path, "revision": str(revision)}


def file_content(path: str, key: str) -> str:
    """A file by its checksum; a published one by the checksum of what is published."""
    if path.startswith(PUBLISHED):
        return " ".join(file.sha256 for file in published_files(path, key).files)
    local = Path(asset_path(path))
    if not local.is_file():
        raise BadInput(f"{key}={path}: no such file")
    return _file_checksum(local, _stamp(local))


def folder_checksum(folder: Path) -> str:
    """One checksum for a model's files, its card left out; computed again only when a file's size or time changed."""
    files = tuple(path for path in store.list_files(folder) if path.name != "README.md")
    return _folder_checksum(folder, files, tuple(_stamp(path) for path in files))


def require_hub_id(path: str, revision: str | None, key: str) -> None:
    """BadInput when `path` is no hub id of the form owner/name, or its commit is not known."""
    if not is_hub_id(path):
        raise BadInput(f"{key}={path}: no such folder, and no hub id of the form owner/name")
    if revision is None:
        raise BadInput(f"{key}={path}: {NO_COMMIT}")


def is_hub_id(path: str) -> bool:
    """Whether a model's name is of the form owner/name, and no folder here."""
    outside = path.startswith((".", "/", "~", PUBLISHED, SHAPE))
    return path.count("/") == 1 and not outside and not Path(asset_path(path)).is_dir()


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


@dataclass(frozen=True)
class ModelContent(Content):
    """Marks a model's folder or hub id; revision: the field beside it that says the commit."""

    revision: str


def model_field(key: str, revision: str = "revision") -> ModelContent:
    """Marks a model's folder or hub id, whose commit the field `revision` beside it says."""
    name = key.rpartition(".")[2]
    return ModelContent(
        lambda given, key: model_content(getattr(given, name), getattr(given, revision), key), key, revision
    )


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
        return data_content([paths] if isinstance(paths, str) else paths, key, suffixes)

    return Content(content, key)


Revision = Annotated[str | None, Within()]  # the commit of a hub id
