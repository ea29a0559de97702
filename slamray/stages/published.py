"""Stage `published`: the recordings of published test sets, each encoded once, and the pairs they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slamray.config.compute import Compute
from slamray.config.speech import SpeechSettings
from slamray.data.items import Pair
from slamray.data.published_sets import PublishedSet, read_set
from slamray.stage import tables
from slamray.stage.stage import Asking, Folders
from slamray.stages import speech

PAIRS = "pairs.parquet"
SHARD_RECORDINGS = 64  # items last seconds, not minutes as documents do; chosen, not tuned
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("pair_id", "metric", "part", "item")),
        *((name, pa.list_(pa.string())) for name in ("prompt", "chosen", "rejected")),
        *((name, pa.string()) for name in ("prompt_text", "chosen_text", "rejected_text")),
    ]
)


def read_sets(sets: Mapping[str, str]) -> list[PublishedSet]:
    """Every set, by order of name; BadInput for whatever is wrong with one, before any work."""
    return [read_set(name, Path(folder)) for name, folder in sorted(sets.items())]


def identity(found: Sequence[PublishedSet], voice: Mapping[str, Any]) -> dict[str, Any]:
    """The stage's identity: the sets by content, and how they are heard. voice: `speech_identity`."""
    return {"sets": {one.name: dict(one.identity) for one in found}, "encoder": voice["encoder"]}


def run(folders: Folders, out: Path, found: Sequence[PublishedSet], spoken: SpeechSettings, compute: Compute) -> Asking:
    """Encode the recordings of all sets; pairs to Parquet. The facts say where a set is not as published."""
    heard = [asdict(recording) for one in found for recording in _in_order(one)]
    config = spoken.model_copy(update={"shard_documents": SHARD_RECORDINGS, "sample_documents": 0})
    key = "speech.max_bad_share"
    facts = yield from speech.listen(heard, out, config, compute, "published", spoken.max_bad_share, key)
    rows = [asdict(pair) for one in found for pair in one.pairs]
    tables.write_table(out / PAIRS, pa.Table.from_pylist(rows, SCHEMA))
    return facts | {"sets": {one.name: dict(one.facts) for one in found}}


def read(folder: Path) -> list[Pair]:
    """The pairs as they were read, those of a set together."""
    rows = pq.read_table(folder / PAIRS).to_pylist()
    return [Pair(**row | {key: tuple(row[key]) for key in ("prompt", "chosen", "rejected")}) for row in rows]


def _in_order(one: PublishedSet) -> list[Any]:
    """Recordings as files hold them, so that one row group of a Parquet file after another is read."""
    return sorted(one.recordings, key=lambda recording: (recording.path, recording.column, recording.parquet_row or 0))
