"""Prompts that a model answers in text or in speech; what it says in speech is heard by an independent recogniser.

    say (the model) | hear (decoder --> recogniser; of speech alone)

Each step goes through all batches of prompts and leaves a file for each, so that a kill costs one batch. The kernels
are in saying_kernel.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from slamray.config.evaluation import SamplingSettings
from slamray.config.joint import TextToTokenSampling
from slamray.config.model import BaseSettings
from slamray.stage.folder import Folder
from slamray.stage.records import to_table
from slamray.stage.work import Machine, Pool
from slamray.tokens.vocabulary import Vocabulary

Modality = Literal["speech", "text"]


@dataclass(frozen=True)
class Turn:
    """A prompt. ids: its tokens, tags included. most_tokens: how much may be said."""

    key: str
    ids: Sequence[int]
    most_tokens: int


@dataclass(frozen=True)
class Said:
    """What was said: its text, which of speech is what the recogniser heard, and its units; ended: by the model."""

    key: str
    text: str
    units: Sequence[int]
    ended: bool


@dataclass(frozen=True)
class Batch:
    """Turns that are answered together: a row group of a table below `out`, an address."""

    out: str
    modality: str
    number: int

    @property
    def folder(self) -> Folder:
        return Folder(self.out)

    @property
    def asked(self) -> str:
        """The table of the turns."""
        return f"asked/{self.modality}.parquet"

    def file(self, step: str) -> str:
        """Where a step's result lies: a JSON list, a row for each turn."""
        return f"batches/{self.modality}-{self.number:06d}.{step}.json"


@dataclass(frozen=True)
class Speaker:
    """Who answers, and how.

    model: address of its folder. base: of the tokeniser that reads text; None of a model of units alone. sampling: of
    speech; text is the likeliest token each time. speaking: speech is drawn as the text-to-token model's, instead.
    vocoder: what turns units into sound.
    """

    model: str
    vocabulary: Vocabulary
    base: BaseSettings | None
    sampling: SamplingSettings
    speaking: TextToTokenSampling | None
    vocoder: str


def say(
    name: str, turns: Sequence[Turn], modality: Modality, speaker: Speaker, out: Folder, machine: Machine
) -> dict[str, Said]:
    """What a model says to each turn, by key. What is drawn depends on the turns of the batch that a turn is in."""
    size = speaker.sampling.batch
    batches = [Batch(str(out), modality, number) for number in range(-(-len(turns) // size))]
    if not batches:
        return {}
    out.write_table(batches[0].asked, to_table(turns, Turn), group_rows=size)
    for step, pool in _pools(modality, speaker, machine).items():
        todo = [batch for batch in batches if not out.exists(batch.file(step))]
        machine.rows(f"{name}: {step}", todo, [pool], len(batches), "batches")
    last = "heard" if modality == "speech" else "said"
    rows: list[dict[str, Any]] = [row for batch in batches for row in out.read_json(batch.file(last))]
    return {row["key"]: Said(**row) for row in rows}


def _pools(modality: Modality, speaker: Speaker, machine: Machine) -> dict[str, Pool]:
    compute = machine.compute
    cuda = compute.device == "cuda"
    said = Pool(
        "slamray.stages.saying_kernel:Say",
        {"speaker": speaker, "modality": modality, "device": "cuda" if cuda else "cpu"},
        compute.score_actors,
        gpus=1 if cuda else 0,
    )
    if modality == "text":
        return {"said": said}
    heard = Pool("slamray.stages.saying_kernel:Hear", {"vocoder": speaker.vocoder}, compute.tts_actors)
    return {"said": said, "heard": heard}
