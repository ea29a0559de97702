"""Speech to units: requests -> audio -> units in Parquet parts, streamed through actors.

Two kinds of requests, one result: utterances that are spoken, and recordings that are read. Requests lie in tables;
what travels is a shard, some rows of one of them (shards.py). Audio is never stored whole. The kernels are in
speech_kernels.py and encode_kernel.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from slamray.config.compute import Compute
from slamray.config.speech import ListeningSettings, SpeakingSettings
from slamray.data.item_pairs import Utterance
from slamray.data.recordings import Recording
from slamray.speech.spans import Span
from slamray.stage.folder import Folder
from slamray.stage.parts import Part, Stretches, parts_of, write_parts
from slamray.stage.tables import check_bad_share, read_quarantine
from slamray.stage.work import SHARDS, Machine, Pool
from slamray.stages.shards import Plan, Shard, Todo, merge, total

REQUESTS = "requests"  # what was to be spoken or read, in parts, where it is not the corpus itself
DOCUMENT_BYTES = 7_400  # of disk that a document needs: a story of the demo takes 3,677 (2026-11-30), doubled


@dataclass(frozen=True)
class Sound:
    """One request as audio, 16-bit at 16 kHz, or the reason why there is none. split: as its corpus says."""

    utterance_id: str
    speaker: str
    reason: str = ""
    split: str = ""
    pcm: bytes = b""
    sentences: tuple[Span, ...] = ()
    words: tuple[Span, ...] = ()
    phones: tuple[Span, ...] = ()


@dataclass(frozen=True)
class ShardOfSound:
    """A shard between the kernel that makes its audio and the one that encodes it; no sounds where it is done."""

    shard: Shard
    sounds: tuple[Sound, ...]


@dataclass(frozen=True)
class SpeechFacts:
    """Counts over all parts of a stage. frames: of the encoder, before deduplication."""

    utterances: int
    quarantined: int
    audio_seconds: float
    units: int
    frames: int
    units_per_second: float


def speak(
    utterances: Iterable[Utterance], out: Folder, machine: Machine, speaking: SpeakingSettings, name: str
) -> SpeechFacts:
    """Speak and encode utterances into `out/units/`; raises BadInput when too many of them had to be quarantined."""
    write_parts(out, REQUESTS, utterances, Utterance)
    return speak_parts(parts_of(out, REQUESTS), out, machine, speaking, name)


def speak_parts(
    requests: Sequence[Part], out: Folder, machine: Machine, speaking: SpeakingSettings, name: str
) -> SpeechFacts:
    """The same, of tables of utterances or of the corpus's documents."""
    pool = Pool("slamray.stages.speech_kernels:Speak", {"tts": speaking.tts}, machine.compute.tts_actors)
    _encode(requests, pool, out, machine, speaking, name)
    return facts_of(out, requests, speaking.max_bad_share, "speech.max_bad_share")


def listen(
    recordings: Iterable[Recording],
    out: Folder,
    machine: Machine,
    listening: ListeningSettings,
    name: str,
    bad_share_key: str,
) -> SpeechFacts:
    """Read and encode recordings into `out/units/`; bad_share_key: the dotted key of its max_bad_share."""
    write_parts(out, REQUESTS, recordings, Recording)
    requests = parts_of(out, REQUESTS)
    pool = Pool("slamray.stages.speech_kernels:Listen", {}, machine.compute.tts_actors)
    _encode(requests, pool, out, machine, listening, name)
    return facts_of(out, requests, listening.max_bad_share, bad_share_key)


def _encode(
    requests: Sequence[Part], first: Pool, out: Folder, machine: Machine, listening: ListeningSettings, name: str
) -> None:
    size = listening.shard_documents
    plan = Plan(Stretches(requests, size), out, size, listening.sample_documents)
    make_shards(name, plan, _pools(first, listening, machine.compute), machine)


def make_shards(name: str, plan: Plan, pools: Sequence[Pool], machine: Machine) -> None:
    """Make all shards of a plan that are not there, and merge them into parts on the way."""
    missing = plan.missing()
    todo = Todo(plan, plan.numbers(missing))
    if missing:
        plan.out.require_space(DOCUMENT_BYTES * plan.documents * len(todo), f"stage {name}")
    with _Merging(name, plan, missing, machine) as merging:
        machine.rows(name, todo, pools, len(plan.requests), "shards", merging.done)
    plan.out.remove(SHARDS)


class _Merging:
    """Merges the shards of each part as soon as all of them are done, while others are made."""

    def __init__(self, name: str, plan: Plan, missing: dict[int, np.ndarray], machine: Machine) -> None:
        self._name, self._plan, self._missing, self._machine = name, plan, missing, machine
        self._threads = ThreadPoolExecutor(1)
        self._asked: list[Future[None]] = []

    def __enter__(self) -> _Merging:
        for part, left in self._missing.items():
            if not left.any():  # an earlier run ended before it merged them
                self._merge(part)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._threads.shutdown(cancel_futures=kind is not None)  # waits for one that has begun
        if kind is None:
            for one in self._asked:
                one.result()

    def done(self, row: Mapping[str, Any]) -> None:
        """One more shard is there: a ShardDone."""
        part, place = divmod(row["number"], self._plan.shards_per_part)
        self._missing[part][place] = False
        if not self._missing[part].any():
            self._merge(part)

    def _merge(self, part: int) -> None:
        work = partial(merge, self._plan.out, part, self._plan.shards_of(part), self._plan.table)
        self._asked.append(self._threads.submit(self._machine.call, f"{self._name}: merge", work, cpus=0))


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


def facts_of(out: Folder, requests: Sequence[Part], max_bad_share: float, key: str) -> SpeechFacts:
    """Counts over all parts, read from the files so that they are right after any number of restarts."""
    found, asked = total(out), sum(part.rows for part in requests)
    check_bad_share(read_quarantine(out, "part-*"), asked, max_bad_share, key)
    assert found.utterances + found.quarantined == asked, f"{found} are not {asked} requests"
    seconds = round(found.audio_seconds, 2)
    rate = round(found.units / found.audio_seconds, 3) if found.audio_seconds else 0.0
    return SpeechFacts(found.utterances, found.quarantined, seconds, found.units, found.frames, rate)
