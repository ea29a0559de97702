"""What the report's continuations say: the words of their prompts, and what a recogniser hears after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile

from slamray.evaluate.metrics import READ
from slamray.evaluate.wer import Recogniser, has_recogniser
from slamray.speech.audio import RATE_HZ, resample
from slamray.stage.folder import Folder
from slamray.stage.tables import unit_parts
from slamray.stage.work import Machine
from slamray.stages.checkpoints import UNTRAINED
from slamray.stages.scoring import AUDIO


@dataclass(frozen=True)
class Continued:
    """A continuation that is kept as sound: `audio/{prompt_id}.flac` of the stage that has scored the checkpoint.

    said: the words that begin in the prompt, empty where its recording has no text. heard: what the recogniser heard
    from the prompt's end on; None where nobody has listened.
    """

    checkpoint: str
    prompt_id: str
    said: str
    heard: str | None

    @property
    def is_read(self) -> bool:
        """Whether its prompt was a text, so that the model alone sounds."""
        return self.prompt_id.startswith(READ)

    @property
    def file(self) -> str:
        return f"{AUDIO}/{self.prompt_id}.flac"


def listen_to(
    scored: Mapping[str, Folder], spoken: Folder, prompt_seconds: float, rate_hz: float, machine: Machine
) -> list[Continued]:
    """Every continuation of these checkpoints, in order; what is not trained yet says no words that one could hear.

    spoken: the stage whose utterances are the prompts. rate_hz: frames of the encoder in a second.
    """
    kept = {name: [name_of(file) for file in folder.names(f"{AUDIO}/*.flac")] for name, folder in scored.items()}
    said = words_before(spoken, {one for ids in kept.values() for one in ids}, prompt_seconds * rate_hz)

    def hear(name: str) -> list[str | None]:
        files = [scored[name] / AUDIO / f"{one}.flac" for one in kept[name]]
        starts = [0.0 if one.startswith(READ) else prompt_seconds for one in kept[name]]
        if name == UNTRAINED.stage or not files:
            return [None] * len(files)
        return list(machine.call(f"report: {name}", partial(recognise, files, starts)))

    with ThreadPoolExecutor(max(1, len(kept))) as side_by_side:  # a core each, half a second for one of sound
        heard = dict(zip(kept, side_by_side.map(hear, kept), strict=True))
    return [
        Continued(name, one, said.get(one, ""), text)
        for name, ids in kept.items()
        for one, text in zip(ids, heard[name], strict=True)
    ]


def name_of(file: str) -> str:
    """The prompt of a file of sound."""
    return file.rpartition("/")[2].removesuffix(".flac")


def words_before(spoken: Folder, utterance_ids: set[str], frame: float) -> dict[str, str]:
    """The words of utterances that begin before a frame, by id."""
    wanted = pc.field("utterance_id").isin(pa.array(sorted(utterance_ids), pa.string()))
    rows = [row for table in unit_parts(spoken, ["utterance_id", "words"], wanted) for row in table.to_pylist()]
    return {
        row["utterance_id"]: " ".join(word["text"] for word in row["words"] or () if word["start_frame"] < frame)
        for row in rows
    }


def recognise(files: Sequence[Folder], starts: Sequence[float]) -> list[str | None]:
    """What is heard in each file from its start on, in seconds; None where the recogniser is not installed."""
    if not has_recogniser():
        return [None] * len(files)
    listen = Recogniser()
    return [listen(_sound(file.fetch(), start)) for file, start in zip(files, starts, strict=True)]


def _sound(path: object, from_seconds: float) -> np.ndarray:
    audio, rate_hz = soundfile.read(path, dtype="float32")
    return resample(audio[int(from_seconds * rate_hz) :], rate_hz, RATE_HZ)
