"""Files of a root that lies in an object store: s3://bucket/folder, gs://bucket/folder.

Who writes puts them there, who reads fetches them into a cache of its machine (cache.py). A store that fails for a
while is asked again; one that goes on failing ends the run with one line, and nothing that is there is lost.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
from pyarrow import fs

from slamray import store
from slamray.errors import BadInput
from slamray.stage import claims
from slamray.stage.cache import Cache

TIMEOUT_SECONDS = 20.0  # for one request, which the client tries three times
PATIENCE_SECONDS = 300.0  # for a store that fails while a run goes on; SLAMRAY_STORE_SECONDS says otherwise
LONGEST_WAIT_SECONDS = 15.0  # between two tries; the first waits are shorter
AT_ONCE = 8  # files that are fetched or read side by side; chosen, not tuned
SCHEMES = ("s3://", "gs://")
_MD5 = re.compile('"?[0-9a-f]{32}"?')  # an entity tag that is a checksum: of an object that was put in one piece

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What a listing says of a file. changed: by the store's clock, nanoseconds."""

    bytes: int
    changed: int


@dataclass(frozen=True)
class Objects:
    """Files under one address, by relative name. BadInput when the store fails for too long.

    Credentials and endpoint are the environment's: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and the like. An object appears
    when all of it is there.
    """

    address: str

    def __truediv__(self, name: str) -> Objects:
        return Objects(f"{self.address}/{name}" if name else self.address)

    def __str__(self) -> str:
        return self.address

    @property
    def parent(self) -> Objects:
        return Objects(self.address.rpartition("/")[0])

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    def check(self, writes: bool) -> None:
        """BadInput when the store does not answer, refuses, or has no such bucket; asked once, without patience."""
        bucket = self.address.partition("://")[2].partition("/")[0]
        token = f".seen-{os.getpid()}-{time.time_ns()}"
        try:
            if self._fs.get_file_info(bucket).type == fs.FileType.NotFound:
                raise BadInput(f"root={self.address}: there is no bucket {bucket}; make it, or mend the address")
            if writes:
                self._put(token, iter([b""]))
                self._fs.delete_file(self._path(token))
        except (OSError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"root={self.address}: {_in_short(error)}; mend the store or its credentials") from error

    def sizes(self, name: str = "") -> dict[str, Found]:
        """Every file below a folder, hidden ones too, by name relative to this address; a file: itself."""

        def look() -> dict[str, Found]:
            infos = self._fs.get_file_info(fs.FileSelector(self._path(name), allow_not_found=True, recursive=True))
            if not infos:
                infos = [self._fs.get_file_info(self._path(name))]
            base = len(self._path("")) + 1
            return {i.path[base:]: Found(i.size, i.mtime_ns) for i in infos if i.type == fs.FileType.File}

        return self._patiently(look)

    def exists(self, name: str) -> bool:
        return self._patiently(lambda: self._fs.get_file_info(self._path(name)).type != fs.FileType.NotFound)

    def names(self, pattern: str) -> list[str]:
        """Files and folders that match, sorted; hidden ones are left out."""
        parts = pattern.split("/")
        fixed = next((place for place, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts) - 1)
        found = set()
        for name in self.sizes("/".join(parts[:fixed])):
            own = name.split("/")[: len(parts)]
            if len(own) == len(parts) and all(map(fnmatchcase, own, parts)) and not own[-1].startswith("."):
                found.add("/".join(own))
        return sorted(found)

    def files(self) -> dict[str, int]:
        """Bytes of every file, without hidden ones, sorted by name."""
        found = {name: one.bytes for name, one in self.sizes().items() if not _is_hidden(name)}
        return dict(sorted(found.items()))

    def checksums(self, names: list[str]) -> list[str]:
        """SHA-256 of files as the store holds them; nothing is kept here."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(self._checksum, names))

    def read(self, name: str) -> bytes:
        """FileNotFoundError where there is no such file."""
        return self._patiently(lambda: b"".join(self._chunks(name)))

    def footer(self, name: str) -> pq.FileMetaData:
        """Of a Parquet file, of which nothing else is fetched."""

        def look() -> pq.FileMetaData:
            with self._fs.open_input_file(self._path(name)) as file:
                return pq.read_metadata(file)

        return self._patiently(look)

    def fetch(self, name: str = "") -> Path:
        """The file or folder in this machine's cache, as the store holds it now; nothing, where it holds none."""
        found, cache = self.sizes(name), self._cache
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for kept in [threads.submit(self._keep, cache, *one) for one in found.items()]:
                kept.result()
        if name not in found:
            cache.forget_all_but(self._path(name), {self._path(one) for one in found})
        return self.cached(name)

    def cached(self, name: str) -> Path:
        """Where this machine keeps a file, or would."""
        return self._cache.path(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        self._patiently(lambda: self._put(name, iter([content])))

    def send(self, path: Path, name: str) -> None:
        """Copy a file from this machine."""

        def put() -> None:
            with path.open("rb") as file:
                self._put(name, iter(lambda: file.read(8 * store.CHUNK_BYTES), b""))
            there = self._fs.get_file_info(self._path(name)).size
            if there != path.stat().st_size:
                raise OSError(f"{self / name}: {there} bytes came of {path.stat().st_size}")

        self._patiently(put)

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""

        def remove() -> None:
            kind = self._fs.get_file_info(self._path(name)).type
            with suppress(FileNotFoundError):  # another was quicker
                if kind == fs.FileType.File:
                    self._fs.delete_file(self._path(name))
                elif kind == fs.FileType.Directory:
                    self._fs.delete_dir(self._path(name))

        self._patiently(remove)

    def write_tree(self, name: str, write: Callable[[Path], None], last: str) -> None:
        """What `write` leaves at the path that it is given is put file by file; what was there before is removed."""
        with self._cache.scratch() as folder:
            path = folder / (name.rpartition("/")[2] or self.name)
            write(path)
            self.remove(name)
            if path.is_file():
                self.send(path, name)
                return
            files = [one.relative_to(path).as_posix() for one in store.list_files(path)]
            with ThreadPoolExecutor(AT_ONCE) as threads:
                list(threads.map(lambda one: self.send(path / one, f"{name}/{one}".lstrip("/")), set(files) - {last}))
            if last in files:
                self.send(path / last, f"{name}/{last}".lstrip("/"))

    def scratch(self, name: str = "") -> Path:
        """A folder of this machine alone, for what need not be kept."""
        return self._cache.own(self._path(name))

    def claim(self, name: str, wait: bool) -> claims.Claim:
        """Hold what only one driver may write; see claims.py."""
        return claims.Claim(self / f"{name}s", wait)

    def require_space(self, needed_bytes: int, what: str) -> None:
        """A store has room."""

    def _keep(self, cache: Cache, name: str, found: Found) -> None:
        cache.keep(
            self._path(name), found.bytes, found.changed, lambda path: self._patiently(lambda: self._fetch(name, path))
        )

    def _fetch(self, name: str, path: Path) -> None:
        with path.open("wb") as file:
            for chunk in self._chunks(name):
                file.write(chunk)

    def _chunks(self, name: str) -> Iterator[bytes]:
        """A file's content; OSError when it comes torn: shorter than the store says, or with another checksum."""
        digest, read = hashlib.md5(usedforsecurity=False), 0
        with self._fs.open_input_file(self._path(name)) as file:
            size, told = file.size(), file.metadata() or {}
            while chunk := file.read(8 * store.CHUNK_BYTES):
                digest.update(chunk)
                read += len(chunk)
                yield chunk
        if read != size:
            raise OSError(f"{self / name}: {read} bytes came of {size}")
        tag = _text(told.get("ETag") or told.get(b"ETag") or "")
        if _MD5.fullmatch(tag) and tag.strip('"') != digest.hexdigest():
            raise OSError(f"{self / name}: what came does not match its checksum")

    def _checksum(self, name: str) -> str:
        def read() -> str:
            digest = hashlib.sha256()
            for chunk in self._chunks(name):
                digest.update(chunk)
            return digest.hexdigest()

        return self._patiently(read)

    def _put(self, name: str, chunks: Iterator[bytes]) -> None:
        with self._fs.open_output_stream(self._path(name), compression=None) as stream:
            for chunk in chunks:
                stream.write(chunk)

    def _patiently(self, work: Callable[[], Result]) -> Result:
        """Try again while the store fails, a bounded while; BadInput then."""
        patience, client = float(os.environ.get("SLAMRAY_STORE_SECONDS") or PATIENCE_SECONDS), self._client
        end, wait = time.monotonic() + (0 if client.gave_up else patience), 0.5
        while True:
            try:
                result = work()
                client.gave_up = False
                return result
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of this machine
                    raise
                if time.monotonic() + wait > end:
                    client.gave_up = True
                    raise BadInput(
                        f"root={self.address}: {_in_short(error)}; the store has failed for {patience:.0f} s; what is "
                        "there is whole: mend the store, and the same command goes on"
                    ) from error
                log.warning("%s: %s; tried again", self.address, _in_short(error))
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    @property
    def _cache(self) -> Cache:
        return Cache.of(f"{self.address.partition('://')[0]} {os.environ.get('AWS_ENDPOINT_URL', '')}")

    @property
    def _fs(self) -> fs.FileSystem:
        return self._client.files

    @property
    def _client(self) -> Client:
        scheme, _, rest = self.address.partition("://")
        told = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID")
        return _client(scheme, rest.partition("/")[0], TIMEOUT_SECONDS, tuple(map(os.environ.get, told)))

    def _path(self, name: str) -> str:
        return f"{self.address.partition('://')[2]}/{name}".rstrip("/")


@dataclass
class Client:
    """A store as a process knows it. gave_up: it was waited for in vain, so nobody waits for it until it answers."""

    files: fs.FileSystem
    gave_up: bool = False


@lru_cache(maxsize=4)
def _client(scheme: str, bucket: str, timeout: float, told: tuple[str | None, ...]) -> Client:
    """One a process, for it keeps connections open. told: what it depends on of the environment."""
    if scheme != "s3":
        return Client(fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0])
    endpoint, *regions, _ = told
    region = next(filter(None, regions), None)
    if region is None and endpoint is None:
        region = fs.resolve_s3_region(bucket)
    settings: dict[str, Any] = {"background_writes": False, "allow_delayed_open": True}
    times = {"connect_timeout": timeout, "request_timeout": timeout}
    return Client(fs.S3FileSystem(endpoint_override=endpoint, region=region, **settings, **times))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _in_short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
