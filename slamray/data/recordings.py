"""The files of a corpus and the recordings in it: what the readers of published_corpora.py take and return."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from slamray.config.listing import File
from slamray.data.ids import text_id
from slamray.errors import BadInput
from slamray.given import opening

_SPLITS = {"train": "train", "dev": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Recording:
    """Audio that is encoded as one document: a file, stretches of a file, or a row of a Parquet file.

    cuts: (start, end) in seconds of the stretches, which are joined; without any the whole file is read. text and
    words (text, start, end in seconds of what is read) are empty where the corpus has none; those of a Parquet row are
    read with the audio, from text_column and words_column. split: train or validation where the corpus publishes it,
    else empty. reason: why the recording cannot be used, else empty. after: another file that is heard first, both as
    one sound; of a whole file without text alone.
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
    after: str = ""


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


def parquet_length(file: File, columns: Sequence[str], audio: Sequence[str] = ("audio",)) -> int:
    """Rows of a Parquet file, from its footer. BadInput when it is not Parquet or lacks one of the columns.

    audio: those of the columns that hold sound, of which BadInput says when they hold it in no form that is read.
    """
    with opening(file.path, "repair or remove it"), file.open() as opened:
        parquet = pq.ParquetFile(opened)
        rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
    check_columns(schema, columns, audio, file.path)
    return int(rows)


def check_columns(schema: pa.Schema, columns: Sequence[str], audio: Sequence[str], name: str) -> None:
    """BadInput when a table lacks one of the columns, or one of sound holds it in no form that is read."""
    missing = [column for column in columns if column not in schema.names]
    if missing:
        raise BadInput(f"{name}: no column {' '.join(missing)}; it has {' '.join(schema.names)}")
    for column in columns:
        kind = schema.field(column).type
        if column in audio and not _holds_sound(kind):
            raise BadInput(
                f"{name}: column {column} holds {_short(kind)}, and sound is read as bytes of audio files, as "
                "{bytes, path}, or as samples, {array, sampling_rate}; write the sounds into it"
            )


def _holds_sound(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return _is_bytes(kind)
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    is_array = "array" in fields and pa.types.is_nested(fields["array"]) and "sampling_rate" in fields
    return is_array or ("bytes" in fields and _is_bytes(fields["bytes"]))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _short(kind: pa.DataType) -> str:
    text = " ".join(str(kind).split())
    return text if len(text) < 80 else f"{text[:77]}..."


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
