"""Stages `recorded` and one named after each published corpus: recordings read and encoded into the same units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slamray.config.compute import Compute
from slamray.config.corpora import RecordedSettings
from slamray.config.speech import SpeechSettings
from slamray.data.published_corpora import DOORS
from slamray.data.recordings import File, find_files, identity_of, recording_id
from slamray.data.text import split_of
from slamray.errors import BadInput
from slamray.stage import tables
from slamray.stage.stage import Asking, Folders
from slamray.stages import speech

AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".sph")
SPLITS = "splits.parquet"  # in the folder of a published corpus: the split it publishes, or empty


def sources(config: RecordedSettings) -> list[dict[str, Any]]:
    """The listing that enters the fingerprint: names and sizes, not where they lie."""
    return [{"name": name, "bytes": path.stat().st_size} for name, path in _files(config)]


def run(folders: Folders, out: Path, config: RecordedSettings, spoken: SpeechSettings, compute: Compute) -> Asking:
    """Read and encode every recording; unreadable ones go to quarantine with the reason."""
    recordings = [row for name, path in _files(config) for row in _rows(name, path)]
    key = "recorded.max_bad_share"
    return (yield from speech.listen(recordings, out, spoken, compute, "recorded", config.max_bad_share, key))


def given_doors(config: RecordedSettings) -> list[str]:
    """Names of the published corpora that a recipe gives a place for."""
    return [name for name in DOORS if getattr(config, name)]


def door_sources(config: RecordedSettings, name: str) -> dict[str, Any]:
    """The listing of a published corpus that enters the fingerprint."""
    return identity_of(_door_files(config, name))


def run_door(
    folders: Folders, out: Path, name: str, config: RecordedSettings, spoken: SpeechSettings, compute: Compute
) -> Asking:
    """Read and encode a published corpus; facts count what its door left out too, and why."""
    listing = DOORS[name](_door_files(config, name))
    recordings = [asdict(recording) for recording in listing.recordings]
    if not recordings:
        raise BadInput(f"recorded.{name}: no recording found in {getattr(config, name)}; {dict(listing.dropped)}")
    splits = {"utterance_id": [r["utterance_id"] for r in recordings], "split": [r["split"] for r in recordings]}
    tables.write_table(out / SPLITS, pa.table(splits))
    key = "recorded.max_bad_share"
    facts = yield from speech.listen(recordings, out, spoken, compute, name, config.max_bad_share, key)
    return facts | {"dropped": dict(listing.dropped)}


def splits(folder: Path, utterance_ids: Iterable[str], validation_share: float) -> dict[str, str]:
    """`train` or `validation` of each recording: as its corpus publishes it, else by its id alone."""
    published: dict[str, str] = {}
    if (folder / SPLITS).exists():
        table = pq.read_table(folder / SPLITS)
        published = dict(zip(table["utterance_id"].to_pylist(), table["split"].to_pylist(), strict=True))
    return {key: published.get(key) or split_of(key, validation_share, 0.0) for key in utterance_ids}


def _door_files(config: RecordedSettings, name: str) -> list[File]:
    return find_files(getattr(config, name), f"recorded.{name}")


def _files(config: RecordedSettings) -> list[tuple[str, Path]]:
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
        return [{"utterance_id": recording_id(name), "path": str(path), "parquet_row": None}]
    file = pq.ParquetFile(path)
    if "audio" not in file.schema_arrow.names:
        raise BadInput(f"{path}: no column audio; it has {file.schema_arrow.names}")
    rows = range(file.metadata.num_rows)
    return [{"utterance_id": recording_id(f"{name}:{row}"), "path": str(path), "parquet_row": row} for row in rows]
