"""How long a listing of recordings takes, and the memory that it, its identity and a plan of reading it need.

    python benchmarks/listing.py recordings=13000000 [folder_of=1000] [bytes=16]

The files are names of a file system of this script's own (synthetic://), listed a folder at a time, as an object store
lists them: 40 to 60 characters, a size and a tag each. Nothing is on a disk; each file has so many bytes, and is read
for its checksum unless these are none. Then the requests of the stage `recorded` are written and cut into shards, as
its driver does before any is read. Prints one line of JSON: seconds of each step, the most memory by its end, and the
bytes that lie on the disk then.
"""

from __future__ import annotations

import hashlib
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import fsspec
from fsspec import AbstractFileSystem
from pairs import commit, machine
from pydantic import Field

from slamray.commands.words import as_command, split_words
from slamray.config import checksums
from slamray.config.base import Settings
from slamray.config.checksums import CHECKSUMS, CONTENTS
from slamray.config.listing import File, each_file
from slamray.config.outside import data_content
from slamray.config.speech import SpeechSettings
from slamray.data.ids import text_id
from slamray.data.recordings import Recording
from slamray.stage.folder import Folder
from slamray.stage.parts import Stretches, parts_of, write_parts
from slamray.stages.recorded import PLAIN_SUFFIXES
from slamray.stages.shards import Plan, Todo
from slamray.stages.speak_and_listen import REQUESTS

KEY = "recorded.paths"


class Words(Settings):
    """Words of this benchmark."""

    recordings: int = Field(130_000, ge=1, description="files that are listed")
    folder_of: int = Field(1000, ge=1, description="files of a folder")
    bytes: int = Field(16, ge=0, description="of each file; 0: none is opened, and its name stands for its content")


@dataclass(frozen=True)
class Listed:
    """The line that is printed. *_mb: the most that this process has held by then."""

    recordings: int
    started_mb: int  # with all modules loaded
    listing_seconds: float
    listing_mb: int
    identity_seconds: float  # each file opened
    identity_mb: int
    again_seconds: float  # known from the tables
    again_mb: int
    index_bytes: int
    requests_seconds: float
    requests_mb: int
    requests_bytes: int
    machine: str
    commit: str


class Synthetic(AbstractFileSystem):
    """`recordings` files in folders of `folder_of`, each of `size` bytes, its number over and over."""

    protocol = "synthetic"
    recordings = folder_of = size = 1

    def info(self, path: str, **words: Any) -> dict[str, Any]:
        """Of a folder or a file."""
        inner = self._strip_protocol(path)
        if not inner.endswith(".flac"):
            return {"name": inner, "type": "directory", "size": 0}
        return {"name": inner, "type": "file", "size": self.size, "ETag": f"{crc32(inner.encode()):032x}"}

    def ls(self, path: str, detail: bool = True, **words: Any) -> Any:
        """Of the folder of all, or of one of its folders."""
        folder = self._strip_protocol(path)
        if folder == "librilight":
            names = [f"{folder}/{number:06d}" for number in range(-(-self.recordings // self.folder_of))]
        else:
            first = int(folder.rpartition("/")[2]) * self.folder_of
            last = min(first + self.folder_of, self.recordings)
            names = [f"{folder}/recording_{number:012d}.flac" for number in range(first, last)]
        return [self.info(name) for name in names] if detail else names

    def _open(self, path: str, mode: str = "rb", **words: Any) -> io.BytesIO:
        number = path.rpartition("_")[2].removesuffix(".flac").encode()
        return io.BytesIO((number * (self.size // len(number) + 1))[: self.size])


def main(words: Sequence[str]) -> int:
    """The whole benchmark: 0, or 2 with one line where a word is at fault."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, _ = split_words(words, Words)
    Synthetic.recordings, Synthetic.folder_of, Synthetic.size = own.recordings, own.folder_of, own.bytes
    fsspec.register_implementation("synthetic", Synthetic, clobber=True)
    place = ["synthetic://librilight"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        root, out = Folder(Path(folder)), Folder(Path(folder)) / "recorded"
        if not own.bytes:
            opened.enter_context(patch.object(checksums, "_read_checksum", _checksum_of_name))
        CHECKSUMS.know(root)
        CHECKSUMS.keep()
        steps: list[Callable[[], Any]] = [
            lambda: sum(1 for _ in each_file(place, KEY, PLAIN_SUFFIXES)),
            lambda: data_content(place, KEY, PLAIN_SUFFIXES),
            lambda: _again(place, root),
            lambda: _requests(place, out),
        ]
        started_mb = _peak_mb()
        took: list[tuple[Any, float, int]] = []
        for step in steps:
            began = time.monotonic()
            found = step()
            took.append((found, round(time.monotonic() - began, 1), _peak_mb()))
        (count, first, again, shards), seconds, most_mb = zip(*took, strict=True)
        assert count == own.recordings == first["files"] and again == first and shards
        sizes = root.files()
    index_bytes = sum(size for name, size in sizes.items() if name.startswith(CONTENTS))
    result = Listed(
        recordings=own.recordings,
        started_mb=started_mb,
        listing_seconds=seconds[0],
        listing_mb=most_mb[0],
        identity_seconds=seconds[1],
        identity_mb=most_mb[1],
        again_seconds=seconds[2],
        again_mb=most_mb[2],
        index_bytes=index_bytes,
        requests_seconds=seconds[3],
        requests_mb=most_mb[3],
        requests_bytes=sum(sizes.values()) - index_bytes,
        machine=machine(),
        commit=commit(),
    )
    print(json.dumps(asdict(result)))
    return 0


def _again(place: Sequence[str], root: Folder) -> dict[str, Any]:
    """The identity as a later command finds it."""
    CHECKSUMS.know(root)
    return data_content(place, KEY, PLAIN_SUFFIXES)


def _checksum_of_name(file: File) -> str:
    return hashlib.sha256(file.name.encode()).hexdigest()


def _requests(place: Sequence[str], out: Folder) -> int:
    """Shards of the stage `recorded` over these files, of which all are missing."""
    recordings = (Recording(text_id(file.name), file.path) for file in each_file(place, KEY, PLAIN_SUFFIXES))
    write_parts(out, REQUESTS, recordings, Recording)
    size = SpeechSettings().shard_documents
    plan = Plan(Stretches(parts_of(out, REQUESTS), size), out, size, samples=0)
    todo = Todo(plan, plan.numbers(plan.missing()))
    return len(todo)


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
