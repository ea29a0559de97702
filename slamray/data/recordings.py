"""The files of a corpus and the recordings in it: what the readers of published_corpora.py take and return."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from slamray.config.outside import File
from slamray.data.ids import text_id
from slamray.errors import BadInput

_SPLITS = {"train": "train", "dev": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Recording:
    """Audio that is encoded as one document: a file, stretches of a file, or a row of a Parquet file.

    cuts: (start, end) in seconds of the stretches, which are joined; without any the whole file is read. text and
    words (text, start, end in seconds of what is read) are empty where the corpus has none; those of a Parquet row are
    read with the audio, from text_column and words_column. split: train or validation where the corpus publishes it,
    else empty. reason: why the recording cannot be used, else empty.
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
    """The recordings of a corpus; `dropped` counts those that are left out on purpose, by reason."""

    recordings: list[Recording] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def published_split(name: str) -> str:
    """train, validation or test, by the last part of a path that has such a word in it (`dev-clean`); else empty."""
    for part in reversed(name.lower().split("/")):
        for word in re.split("[^a-z]+", part):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def parquet_length(file: File, columns: Sequence[str]) -> int:
    """Rows of a Parquet file, from its footer. BadInput when it is not Parquet or lacks one of the columns."""
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
            text_id(f"{file.name}:{row}"),
            file.path,
            row,
            text_column=text_column,
            words_column=words_column,
            split=split,
        )
        for row in range(rows)
    ]
