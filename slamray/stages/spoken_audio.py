"""Stage `recordings`: spoken documents kept with their audio and phones, for training an encoder or a decoder.

The only stage that stores audio: masked prediction reads it many times. 115 MB an hour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from slamray.config.speech import TtsSettings
from slamray.config.tree import Recipe
from slamray.speech.spans import Span
from slamray.stage.folder import Folder
from slamray.stage.parts import Stretches, parts_of
from slamray.stage.records import from_table
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine, Pool
from slamray.stages.shards import Shard

SHARD_DOCUMENTS = 8  # unit of work, about 13 MB of audio; chosen, not tuned
SHARD_BYTES = 15_000_000
SPLITS = ("train", "evaluation")


@dataclass(frozen=True)
class SpokenDocument:
    """A document as it was spoken: 16-bit audio at 16 kHz, and its phones."""

    doc_id: str
    pcm: bytes
    phones: tuple[Span, ...]

    @property
    def audio(self) -> np.ndarray:
        """int16 (samples,)."""
        return np.frombuffer(self.pcm, np.int16)


@dataclass(frozen=True)
class SpokenAudioFacts:
    """Documents of each split that could be spoken."""

    train: int
    evaluation: int


def stage(recipe: Recipe, documents: Stage) -> Stage:
    """From both splits of the documents that train and measure encoders and decoders."""
    encoder = recipe.assets.encoder
    settings = {
        "tts": recipe.speech.tts,
        "train": encoder.train_documents,
        "evaluation": encoder.evaluation_documents,
    }
    return Stage("recordings", run, settings, (documents,))


def run(
    inputs: Inputs, out: Folder, machine: Machine, tts: TtsSettings, train: int, evaluation: int
) -> SpokenAudioFacts:
    """Speak training documents, and evaluation documents to measure on."""
    shards: list[Shard] = []
    for split, count in zip(SPLITS, (train, evaluation), strict=True):
        requests = Stretches(parts_of(inputs["corpus"], split, count), SHARD_DOCUMENTS)
        shards += [Shard(number, asked, str(out / split), samples=0) for number, asked in enumerate(requests)]
    todo = [shard for shard in shards if not shard_exists(shard)]
    if todo:
        out.require_space(SHARD_BYTES * len(todo), "stage recordings")
    pool = Pool("slamray.stages.spoken_audio_kernel:Record", {"tts": tts}, machine.compute.tts_actors)
    machine.rows("recordings", todo, [pool], len(shards), "shards")
    return SpokenAudioFacts(*(sum(1 for _ in read(out, split)) for split in SPLITS))


def recordings_file(number: int) -> str:
    """Where a shard's recordings lie, below the folder of its split."""
    return f"shard-{number:06d}.parquet"


def shard_exists(shard: Shard) -> bool:
    """Whether its recordings are stored already."""
    return folder_of(shard).exists(recordings_file(shard.number))


def folder_of(shard: Shard) -> Folder:
    """The folder of the shard's split."""
    return Folder(shard.out)


def read(folder: Folder, split: str, at_most: int | None = None) -> Iterator[SpokenDocument]:
    """The first recordings of a split, by order of id."""
    shards = (folder.read_table(name) for name in folder.names(f"{split}/shard-*.parquet"))
    documents = (document for table in shards for document in from_table(table, SpokenDocument))
    return itertools.islice(documents, at_most)
