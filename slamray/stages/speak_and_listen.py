"""Speech to units: requests -> audio -> units in Parquet shards, streamed through actors.

Two kinds of requests, one result: utterances that are spoken, and recordings that are read. The unit of work is a shard
of a few requests: its file appears atomically, a finished shard is never redone, and its bytes do not depend on who
made it. Audio is never stored whole. The kernels are in speech_kernels.py and encode_kernel.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slamray.config.compute import Compute
from slamray.config.speech import ListeningSettings, SpeakingSettings
from slamray.data.item_pairs import Utterance
from slamray.data.recordings import Recording
from slamray.speech.spans import Span
from slamray.stage.folder import Folder
from slamray.stage.records import to_table
from slamray.stage.tables import UNITS, check_bad_share, read_quarantine, read_shards
from slamray.stage.work import Machine, Pool

REQUESTS = "requests.parquet"  # what was to be spoken or read, a row group a shard
SHARD_BYTES = 2_000_000  # of disk for a shard, an upper bound for a shard of eight stories; chosen, not tuned


@dataclass(frozen=True)
class Shard:
    """Requests to be made into units: a row group of a file of requests, and the folder of their stage."""

    number: int
    requests: str
    out: str
    samples: int  # audio of the first requests of the whole stage that is kept to be listened to


@dataclass(frozen=True)
class Sound:
    """One request as audio, 16-bit at 16 kHz, or the reason why there is none."""

    utterance_id: str
    speaker: str
    reason: str = ""
    pcm: bytes = b""
    sentences: tuple[Span, ...] = ()
    words: tuple[Span, ...] = ()
    phones: tuple[Span, ...] = ()


@dataclass(frozen=True)
class ShardOfSound:
    """A shard between the kernel that makes its audio and the one that encodes it."""

    shard: Shard
    sounds: tuple[Sound, ...]


@dataclass(frozen=True)
class ShardDone:
    """A shard whose units lie in the stage's folder."""

    number: int
    audio_seconds: float


@dataclass(frozen=True)
class SpeechFacts:
    """Counts over all shards of a stage. frames: of the encoder, before deduplication."""

    utterances: int
    quarantined: int
    audio_seconds: float
    units: int
    frames: int
    units_per_second: float


def speak(
    utterances: Sequence[Utterance], out: Folder, machine: Machine, speaking: SpeakingSettings, name: str
) -> SpeechFacts:
    """Speak and encode utterances into `out/units/`; raises BadInput when too many of them had to be quarantined."""
    pool = Pool("slamray.stages.speech_kernels:Speak", {"tts": speaking.tts}, machine.compute.tts_actors)
    _encode(utterances, Utterance, pool, out, machine, speaking, name)
    return facts_of(out, len(utterances), speaking.max_bad_share, "speech.max_bad_share")


def listen(
    recordings: Sequence[Recording],
    out: Folder,
    machine: Machine,
    listening: ListeningSettings,
    name: str,
    bad_share_key: str,
) -> SpeechFacts:
    """Read and encode recordings into `out/units/`; bad_share_key: the dotted key of its max_bad_share."""
    pool = Pool("slamray.stages.speech_kernels:Listen", {}, machine.compute.tts_actors)
    _encode(recordings, Recording, pool, out, machine, listening, name)
    return facts_of(out, len(recordings), listening.max_bad_share, bad_share_key)


def _encode(
    requests: Sequence[Any],
    kind: type,
    first: Pool,
    out: Folder,
    machine: Machine,
    listening: ListeningSettings,
    name: str,
) -> None:
    size, compute = listening.shard_documents, machine.compute
    out.write_table(REQUESTS, to_table(requests, kind), group_rows=size)
    file = str(out.fetch(REQUESTS))
    shards = [Shard(number, file, str(out), listening.sample_documents) for number in range(-(-len(requests) // size))]
    done = set(out.names(f"{UNITS}/*.parquet"))
    todo = [shard for shard in shards if shard_file(shard.number) not in done]
    if todo:
        out.require_space(SHARD_BYTES * len(todo), f"stage {name}")
    machine.rows(name, todo, _pools(first, listening, compute), len(shards), "shards")


def _pools(first: Pool, listening: ListeningSettings, compute: Compute) -> list[Pool]:
    """Beside a GPU, actors of their own make the sound ahead of it; else each core takes a shard through both steps."""
    args = {
        "encoder": listening.encoder,
        "batch_seconds": compute.encoder_batch_seconds,
        "device": "cuda" if compute.encoder_gpus else "cpu",
    }
    encoder = Pool("slamray.stages.encode_kernel:Encode", args, compute.encoder_actors, gpus=compute.encoder_gpus)
    if compute.encoder_gpus:
        return [first, encoder]
    both = {"first": first, "encoder": encoder}
    return [Pool("slamray.stages.encode_kernel:MakeAndEncode", both, compute.encoder_actors)]


def shard_file(number: int) -> str:
    """Where a shard's units lie, below the stage's folder."""
    return f"{UNITS}/shard-{number:06d}.parquet"


def facts_of(out: Folder, total: int, max_bad_share: float, key: str) -> SpeechFacts:
    """Counts over all shards, read from the files so that they are right after any number of restarts."""
    bad = read_quarantine(out)
    check_bad_share(bad, total, max_bad_share, key)
    table = read_shards(out)
    seconds = float(np.sum(table["seconds"].to_numpy(), dtype=np.float64))
    units = sum(len(row) for row in table["units"])
    frames = int(sum(np.sum(row.values.to_numpy(), dtype=np.int64) for row in table["durations"] if len(row)))
    assert table.num_rows + len(bad) == total, f"{table.num_rows} good + {len(bad)} bad rows are not {total}"
    return SpeechFacts(table.num_rows, len(bad), round(seconds, 2), units, frames, round(units / seconds, 3))
