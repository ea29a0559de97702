"""What a recipe names and does not hold (models, centroids, corpora): who it is, by content and never by path.

On the hub that is a name and a commit. A recipe may leave a commit out; config/pins.py says where it comes from then.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import fsspec
from fsspec.utils import glob_translate

from slamray import given as given_files
from slamray import store
from slamray.config.base import ASSETS, PUBLISHED, SHAPE, Content, Within, asset_path
from slamray.config.hub import HubData, data_files, hub_data
from slamray.config.published_files import published_files
from slamray.console import say
from slamray.errors import BadInput

READ_AT_ONCE = 4096  # files that wait for a thread; chosen, not tuned
LARGE_BYTES = 4_000_000_000  # of files that are read for their checksum: it is said, as it takes a while
Bytes = bytes  # a File has a field of that name
NO_COMMIT = "its commit is not known yet; a run asks the hub for it once and keeps it in pins.json below root"


@dataclass(frozen=True, slots=True)  # a corpus has millions
class File:
    """A file of a corpus: its name from the given folder's own name on (a file's own), and a path that fsspec opens.

    stamp: differs when the file was written again, as far as its file system tells; the name alone is its identity.
    """

    name: str
    path: str
    bytes: int
    stamp: str = ""

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def stem(self) -> str:
        return self.own_name.rpartition(".")[0]

    @property
    def own_name(self) -> str:
        """Without its folder."""
        return self.name.rpartition("/")[2]

    def has_suffix(self, *suffixes: str) -> bool:
        """Whether its name ends in one of them, in letters of either case."""
        return given_files.has_suffix(self.name, suffixes)

    def open(self) -> IO[Bytes]:
        opened: IO[Bytes] = fsspec.open(self.path, "rb").open()
        return opened

    def read_bytes(self) -> Bytes:
        """The whole file; BadInput names it when it cannot be read."""
        with given_files.opening(self.path), self.open() as file:
            return file.read()

    def read_text(self) -> str:
        """The whole file as text. ValueError when it is not."""
        return given_files.decode(self.read_bytes())

    def read_lines(self) -> list[str]:
        """The lines of the file; one that is no text of UTF-8 does not pass `given.is_text`."""
        return given_files.decode_lines(self.read_bytes())


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
            files = [file for file in below if not suffixes or file.has_suffix(*suffixes)]
        except BadInput as error:
            raise error if str(error).startswith(key) else BadInput(f"{key}: {error}") from error
        except (OSError, ValueError, ImportError) as error:
            reason = given_files.reason_of(error)
            raise BadInput(f"{key}: cannot read {given} ({reason}); check the path") from error
        if not files:
            kind = f" of kind {' '.join(suffixes)}" if suffixes else ""
            raise BadInput(f"{key}: {given} names no file{kind}; check the path")
        for file in files:
            if not given_files.is_text(file.name):
                raise BadInput(f"{key}: {file.name!a}: a name that is not UTF-8; rename the file")
            if found.setdefault(file.name, file).path != file.path:
                raise BadInput(f"{key}: {file.name} is found twice; give folders of different names")
    return [found[name] for name in sorted(found)]


def _hub_files(data: HubData, key: str) -> list[File]:
    """Names begin with the data set's own, so that they are the same from the hub and from its cache."""
    own = data.name.rpartition("/")[2]
    found = [File(f"{own}/{name}", path, size) for name, path, size in data_files(data, key)]
    return [file for file in found if not given_files.is_clutter(file.name)]


def _files_of(given: str) -> list[File]:
    fs, inner = fsspec.url_to_fs(given)
    inner = inner.rstrip("/")
    is_pattern = "*" in inner
    root = re.split(r"[^/]*\*", inner, maxsplit=1)[0].rstrip("/") if is_pattern else inner
    if not fs.isdir(root):
        if is_pattern or not fs.exists(inner):
            return []
        return [_file(inner.rpartition("/")[2], inner, fs.info(inner), fs, given)]  # a file has its own name alone
    if "file" in fs.protocol:  # whose own walk follows no links
        infos: Mapping[str, Any] = {str(path): None for path in given_files.files_below(Path(root))}
    else:
        infos = fs.find(root, detail=True)
    if is_pattern:
        named = re.compile(glob_translate(inner))
        infos = {path: info for path, info in infos.items() if named.match(path)}
    start = len(root.rpartition("/")[0])
    return [
        _file(path[start:].lstrip("/"), path, info or fs.info(path), fs, given)
        for path, info in infos.items()
        if not given_files.is_clutter(path[len(root) :])
    ]


