"""Features to units: k-means in torch, run lengths.

Shapes: N frames in all, T frames of one recording, K centroids, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from slamray.config.speech import EncoderSettings
from slamray.errors import BadInput
from slamray.speech.audio import RATE_HZ
from slamray.speech.encoders.base import KEY, Features
from slamray.speech.encoders.centroids import load_centroids
from slamray.speech.fetch import place_of

CHUNK = 65536  # frames whose distances to all centroids are held at once: 131 MB at 500 centroids; chosen, not tuned
SEEDS_FROM = 20_000  # frames from which k-means++ draws its seeds; chosen, not tuned
MAX_UNITS = 2**16  # units are stored as uint16


class Quantiser:
    """Nearest centroid by Euclidean distance, one matrix product for a recording.

    centroids_KD: float32.
    """

    def __init__(self, centroids_KD: torch.Tensor, device: str = "cpu") -> None:
        assert centroids_KD.ndim == 2 and len(centroids_KD) <= MAX_UNITS
        self.centroids_KD = centroids_KD.to(device, torch.float32)
        self._half_norms_K = self.centroids_KD.square().sum(1) / 2

    def assign(self, feats_TD: np.ndarray | torch.Tensor) -> np.ndarray:
        """Units uint16 (T,). BadInput when the centroids are of another width than the features."""
        feats = torch.as_tensor(feats_TD)
        if feats.shape[1] != self.centroids_KD.shape[1]:
            raise BadInput(
                f"centroids are {self.centroids_KD.shape[1]} wide, features {feats.shape[1]}: use the encoder and the "
                "layer that the centroids were fitted on"
            )
        return self._nearest(feats)[0].cpu().numpy().astype(np.uint16)

    def _nearest(self, feats_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Index of the nearest centroid, and half the squared distance to it minus half the frame's squared norm."""
        index, score = [], []
        for chunk in feats_ND.split(CHUNK):
            chunk = chunk.to(self.centroids_KD.device, torch.float32)
            found = torch.addmm(self._half_norms_K, chunk, self.centroids_KD.T, alpha=-1).min(1)
            index.append(found.indices)
            score.append(found.values)
        if not index:
            return torch.zeros(0, dtype=torch.long), torch.zeros(0)
        return torch.cat(index), torch.cat(score)


def open_quantiser(settings: EncoderSettings, device: str) -> Quantiser:
    """The k-means that the settings name. BadInput when its file is damaged or something else."""
    return Quantiser(load_centroids(place_of(settings.centroids, f"{KEY}.centroids")), device)


class KMeansEncoder:
    """An encoder (base.py) made of features and their k-means."""

    def __init__(self, features: Features, quantiser: Quantiser) -> None:
        self._features, self._quantiser = features, quantiser
        self.n_units = len(quantiser.centroids_KD)
        self.rate_hz, self.hop_samples = features.rate_hz, features.hop_samples
        self.min_samples = features.min_samples

    def __call__(self, audios: Sequence[np.ndarray], batch_seconds: float) -> list[np.ndarray]:
        """See Encoder; recordings of like lengths are batched together."""
        units: dict[int, np.ndarray] = {}
        for batch in _batches([len(audio) for audio in audios], int(batch_seconds * RATE_HZ)):
            for place, feats_TD in zip(batch, self._features([audios[place] for place in batch]), strict=True):
                units[place] = self._quantiser.assign(feats_TD)
        return [units[place] for place in range(len(audios))]


def _batches(lengths: Sequence[int], at_most: int) -> Iterator[list[int]]:
    """Places of the lengths, shortest first; a batch's longest times its size is at most that, one is always in it."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and (len(batch) + 1) * lengths[place] > at_most:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def fit_kmeans(feats_ND: torch.Tensor, k: int, seed: int, device: str = "cpu", iterations: int = 30) -> torch.Tensor:
    """Centroids float32 (K, D) of Lloyd's algorithm from k-means++ seeds (Arthur and Vassilvitskii 2007).

    A cluster that loses all its frames restarts at one of the frames that are furthest from their centroids.
    BadInput when there are fewer frames than centroids.
    """
    if len(feats_ND) < k:
        raise BadInput(f"{len(feats_ND)} frames are too few for {k} centroids; give more audio or fewer centroids")
    generator = torch.Generator().manual_seed(seed)
    feats = feats_ND.to(device, torch.float32)
    some = feats[torch.randperm(len(feats), generator=generator)[: max(SEEDS_FROM, k)].to(device)]
    centroids = _seeds(some, k, generator)
    norms = feats.square().sum(1) / 2
    for _ in range(iterations):
        index, score = Quantiser(centroids, device)._nearest(feats)
        counts = torch.bincount(index, minlength=k)
        sums = torch.zeros_like(centroids).index_add_(0, index, feats)
        centroids = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero().ravel()
        centroids[empty] = feats[(score + norms).topk(len(empty)).indices]
    return centroids.cpu()


def _seeds(feats_ND: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++: each next seed is drawn in proportion to its squared distance from the seeds so far."""
    chosen = [int(torch.randint(len(feats_ND), (1,), generator=generator))]
    distance = (feats_ND - feats_ND[chosen[0]]).square().sum(1)
    while len(chosen) < k:
        weights = distance.cpu().double()
        drawn = torch.searchsorted(weights.cumsum(0), torch.rand(1, generator=generator).double() * weights.sum())
        chosen.append(min(int(drawn), len(feats_ND) - 1))
        distance = torch.minimum(distance, (feats_ND - feats_ND[chosen[-1]]).square().sum(1))
    return feats_ND[chosen].clone()


def deduplicate(units_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units without immediate repeats, and the length of each run in frames; both uint16.

    A run longer than uint16 holds (44 minutes of one unit) is cut into several.
    """
    units = np.asarray(units_T)
    changes = np.flatnonzero(units[1:] != units[:-1]) + 1
    edges = np.concatenate([[0], changes, [len(units)]]) if len(units) else np.zeros(1, np.int64)
    longest = np.iinfo(np.uint16).max
    cuts = [np.arange(a, b, longest) for a, b in pairwise(edges) if b - a > longest]
    starts = np.unique(np.concatenate([edges[:-1], *cuts])).astype(np.int64)
    durations = np.diff(np.append(starts, len(units)))
    return units[starts].astype(np.uint16), durations.astype(np.uint16)


def expand(units: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """The inverse of `deduplicate`: uint16 (T,)."""
    return np.repeat(np.asarray(units, np.uint16), durations)
