"""What all decoders have in common: units to sound."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Decoder(Protocol):
    """Units to audio. The same units give the same samples.

    rate_hz: of the audio. hop_samples: samples of one frame of units.
    """

    @property
    def rate_hz(self) -> int: ...

    @property
    def hop_samples(self) -> int: ...

    def durations(self, units: np.ndarray) -> np.ndarray:
        """Predicted durations in frames, int64 (T,), at least 1, of deduplicated units (T,)."""

    def __call__(self, units: np.ndarray, durations: np.ndarray | None = None) -> np.ndarray:
        """Audio float32 (samples,), sum(durations) * hop_samples long. BadInput for units that it does not know.

        units: deduplicated, or of every frame with durations of 1. durations: in frames; predicted if None.
        """
