"""Which files a recipe's paths name: walked folder by folder, so that a listing of millions is never held."""

from __future__ import annotations

import heapq
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.utils import glob_translate

from slamray import given as given_files
from slamray.config.base import asset_path
from slamray.config.hub import HubData, data_files, hub_data
from slamray.errors import BadInput

LISTED_AHEAD = 16  # folders of a store that are asked for at once, as each answer takes long; chosen, not tuned
Bytes = bytes  # a File has a field of that name


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
    """The files of `each_file` at once, where there are not too many of them."""
    return list(each_file(paths, key, suffixes))


def each_file(paths: Sequence[str], key: str, suffixes: tuple[str, ...] = ()) -> Iterator[File]:
    """Every file the paths name (files, folders, patterns; local or at any path fsspec opens), sorted by name.

    suffixes: of the files that count; none counts all. An empty path names nothing.
    BadInput, which names the recipe's `key`, when a path names no file or two files have one name.
    """
    last = None
    walks = [_named_by(given, key, suffixes) for given in paths if given]
    for file in heapq.merge(*walks, key=attrgetter("name")):
        if last and file.name == last.name:
            if file.path != last.path:
                raise BadInput(f"{key}: {file.name} is found twice; give folders of different names")
            continue
        if not given_files.is_text(file.name):
            raise BadInput(f"{key}: {file.name!a}: a name that is not UTF-8; rename the file")
        last = file
        yield file


@dataclass(frozen=True)
class Files:
    """What `each_file` yields, walked anew by each loop over it. without: paths of files that are left out."""

    paths: Sequence[str]
    key: str
    without: Set[str] = frozenset()

    def __iter__(self) -> Iterator[File]:
        return (file for file in each_file(self.paths, self.key) if file.path not in self.without)


def by_folder(files: Iterable[File]) -> Iterator[list[File]]:
    """Files in the order of their names, those of each folder together: of one when all below it have come."""
    open_folders: list[tuple[str, list[File]]] = []  # each within the one before
    for file in files:
        while open_folders and not file.name.startswith(f"{open_folders[-1][0]}/"):
            yield open_folders.pop()[1]
        if not open_folders or open_folders[-1][0] != file.folder:
            open_folders.append((file.folder, []))
        open_folders[-1][1].append(file)
    while open_folders:
        yield open_folders.pop()[1]


def _named_by(given: str, key: str, suffixes: tuple[str, ...]) -> Iterator[File]:
    """The files that one path names, sorted by name."""
    is_empty = True
    try:
        data = hub_data(given)
        for file in _hub_files(data, key) if data else _files_of(asset_path(given)):
            if not suffixes or file.has_suffix(*suffixes):
                is_empty = False
                yield file
    except BadInput as error:
        raise error if str(error).startswith(key) else BadInput(f"{key}: {error}") from error
    except (OSError, ValueError, ImportError) as error:
        reason = given_files.reason_of(error)
        raise BadInput(f"{key}: cannot read {given} ({reason}); check the path") from error
    if is_empty:
        kind = f" of kind {' '.join(suffixes)}" if suffixes else ""
        raise BadInput(f"{key}: {given} names no file{kind}; check the path")


def _hub_files(data: HubData, key: str) -> list[File]:
    """Names begin with the data set's own, so that they are the same from the hub and from its cache."""
    own = data.name.rpartition("/")[2]
    found = [File(f"{own}/{name}", path, size) for name, path, size in data_files(data, key)]
    return sorted((file for file in found if not given_files.is_clutter(file.name)), key=attrgetter("name"))


def _files_of(given: str) -> Iterator[File]:
    fs, inner = fsspec.url_to_fs(given)
    inner = inner.rstrip("/")
    is_pattern = "*" in inner
    root = re.split(r"[^/]*\*", inner, maxsplit=1)[0].rstrip("/") if is_pattern else inner
    if not fs.isdir(root):
        if not is_pattern and fs.exists(inner):
            yield _file(inner.rpartition("/")[2], inner, fs.info(inner), fs, given)  # a file has its own name alone
        return
    named: Callable[[str], Any] = re.compile(glob_translate(inner)).match if is_pattern else lambda path: True
    start = len(root.rpartition("/")[0])
    if "file" in fs.protocol:  # whose own walk follows no links
        for path, facts in _walk_disk(root):
            if named(path):
                yield File(path[start:].lstrip("/"), path, facts.st_size, _times(facts))
    else:
        for path, info in _walk_store(fs, root):
            if named(path):
                yield _file(path[start:].lstrip("/"), path, info, fs, given)


def _walk_disk(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder of this machine, in the order of the whole paths; links are followed."""
    folders = given_files.folders_below(Path(root))

    def enter(folder: str) -> Iterator[tuple[str, os.stat_result]]:
        for entry, is_folder in _in_order(given_files.entries(folder), attrgetter("name"), os.DirEntry.is_dir):
            if not is_folder:
                if entry.is_file():
                    yield entry.path, entry.stat()
            elif entry.path in folders:
                yield from enter(entry.path)

    return enter(str(Path(root)))


def _walk_store(fs: Any, root: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The same of any other file system, whose listings it is told not to keep."""

    def ask(folder: str) -> list[Mapping[str, Any]]:
        found = fs.ls(folder, detail=True)
        fs.invalidate_cache(folder)
        inner = ((info["name"].rstrip("/"), info) for info in found)  # a store may have an object for the folder itself
        return [info for path, info in inner if path != folder and not given_files.is_clutter(path.rpartition("/")[2])]

    def enter(infos: list[Mapping[str, Any]], threads: ThreadPoolExecutor) -> Iterator[tuple[str, Mapping[str, Any]]]:
        ordered = list(_in_order(infos, lambda info: info["name"].rstrip("/"), lambda i: i["type"] == "directory"))
        folders = iter([info["name"].rstrip("/") for info, is_folder in ordered if is_folder])
        asked: deque[Future[list[Mapping[str, Any]]]] = deque()
        for info, is_folder in ordered:
            if not is_folder:
                yield info["name"], info
                continue
            while len(asked) < LISTED_AHEAD and (folder := next(folders, None)) is not None:
                asked.append(threads.submit(ask, folder))
            yield from enter(asked.popleft().result(), threads)

    with ThreadPoolExecutor(LISTED_AHEAD) as threads:
        yield from enter(ask(root), threads)


def _in_order(entries: Iterable[Any], name: Callable[[Any], str], is_folder: Callable[[Any], bool]) -> Iterator[Any]:
    """Entries of a folder, each with whether it is one, as the whole paths of the files in them are in order."""
    told = ((f"{name(entry)}/" if (folder := is_folder(entry)) else name(entry), entry, folder) for entry in entries)
    return ((entry, folder) for _, entry, folder in sorted(told, key=lambda one: one[0]))


def _file(name: str, path: str, info: Mapping[str, Any], fs: Any, given: str) -> File:
    """stamp: of a disk when the content and when the entry changed; of others their tag or time."""
    if "mtime" in info and "ino" in info:
        facts = Path(path).stat()
        return File(name, str(path), facts.st_size, _times(facts))
    told = [str(info[key]) for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created") if key in info]
    return File(name, fs.unstrip_protocol(path) if "://" in given else path, int(info["size"]), " ".join(told))


def _times(facts: os.stat_result) -> str:
    return f"{facts.st_mtime_ns} {facts.st_ctime_ns}"


def local_file(path: Path, name: str = "") -> File:
    """A file of this machine, by its own name unless another is given."""
    facts = path.stat()
    return File(name or path.name, str(path.absolute()), facts.st_size, _times(facts))
