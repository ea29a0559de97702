"""Speech to units: text -> TTS actors -> HuBERT actors -> Parquet shards, streamed; audio is never stored whole.

Two entrances, one exit: utterances that are spoken, and recordings that are read. The unit of work is a shard of a few
utterances: its file appears atomically, a finished shard is never redone, and its bytes do not depend on who made it.
The kernels are in speech_kernels.py and encode_kernel.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from slamray.config.compute import Compute
from slamray.config.speech import SpeechSettings
from slamray.data.items import Utterance
from slamray.stage import store, tables
from slamray.stage.stage import Asking, Facts, check_bad_share
from slamray.stage.tables import SHARDS
from slamray.stage.work import Pool, Row, Stream


def _speaking(**args: Any) -> Callable[[Row], Row]:
    from slamray.stages.speech_kernels import Speak  # imported on the actor: the driver loads no torch

    return Speak(**args)


def _listening(**args: Any) -> Callable[[Row], Row]:
    from slamray.stages.speech_kernels import Listen

    return Listen(**args)


def _encoding(**args: Any) -> Callable[[Row], Row]:
    from slamray.stages.encode_kernel import Encode

    return Encode(**args)


def speak(utterances: Sequence[Utterance], out: Path, config: SpeechSettings, compute: Compute, name: str) -> Asking:
    """Speak and encode utterances into `out/units/`; raises BadInput when too many of them had to be quarantined."""
    rows = [asdict(utterance) for utterance in utterances]
    pool = Pool(_speaking, {"tts": config.tts.model_dump()}, compute.tts_actors)
    yield from _encode(rows, pool, out, config, compute, name)
    return facts_of(out, len(rows), config.max_bad_share, "speech.max_bad_share")


def listen(
    recordings: Sequence[Row], out: Path, config: SpeechSettings, compute: Compute, name: str, max_bad: float, key: str
) -> Asking:
    """Read and encode recordings {utterance_id, path, parquet_row[, column]} into `out/units/`."""
    yield from _encode(list(recordings), Pool(_listening, {}, compute.tts_actors), out, config, compute, name)
    return facts_of(out, len(recordings), max_bad, key)


def _encode(
    rows: list[Row], first: Pool, out: Path, config: SpeechSettings, compute: Compute, name: str
) -> Iterator[Stream]:
    size = config.shard_documents
    shards = [rows[start : start + size] for start in range(0, len(rows), size)]
    todo = [
        {"shard": i, "out": str(out), "samples": config.sample_documents, "utterances": json.dumps(shard)}
        for i, shard in enumerate(shards)
        if not (out / SHARDS / f"shard-{i:06d}.parquet").exists()
    ]
    encoder = Pool(
        _encoding,
        {
            "encoder": config.encoder.model_dump(), "batch_seconds": compute.encoder_batch_seconds,
            "device": "cuda" if compute.encoder_gpus else "cpu",
        },
        compute.encoder_actors, gpus=compute.encoder_gpus,
    )  # fmt: skip
    if todo:
        store.require_space(out, 2_000_000 * len(todo), f"stage {name}")
        yield Stream(name, todo, [first, encoder], total=len(shards), unit="shards")


def facts_of(out: Path, total: int, max_bad_share: float, key: str) -> Facts:
    """Counts over all shards, read from the files so that they are right after any number of restarts."""
    bad = tables.read_quarantine(out)
    first = f"{bad[0]['id']}: {bad[0]['reason']}" if bad else ""
    check_bad_share(len(bad), total, max_bad_share, key, first)
    table = tables.read_shards(out / SHARDS)
    seconds = float(np.sum(table["seconds"].to_numpy(), dtype=np.float64))
    units = sum(len(row) for row in table["units"])
    frames = int(sum(np.sum(row.values.to_numpy(), dtype=np.int64) for row in table["durations"] if len(row)))
    assert table.num_rows + len(bad) == total, f"{table.num_rows} good + {len(bad)} bad rows are not {total}"
    return {
        "utterances": table.num_rows, "quarantined": len(bad), "audio_seconds": round(seconds, 2), "units": units,
        "frames": frames, "units_per_second": round(units / seconds, 3),
    }  # fmt: skip
