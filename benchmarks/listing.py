"""How long a listing of recordings takes, and the memory that it and a plan of it need.

    python benchmarks/listing.py recordings=13000000 [folder_of=1000] [bytes=0]

The files are names of a file system of this script's own (synthetic://), as an object store lists them: 40 to 60
characters, a size and a tag each. Nothing is on a disk; where `bytes` is not 0 each file has so many, and is read for
its checksum. Prints one line of JSON: seconds and memory of the listing, of the data set's identity with the checksums
known and unknown, and of the index that keeps them between commands.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from pairs import commit, machine
from pydantic import Field

from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings
from slamray.config.outside import CHECKSUMS, find_files, listing_content


class Words(Settings):
    """Words of this benchmark."""

    recordings: int = Field(130_000, ge=1, description="files that are listed")
    folder_of: int = Field(1000, ge=1, description="files of a folder")
    bytes: int = Field(16, ge=1, description="of each file")


@dataclass(frozen=True)
class Listed:
    """The line that is printed. *_mb: the most that this process has held by then."""

    recordings: int
    listing_seconds: float
    listing_mb: int
    identity_seconds: float
    again_seconds: float
    identity_mb: int
    index_bytes: int
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
        return {"name": inner, "type": "file", "size": self.size, "ETag": f"{hash(inner) & 0xFFFFFFFF:032x}"}

    def find(self, path: str, detail: bool = False, **words: Any) -> Any:
        """As object stores list: every file below, by name."""
        names = (
            f"librilight/{number // self.folder_of:06d}/recording_{number:012d}.flac"
            for number in range(self.recordings)
        )
        return {name: self.info(name) for name in names} if detail else list(names)

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
    began = time.monotonic()
    files = find_files(["synthetic://librilight"], "recorded.paths", (".flac",))
    listed, listing_mb = time.monotonic(), _peak_mb()
    assert len(files) == own.recordings
    written: list[int] = []
    CHECKSUMS.keep(lambda index: written.append(len(json.dumps(index))))
    first = listing_content(files)
    known = time.monotonic()
    assert listing_content(files) == first
    again = time.monotonic()
    result = Listed(
        own.recordings,
        round(listed - began, 1),
        listing_mb,
        round(known - listed, 1),
        round(again - known, 1),
        _peak_mb(),
        sum(written),
        machine(),
        commit(),
    )
    print(json.dumps(asdict(result)))
    return 0


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