def _file(name: str, path: str, info: Mapping[str, Any], fs: Any, given: str) -> File:
    """stamp: of a disk when the content and when the entry changed; of others their tag or time."""
    if "mtime" in info and "ino" in info:
        facts = Path(path).stat()
        return File(name, str(path), facts.st_size, f"{facts.st_mtime_ns} {facts.st_ctime_ns}")
    told = [str(info[key]) for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created") if key in info]
    return File(name, fs.unstrip_protocol(path) if "://" in given else path, int(info["size"]), " ".join(told))


def listing_content(files: Sequence[File]) -> dict[str, Any]:
    """A data set by what is in it: how many files, their bytes, and one checksum of all names and contents."""
    sums = CHECKSUMS.of(files)
    lines = "\n".join(f"{file.name} {sum_}" for file, sum_ in zip(files, sums, strict=True))
    return {
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "sha256": hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest(),
    }


class Checksums:
    """SHA-256 of files outside by their paths; a file is read again when its size or its stamp is another one.

    Between commands they are kept in the root of the runs (recipe/ready.py), so that a large data set is read once.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str, str]] = {}
        self._write: Callable[[dict[str, Any]], None] | None = None
        self._is_new = False  # whether something was found out that is not written yet

    def know(self, written: Mapping[str, Any]) -> None:
        """What an earlier command has written; what is known already goes before it."""
        self._known = {path: (found[0], found[1], found[2]) for path, found in written.items()} | self._known

    def keep(self, write: Callable[[dict[str, Any]], None] | None) -> None:
        """Have all that is known written now and whenever more is; None: no longer."""
        self._write = write
        self._flush()

    def of(self, files: Sequence[File]) -> list[str]:
        """The checksum of each file, read side by side where it is not known. BadInput when one cannot be read."""
        new = {file.path: file for file in files if not self._is_known(file)}
        found: dict[str, str] = {}
        if new:
            total = sum(file.bytes for file in new.values())
            if total > LARGE_BYTES:
                say(f"reading {len(new):,} files ({total / 1e9:,.0f} GB) once, to know their content")
            with ThreadPoolExecutor() as threads:
                waiting = iter(new.values())
                while some := list(itertools.islice(waiting, READ_AT_ONCE)):
                    found |= zip((file.path for file in some), threads.map(_read_checksum, some), strict=True)
            lasting = [file for file in new.values() if file.stamp]  # what has no stamp may change unnoticed
            self._known |= {file.path: (file.bytes, file.stamp, found[file.path]) for file in lasting}
            self._is_new |= any(_is_outside(file.path) for file in lasting)
            self._flush()
        return [found.get(file.path) or self._known[file.path][2] for file in files]

    def _is_known(self, file: File) -> bool:
        return self._known.get(file.path, (0, "", ""))[:2] == (file.bytes, file.stamp)

    def _flush(self) -> None:
        if self._write and self._is_new:
            self._write({path: found for path, found in self._known.items() if _is_outside(path)})
            self._is_new = False


CHECKSUMS = Checksums()


def _is_outside(path: str) -> bool:
    """Whether a file is no part of the package, which is small, and lies elsewhere in each job's copy of it."""
    return not path.startswith(asset_path(ASSETS))


def _read_checksum(file: File) -> str:
    digest = hashlib.sha256()
    with given_files.opening(file.path), file.open() as opened:
        while chunk := opened.read(store.CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


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
    return on_hub | (listing_content(find_files(others, key, suffixes)) if others or not hub else {})


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
    return CHECKSUMS.of(_local_files([local]))[0]


def folder_checksum(folder: Path) -> str:
    """One checksum for a model's files, its card left out: the name and the SHA-256 of each."""
    paths = [path for path in given_files.files_below(folder) if path.name != "README.md"]
    sums = CHECKSUMS.of(_local_files(paths))
    lines = [f"{path.relative_to(folder)} {sum_}" for path, sum_ in zip(paths, sums, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _local_files(paths: Sequence[Path]) -> list[File]:
    facts = [path.stat() for path in paths]
    return [
        File(path.name, str(path.absolute()), one.st_size, f"{one.st_mtime_ns} {one.st_ctime_ns}")
        for path, one in zip(paths, facts, strict=True)
    ]


def local_content(paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Files below a folder as a data set; see `listing_content`."""
    files = _local_files(paths)
    named = [
        File(path.relative_to(folder).as_posix(), f.path, f.bytes, f.stamp)
        for path, f in zip(paths, files, strict=True)
    ]
    return listing_content(named)


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
