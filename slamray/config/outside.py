"""What a recipe names and does not hold (models, centroids, corpora): who it is, by content and never by path.

On the hub that is a name and a commit. A recipe may leave a commit out; config/pins.py says where it comes from then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from slamray import given as given_files
from slamray.config.base import PUBLISHED, SHAPE, Content, Within, asset_path
from slamray.config.checksums import CHECKSUMS
from slamray.config.hub import hub_data
from slamray.config.listing import File, each_file, local_file
from slamray.config.published_files import published_files
from slamray.errors import BadInput

NO_COMMIT = "its commit is not known yet; a run asks the hub for it once and keeps it in pins.json below root"


def listing_content(files: Iterable[File]) -> dict[str, Any]:
    """A data set by what is in it: how many files, their bytes, and one checksum of all names and contents."""
    count = size = 0
    digest = hashlib.sha256()
    for file, sum_ in CHECKSUMS.each(files):
        digest.update(f"{chr(10) if count else ''}{file.name} {sum_}".encode(errors="surrogateescape"))
        count += 1
        size += file.bytes
    return {"files": count, "bytes": size, "sha256": digest.hexdigest()}


def data_content(paths: Sequence[str], key: str, suffixes: tuple[str, ...] = ()) -> dict[str, Any]:
    """A data set: what lies on the hub by name and commit, so that no hub is asked, and all else by its content.

    BadInput when a commit is not known, or a path names no file.
    """
    given = [path for path in paths if path]
    hub = [data for path in given if (data := hub_data(path))]
    for data in hub:
        if not data.is_pinned:
            raise BadInput(f"{key}={data}: {NO_COMMIT}")
    others = [path for path in given if hub_data(path) is None]
    on_hub = {"hub": [str(data) for data in hub]} if hub else {}
    return on_hub | (listing_content(each_file(others, key, suffixes)) if others or not hub else {})


def model_content(path: str, revision: str | None, key: str) -> dict[str, str]:
    """A model: a local folder by the checksum of its files, a hub id by its commit, a published one by its checksum.

    BadInput when the folder is not there, or the commit not known.
    """
    if path.startswith(PUBLISHED):
        return {"published": file_content(path, key)}
    local = Path(asset_path(path))
    if local.is_dir():
        with given_files.opening(f"{key}={path}"):
            given_files.check_weights(local)
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
    given_files.check_weights(local)
    return CHECKSUMS.of([local_file(local)])[0]


def folder_checksum(folder: Path) -> str:
    """One checksum for a model's files, its card left out: the name and the SHA-256 of each."""
    paths = [path for path in given_files.files_below(folder) if path.name != "README.md"]
    sums = CHECKSUMS.of([local_file(path) for path in paths])
    lines = [f"{path.relative_to(folder)} {sum_}" for path, sum_ in zip(paths, sums, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def local_content(paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Files below a folder as a data set; see `listing_content`."""
    return listing_content(local_file(path, path.relative_to(folder).as_posix()) for path in paths)


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
