"""The one way to open an encoder: a HuBERT's features of one layer, and the k-means that turns them into units."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from slamray import store
from slamray.config.base import asset_path
from slamray.config.outside import file_content, model_content
from slamray.config.speech import EncoderSettings
from slamray.errors import BadInput
from slamray.speech.audio import RATE_HZ
from slamray.speech.hub import model_folder
from slamray.tokens.vocabulary import Vocabulary

CENTROIDS = "centroids_KD"
KEY = "speech.encoder"


@dataclass(frozen=True)
class EncoderFacts:
    """What is known of an encoder before its weights are loaded."""

    n_units: int
    rate_hz: float  # frames per second
    centroids: str  # SHA-256 of the matrix: a unit is a centroid, so this is who the units are

    @property
    def vocabulary(self) -> Vocabulary:
        """The unit-only vocabulary of this encoder's units."""
        return Vocabulary.of_units(self.n_units, self.centroids)


class Encoder:
    """Audio (float32, 16 kHz) to the unit of every frame."""

    def __init__(self, settings: EncoderSettings, device: str) -> None:
        import torch

        from slamray.speech.encoders.hubert import HubertEncoder
        from slamray.speech.encoders.kmeans import Quantiser, load_centroids

        dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
        self.hubert = HubertEncoder(
            asset_path(settings.model),
            settings.layer,
            device,
            dtype,
            pad_samples=settings.pad_samples,
            revision=settings.revision,
        )
        self.quantiser = Quantiser(load_centroids(Path(asset_path(settings.centroids))), device)
        self.n_units = len(self.quantiser.centroids_KD)
        self.rate_hz, self.hop_samples = self.hubert.rate_hz, self.hubert.hop_samples
        self.min_samples = self.hubert.min_samples

    def __call__(self, audios: Sequence[np.ndarray], batch_seconds: float) -> list[np.ndarray]:
        """Units (T,) of each recording, in batches of like lengths that hold at most so many padded seconds.

        BadInput for audio shorter than one frame.
        """
        units: dict[int, np.ndarray] = {}
        for batch in _batches([len(audio) for audio in audios], int(batch_seconds * RATE_HZ)):
            for place, feats_TD in zip(batch, self.hubert([audios[place] for place in batch]), strict=True):
                units[place] = self.quantiser.assign(feats_TD)
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


def check_encoder(settings: EncoderSettings) -> EncoderFacts:
    """Units and frame rate; BadInput for a folder without weights, a layer it lacks, centroids of another width."""
    key, tree = f"{KEY}.model", _config(settings)
    try:
        layers, width = tree["num_hidden_layers"], tree["hidden_size"]
        hop_samples = math.prod(tree["conv_stride"])
    except KeyError as error:
        raise BadInput(f"{key}={settings.model}: its config.json has no {error}; it is no HubertModel") from error
    if settings.layer > layers:
        raise BadInput(f"{KEY}.layer={settings.layer}: {settings.model} has {layers} layers")
    n_units, found, centroids = _centroids_of(settings)
    if found != width:
        raise BadInput(f"{KEY}.centroids={settings.centroids}: {found} wide, but {settings.model} gives {width}")
    return EncoderFacts(n_units, RATE_HZ / hop_samples, centroids)


def _config(settings: EncoderSettings) -> dict[str, Any]:
    """The model's config.json: of a folder as it lies there, of a hub id as it is fetched."""
    key, local = f"{KEY}.model", Path(asset_path(settings.model))
    if not local.is_dir():
        model_content(settings.model, settings.revision, key)
        found = model_folder(settings.model, settings.revision, ["config.json"], key)
        tree: dict[str, Any] = json.loads((found / "config.json").read_text())
        return tree
    if not (local / "config.json").is_file() or not [*local.glob("*.safetensors"), *local.glob("*.bin")]:
        raise BadInput(f"{key}={settings.model}: the folder lacks config.json or weights (model.safetensors)")
    config: dict[str, Any] = store.read_json(local / "config.json")
    return config


def _centroids_of(settings: EncoderSettings) -> tuple[int, int, str]:
    """How many there are, how wide they are, and the checksum of the matrix."""
    key = f"{KEY}.centroids"
    file_content(settings.centroids, key)  # BadInput where there is no such file
    try:
        with safe_open(Path(asset_path(settings.centroids)), "np") as file:
            rows, width = file.get_slice(CENTROIDS).get_shape()
            checksum = (file.metadata() or {}).get("sha256")
    except (SafetensorError, ValueError) as error:
        raise BadInput(f"{key}={settings.centroids}: no matrix {CENTROIDS} ({error})") from error
    if checksum is None:
        from slamray.speech.encoders.kmeans import checksum as checksum_of  # torch, which other files do not need
        from slamray.speech.encoders.kmeans import load_centroids

        checksum = checksum_of(load_centroids(Path(asset_path(settings.centroids))))
    return rows, width, checksum
