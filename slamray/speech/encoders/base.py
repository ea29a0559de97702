"""What all encoders have in common: sound to units, features of a sound, and what is known before weights are loaded.

Shapes: T frames of one recording, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from slamray.config.base import PUBLISHED, UNKNOWN, asset_path
from slamray.config.outside import file_content
from slamray.config.published_files import published_files
from slamray.config.speech import EncoderSettings
from slamray.errors import BadInput
from slamray.given import reason_of
from slamray.tokens.vocabulary import Vocabulary

CENTROIDS = "centroids_KD"  # name of the k-means matrix in its safetensors file
KEY = "speech.encoder"


@dataclass(frozen=True)
class EncoderFacts:
    """What is known of an encoder before its weights are loaded.

    rate_hz: frames a second. centroids: the SHA-256 of the k-means matrix; a unit is a centroid, so it says who the
    units are.
    """

    n_units: int
    rate_hz: float
    centroids: str

    @property
    def vocabulary(self) -> Vocabulary:
        """The unit-only vocabulary of this encoder's units."""
        return Vocabulary.of_units(self.n_units, self.centroids)


class Encoder(Protocol):
    """Audio (float32, 16 kHz) to the unit of every frame.

    rate_hz: frames a second. hop_samples: from frame to frame. min_samples: the shortest audio that gives a frame.
    """

    n_units: int
    rate_hz: float
    hop_samples: int
    min_samples: int

    def __call__(self, audios: Sequence[np.ndarray], batch_seconds: float) -> list[np.ndarray]:
        """Units uint16 (T,) of each recording. BadInput for audio shorter than one frame.

        batch_seconds: of all recordings in a batch, with their padding; a longer recording is a batch by itself.
        """


class Features(Protocol):
    """Audio (float32, 16 kHz) to the features of every frame; width: of a frame. The rest is as in Encoder."""

    width: int
    rate_hz: float
    hop_samples: int
    min_samples: int

    def __call__(self, audios: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features float32 (T, D) of each recording. BadInput for audio shorter than one frame."""


def read_centroids(settings: EncoderSettings, width: int) -> tuple[int, str]:
    """How many units the k-means gives, and the checksum of its matrix; UNKNOWN of a published one not fetched yet.

    BadInput when there is none, or it is for features of another width.
    """
    key = f"{KEY}.centroids"
    if settings.centroids.startswith(PUBLISHED) and not Path(asset_path(settings.centroids)).exists():
        return published_files(settings.centroids, key).n_units, UNKNOWN
    file_content(settings.centroids, key)  # BadInput where there is no such file
    try:
        with safe_open(Path(asset_path(settings.centroids)), "np") as file:
            n_units, found = file.get_slice(CENTROIDS).get_shape()
            stated = (file.metadata() or {}).get("sha256")
            content = stated or checksum(file.get_tensor(CENTROIDS))
    except (SafetensorError, ValueError, OSError) as error:
        raise BadInput(f"{key}={settings.centroids}: no matrix {CENTROIDS} ({reason_of(error)})") from error
    if found != width:
        raise BadInput(f"{key}={settings.centroids}: {found} wide, but {settings.model} gives {width}")
    return int(n_units), content


def checksum(centroids_KD: np.ndarray) -> str:
    """SHA-256 of the matrix as float32, row by row, little-endian."""
    return hashlib.sha256(centroids_KD.astype("<f4").tobytes()).hexdigest()
