"""Recordings of one speaker and their units, end to end: what both decoders are trained on.

Shapes: T unit frames, R runs (deduplicated units), B crops.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from slamray.errors import BadInput
from slamray.speech.decoders.source_filter import MAX_DURATION
from slamray.stage.folder import Folder, Root
from slamray.stage.work import CHECKPOINTS
from slamray.train.ranks import made_once

Recording = tuple[np.ndarray, np.ndarray]  # units of every frame (T,), audio (samples,) int16 or float32 at 16 kHz
STREAM = "stream.safetensors"  # beside the checkpoints: gone when training has ended


@dataclass(frozen=True)
class UnitStream:
    """All recordings end to end: they begin and end in silence, so a crop may cross from one to the next."""

    units_T: torch.Tensor  # int64
    runs_R: torch.Tensor
    durations_R: torch.Tensor  # in frames, int64

    @classmethod
    def of(cls, units: np.ndarray, n_units: int, who: str) -> UnitStream:
        """BadInput when a unit is none of n_units."""
        units_T = torch.as_tensor(units.astype(np.int64))
        if int(units_T.max()) >= n_units:
            raise BadInput(f"{who}: unit {int(units_T.max())} in the recordings, but n_units={n_units}")
        return cls(units_T, *torch.unique_consecutive(units_T, return_counts=True))

    def durations(self, runs_BR: torch.Tensor) -> torch.Tensor:
        """Durations float32 of runs given by their index, at most MAX_DURATION frames."""
        return self.durations_R[runs_BR].clamp(max=MAX_DURATION).float()


def stream_once(
    out: Root, recordings: Iterable[Recording], arrays: Callable[[Iterator[Recording]], dict[str, np.ndarray]], who: str
) -> dict[str, np.ndarray]:
    """`arrays(recordings)`, by rank 0 at the first start alone: elsewhere the recordings are not even read.

    out: the training's folder. BadInput when there are no recordings.
    """

    def make() -> dict[str, np.ndarray]:
        read = iter(recordings)
        first = next(read, None)
        if first is None:
            raise BadInput(f"{who}: no recordings to train on; give some minutes of speech of one voice")
        return arrays(itertools.chain([first], read))

    return made_once(Folder(out) / CHECKPOINTS, STREAM, make)


def fit(audio: np.ndarray, samples: int) -> np.ndarray:
    """Audio cut or padded with zeros: an encoder drops or adds part of a frame at the end."""
    return np.pad(audio, (0, max(0, samples - len(audio))))[:samples]
