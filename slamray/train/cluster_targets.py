"""What masked prediction predicts: k-means clusters of MFCCs, then of features (Hsu et al. 2021, section II-A).

Shapes: T frames, H codebooks (targets of one frame), D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torchaudio

from slamray.speech.encoders.kmeans import Quantiser, fit_kmeans
from slamray.stage.folder import Folder, Root
from slamray.stage.work import CHECKPOINTS
from slamray.train.ranks import made_once

RATE_HZ = 16_000
HOP = 640  # samples of a frame, 40 ms: 25 frames a second, as slprl/mhubert-base-25hz
TARGETS = "targets.safetensors"  # beside the checkpoints: gone when training has ended


def targets_once(out: Root, make: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Targets of each recording, made by rank 0 at the first start and read by every rank and every restart.

    out: the training's folder. So ranks never differ in them, and no k-means is fitted anew.
    """
    checkpoints = Folder(out) / CHECKPOINTS
    arrays = made_once(checkpoints, TARGETS, lambda: {f"{number:08d}": one for number, one in enumerate(make())})
    return [arrays[name] for name in sorted(arrays)]


def mfcc_39(audio: torch.Tensor) -> torch.Tensor:
    """13 MFCCs with first and second differences, (T, 39) float32, one row for each whole 40 ms; at the frame's middle.

    audio: float32 (samples,) at 16 kHz.
    """
    return mfcc_100hz(audio)[2::4][: len(audio) // HOP]


def mfcc_100hz(audio: torch.Tensor) -> torch.Tensor:
    """(4 T + 1, 39): row j has its window's middle at sample j x 160, so 4 i + 2 is the middle of frame i."""
    settings = {"n_fft": 400, "hop_length": 160, "n_mels": 40, "center": True}  # 25 ms and 10 ms, as Kaldi
    coefficients = torchaudio.transforms.MFCC(RATE_HZ, n_mfcc=13, melkwargs=settings)(audio)
    deltas = torchaudio.functional.compute_deltas(coefficients)
    return torch.cat([coefficients, deltas, torchaudio.functional.compute_deltas(deltas)]).T


def targets_from_mfcc(audios: Sequence[np.ndarray], k: int, seed: int, fit_seconds: float = 7200) -> list[np.ndarray]:
    """Iteration 1: int64 (T, 3) for each audio, the clusters of the MFCCs 10, 20 and 30 ms into each 40 ms frame."""
    rows = []
    for audio in audios:
        frames = len(audio) // HOP
        quarters = mfcc_100hz(as_float(audio))[: 4 * frames].reshape(frames, 4, 39)
        rows.append(quarters[:, 1:].reshape(frames * 3, 39))
    return _clusters(rows, k, seed, int(fit_seconds * 75), per_frame=3)


def targets_from_features(
    features: Sequence[np.ndarray], ks: Sequence[int], seed: int, fit_seconds: float = 5400
) -> list[np.ndarray]:
    """Later iterations: int64 (T, H) for each recording: the clusters of its features (T, D), one codebook for each k.

    Several codebooks are HuBERT's cluster ensembles (section III-C).
    """
    rows = [torch.as_tensor(f) for f in features]
    books = [_clusters(rows, k, seed, int(fit_seconds * RATE_HZ / HOP), per_frame=1) for k in ks]
    return [np.concatenate(parts, axis=1) for parts in zip(*books, strict=True)]


def _clusters(rows: list[torch.Tensor], k: int, seed: int, fit_rows: int, per_frame: int) -> list[np.ndarray]:
    """k-means on a seeded choice of `fit_rows` rows, each dimension scaled to unit variance; clusters of all rows."""
    everything = torch.cat(rows)
    chosen = np.random.default_rng(seed).permutation(len(everything))[:fit_rows]
    some = everything[np.sort(chosen)].float()
    scale = 1 / some.std(0).clamp(min=1e-6)
    quantiser = Quantiser(fit_kmeans(some * scale, k, seed))
    return [quantiser.assign(r.float() * scale).astype(np.int64).reshape(-1, per_frame) for r in rows]


def as_float(audio: np.ndarray) -> torch.Tensor:
    """Audio as float32 in [-1, 1); int16 is scaled."""
    values = torch.from_numpy(np.asarray(audio, np.float32))
    return values / 32768 if audio.dtype == np.int16 else values
