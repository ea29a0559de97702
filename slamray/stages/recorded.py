"""Stage `recorded`: recordings as they lie on disk (LibriSpeech, Libri-Light), read and encoded into the same units."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from slamray.config import RecordedConfig, SpeechConfig
from slamray.corpus import split_of
from slamray.errors import BadInput
from slamray.runtime.engine import Engine
from slamray.stage import Facts, Folders
from slamray.stages import speech

AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg")


def sources(config: RecordedConfig) -> list[dict[str, Any]]:
    """The listing that enters the fingerprint: names and sizes, not where they lie."""
    return [{"name": name, "bytes": path.stat().st_size} for name, path in _files(config)]


def run(folders: Folders, out: Path, config: RecordedConfig, spoken: SpeechConfig, engine: Engine) -> Facts:
    """Read and encode every recording; unreadable ones go to quarantine with the reason."""
    recordings = [row for name, path in _files(config) for row in _rows(name, path)]
    return speech.listen(recordings, out, spoken, engine, "recorded", config.max_bad_share, "recorded.max_bad_share")


def split(utterance_id: str, validation_share: float) -> str:
    """`train` or `validation`, by the recording's id alone."""
    return split_of(utterance_id, validation_share, 0.0)


def _files(config: RecordedConfig) -> list[tuple[str, Path]]:
    """(name below the given folder, path) of every audio or Parquet file, sorted by name."""
    found: dict[str, Path] = {}
    for given in config.paths:
        root = Path(given)
        paths = sorted(root.rglob("*")) if root.is_dir() else [root]
        kept = [p for p in paths if p.is_file() and p.suffix.lower() in (*AUDIO_SUFFIXES, ".parquet")]
        if not kept:
            raise BadInput(
                f"recorded.paths: {given} holds no {' '.join(AUDIO_SUFFIXES)} or .parquet file; check the path"
            )
        for path in kept:
            name = f"{root.name}/{path.relative_to(root)}" if root.is_dir() else path.name
            if name in found:
                raise BadInput(f"recorded.paths: {name} is found twice; give folders of different names")
            found[name] = path
    return sorted(found.items())


def _rows(name: str, path: Path) -> list[dict[str, Any]]:
    if path.suffix != ".parquet":
        return [{"utterance_id": _id(name), "path": str(path), "parquet_row": None}]
    file = pq.ParquetFile(path)
    if "audio" not in file.schema_arrow.names:
        raise BadInput(f"{path}: no column audio; it has {file.schema_arrow.names}")
    rows = range(file.metadata.num_rows)
    return [{"utterance_id": _id(f"{name}:{row}"), "path": str(path), "parquet_row": row} for row in rows]


def _id(name: str) -> str:
    """First 16 hex digits of the SHA-256 of the name: ids spread evenly over splits and shards."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]
