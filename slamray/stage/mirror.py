"""A copy of a root in an object store, so that a run outlives its machine: `mirror=s3://bucket/folder`.

Work happens on the local root; what is finished there is sent, and a machine that starts with an empty root fetches it
and goes on. Finished files never change, so a file is sent once; a stage's manifest and a checkpoint's marker are sent
after everything that they name, so a copy, too, is whole or not there. One file, `.driver.json`, says who writes.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pyarrow import fs

from slamray import store
from slamray.errors import BadInput
from slamray.stage.stage import MANIFEST, Stage, flaws
from slamray.stage.work import CHECKPOINTS, SHARDS

DRIVER = ".driver.json"
SYNC_SECONDS = 20.0  # between two looks at what running stages have finished; chosen, not tuned
TIMEOUT_SECONDS = 20.0  # for one request, which is tried three times: a store that hangs costs a minute, not the run
_LAST = (MANIFEST, "complete.json")  # what says that the rest is whole


class Store:
    """Files under one address, by relative name; OSError when the store refuses or does not answer.

    address: s3://bucket/folder (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and the like are heeded), gs://..., or file:///...
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        if address.startswith("s3://"):
            times = {"connect_timeout": TIMEOUT_SECONDS, "request_timeout": TIMEOUT_SECONDS}
            self._fs: fs.FileSystem = fs.S3FileSystem(
                endpoint_override=os.environ.get("AWS_ENDPOINT_URL"),
                background_writes=False,
                allow_delayed_open=True,
                **times,
            )
            self._base = self.address.removeprefix("s3://")
        else:
            self._fs, self._base = fs.FileSystem.from_uri(self.address)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Every file below a folder: name relative to the address, and bytes."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True)
        found = self._fs.get_file_info(selector)
        return {i.path[len(self._base) + 1 :]: i.size for i in found if i.type == fs.FileType.File}

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file."""
        if self._fs.get_file_info(self._path(name)).type == fs.FileType.NotFound:
            return None
        with self._fs.open_input_stream(self._path(name)) as stream:
            content: bytes = stream.read()
            return content

    def write(self, name: str, content: bytes) -> None:
        self._put(name, iter([content]))

    def send(self, path: Path, name: str) -> None:
        """Copy a local file there; it appears whole."""
        with path.open("rb") as file:
            self._put(name, iter(lambda: file.read(8 * store.CHUNK_BYTES), b""))

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file from there; it appears whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.fetched")
        with self._fs.open_input_stream(self._path(name)) as stream, partial.open("wb") as file:
            while chunk := stream.read(8 * store.CHUNK_BYTES):
                file.write(chunk)
        os.replace(partial, path)

    def delete(self, name: str) -> None:
        self._fs.delete_file(self._path(name))

    def _put(self, name: str, chunks: Iterator[bytes]) -> None:
        path = self._path(name)
        local = self._fs.type_name == "local"  # an object appears when its stream is closed, a local file at once
        if local:
            self._fs.create_dir(path.rpartition("/")[0], recursive=True)
        with self._fs.open_output_stream(f"{path}.partial" if local else path) as stream:
            for chunk in chunks:
                stream.write(chunk)
        if local:
            self._fs.move(f"{path}.partial", path)

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}".rstrip("/")


class Mirror:
    """Fetches what others have finished, and sends what is finished here while the run goes on; a context manager.

    A store that fails while the run goes on is no reason to stop it: what could not be sent is named, and sent with the
    next look, at the end, or by the next command.
    """

    def __init__(self, address: str, root: Path, wanted: Sequence[Stage]) -> None:
        self._root, self._wanted = root, wanted
        self._running: set[str] = set()  # fingerprints
        self._done = threading.Event()
        self._sent: dict[str, tuple[int, int]] = {}  # of what is there: bytes, and when the file here was last changed
        self._lock = threading.RLock()  # one upload in flight; SIGTERM may come in the middle of one
        self._thread = threading.Thread(target=self._keep_sending, daemon=True, name="mirror")
        self._me = {"host": socket.gethostname(), "pid": os.getpid()}
        self._trouble = ""
        try:
            self._store = Store(address)
            self._claim()
            self._fetch(self._store.sizes())
        except (OSError, ValueError) as error:
            raise BadInput(f"mirror={address}: {_in_short(error)}; mend the store, or give mirror=null") from error

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.send()
        if self._trouble and error is None:
            raise BadInput(
                f"all is made in {self._root}, but not all of it is in {self._store.address}: {self._trouble}; "
                "the same command sends the rest"
            )
        if not self._trouble:
            self._store.delete(DRIVER)

    def observe(self, event: str, stage: Stage) -> None:
        """What `materialise` tells."""
        if event == "start":
            self._running.add(stage.fingerprint)
        if event == "end":
            self._running.discard(stage.fingerprint)

    def send(self) -> None:
        """Send what is finished and not there yet, and delete checkpoints and shards there that were deleted here."""
        with self._lock:
            try:
                self._tell()
                for stage in self._wanted:
                    if stage.fingerprint in self._running or stage.is_done(self._root):
                        self._send(stage.folder(self._root).path)
                self._trouble = ""
            except OSError as error:
                if not self._trouble:
                    sys.stderr.write(f"{self._store.address}: {_in_short(error)}; tried again later\n")
                self._trouble = _in_short(error)

    def _claim(self) -> None:
        """Write who drives; BadInput while somebody else does. Two that start in the same second may both pass."""
        told = self._store.read(DRIVER)
        if told is not None:
            other: dict[str, Any] = json.loads(told)
            here = other["host"] == self._me["host"]
            silent = time.time() - other["unix_seconds"]
            alive = _is_alive(other["pid"]) if here else silent < 3 * SYNC_SECONDS
            if alive and not (here and other["pid"] == self._me["pid"]):
                raise BadInput(
                    f"mirror={self._store.address}: process {other['pid']} on {other['host']} writes there, "
                    f"last heard of {silent:.0f} s ago; wait for it, or give it a minute of silence if it is dead"
                )
        self._tell()

    def _tell(self) -> None:
        self._store.write(DRIVER, json.dumps({**self._me, "unix_seconds": time.time()}).encode())

    def _fetch(self, there: dict[str, int]) -> None:
        """Bring here what is there: stages whole, checked by their manifests; of unfinished ones what there is."""
        for stage in self._wanted:
            done, folder = stage.is_done(self._root), _name(stage.folder(self._root).path, self._root)
            for name in sorted((n for n in there if n.startswith(f"{folder}/")), key=_markers_last):
                here = self._root / name
                if not done and not here.exists():
                    self._store.fetch(name, here)
                if here.exists() and here.stat().st_size == there[name]:
                    self._sent[name] = (there[name], here.stat().st_mtime_ns)
            if not done and stage.is_done(self._root) and (found := flaws(stage, self._root)):
                stage.folder(self._root).remove(MANIFEST)  # not done here, then
                raise BadInput(f"{self._store.address}/{folder}: {found[0]}; delete it there to have it made again")

    def _keep_sending(self) -> None:
        while not self._done.wait(SYNC_SECONDS):
            self.send()

    def _send(self, folder: Path) -> None:
        if not folder.is_dir():
            return
        passing = [folder / name for name in (CHECKPOINTS, SHARDS)]
        # First: what shards were merged into is there before they are gone, and so among the files that are sent below.
        kept = {_name(path, self._root) for part in passing if part.is_dir() for path in store.list_files(part)}
        here = {_name(path, self._root): path for path in store.list_files(folder)}
        for name in sorted(here, key=_markers_last):
            try:
                status = here[name].stat()
                state = (status.st_size, status.st_mtime_ns)
                if self._sent.get(name) != state:
                    self._store.send(here[name], name)
                    self._sent[name] = state
            except FileNotFoundError:
                continue  # a checkpoint, or a shard that has become part of a part, deleted in the meantime
        below = tuple(f"{_name(part, self._root)}/" for part in passing)
        for name in [name for name in self._sent if name.startswith(below) and name not in kept]:
            self._store.delete(name)
            del self._sent[name]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _markers_last(name: str) -> tuple[int, str]:
    last = name.rpartition("/")[2]
    return (2 if last == MANIFEST else 1 if last in _LAST else 0, name)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _in_short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
