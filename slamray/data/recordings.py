"""What every door is given (the files of a corpus) and what it gives back (recordings)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from slamray.errors import BadInput

_SPLITS = {"train": "train", "dev": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class File:
    """A file of a corpus: its name from the given folder's own name on, and a path that fsspec opens."""

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


@dataclass(frozen=True)
class Recording:
    """Something to be encoded as one document: a file, stretches of one, or a row of a Parquet file.

    cuts: (start, end) in seconds, to be read and joined; none reads all. text and words (text, start, end in seconds
    of what is read) as far as the corpus gives them; of a Parquet row they are read with the audio, from the columns
    named here. split: train or validation where the corpus says, else empty. reason: why it cannot be used.
    """

    utterance_id: str
    path: str
    parquet_row: int | None = None
    column: str = "audio"
    text_column: str = ""
    words_column: str = ""
    cuts: Sequence[tuple[float, float]] = ()
    text: str = ""
    words: Sequence[tuple[str, float, float]] = ()
    split: str = ""
    reason: str = ""


@dataclass
class Listing:
    """The recordings of a corpus, and how many of its parts are left out on purpose, and why."""

    recordings: list[Recording] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def find_files(paths: Sequence[str], key: str) -> list[File]:
    """Every file the paths name (files, folders, patterns; local or at any path fsspec opens), sorted by name.

    BadInput, which names the recipe's `key`, when a path names none or two files have one name.
    """
    found: dict[str, File] = {}
    for given in paths:
        try:
            files = _files_of(given)
        except (OSError, ValueError, ImportError) as error:
            raise BadInput(f"{key}: cannot read {given} ({error}); check the path") from error
        if not files:
            raise BadInput(f"{key}: {given} names no file; check the path")
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
        root = inner if fs.isdir(inner) else inner.rpartition("/")[0]
    start = root.rpartition("/")[0]
    return [
        File(path[len(start) :].lstrip("/"), fs.unstrip_protocol(path) if "://" in given else path, int(info["size"]))
        for path, info in sizes.items()
        if not any(part.startswith(".") for part in path[len(start) :].split("/"))
    ]


def identity_of(files: Sequence[File]) -> dict[str, Any]:
    """A corpus by its listing: how many files, their bytes, and one checksum of all names and sizes."""
    lines = "\n".join(f"{file.name} {file.bytes}" for file in files)
    return {
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "listing_sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def recording_id(name: str) -> str:
    """First 16 hex digits of the SHA-256 of the name: ids spread evenly over splits and shards."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def published_split(name: str) -> str:
    """train, validation or test, by the last part of a name that has such a word in it (`dev-clean`); else empty."""
    for part in reversed(name.lower().split("/")):
        for word in re.split("[^a-z]+", part):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def parquet_length(file: File, columns: Sequence[str]) -> int:
    """Rows of a Parquet file, from its footer; BadInput when it is none or lacks one of the columns."""
    try:
        with fsspec.open(file.path, "rb") as opened:
            parquet = pq.ParquetFile(opened)
            rows, names = parquet.metadata.num_rows, parquet.schema_arrow.names
    except (OSError, pa.ArrowInvalid) as error:
        raise BadInput(f"{file.path}: cannot be read ({str(error).splitlines()[0]}); repair or remove it") from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise BadInput(f"{file.path}: no column {' '.join(missing)}; it has {' '.join(names)}")
    return int(rows)


def parquet_rows(file: File, text_column: str, words_column: str = "") -> list[Recording]:
    """A recording for each row of a file with a column audio, text, and word times where the corpus has them."""
    rows = parquet_length(file, [name for name in ("audio", text_column, words_column) if name])
    split = published_split(file.name)
    return [
        Recording(
            recording_id(f"{file.name}:{row}"), file.path, row,
            text_column=text_column, words_column=words_column, split=split,
        )
        for row in range(rows)
    ]  # fmt: skip
