"""Stage `encoder`: the units of an own HuBERT: k-means of a layer's features, measured on phones.

PNMI is measured on text that no stage trained on, beside that of MFCCs, the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from slamray import store
from slamray.config.speech import EncoderSettings
from slamray.config.tree import Recipe
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import spoken_audio
from slamray.stages.checkpoints import MODEL
from slamray.stages.hubert_training import SECOND, features

NAME = "encoder"
CENTROIDS = "centroids.safetensors"


@dataclass(frozen=True)
class Clustering:
    """How units are made of a model's features."""

    layer: int
    n_units: int
    frames: int  # that the k-means is fitted on
    seed: int


@dataclass(frozen=True)
class OwnEncoderFacts:
    """PNMI and purity of the units, and of as many clusters of MFCCs."""

    units: Mapping[str, float]
    mfcc: Mapping[str, float]


def stage(recipe: Recipe, spoken: Stage, second: Stage) -> Stage:
    """From the second HuBERT and the recordings that its k-means is fitted on."""
    encoder = recipe.assets.encoder
    settings = {
        "layer": encoder.layer,
        "n_units": encoder.n_units,
        "frames": encoder.kmeans_frames,
        "seed": encoder.seed,
    }
    return Stage(NAME, run, settings, (spoken, second))


def run(
    inputs: Inputs, out: Folder, machine: Machine, layer: int, n_units: int, frames: int, seed: int
) -> OwnEncoderFacts:
    """k-means on iteration 2's features, and how well units, and MFCCs, tell phones apart."""
    clustering = Clustering(layer, n_units, frames, seed)
    model, audio = inputs[SECOND] / MODEL, inputs["recordings"]
    work = partial(_fit, clustering, machine.compute.device, audio, model, out)
    facts: OwnEncoderFacts = machine.call(NAME, work, gpus=1 if machine.compute.device == "cuda" else 0)
    return facts


def settings_of(folder: Folder, layer: int) -> EncoderSettings:
    """The encoder that this stage has made in a folder."""
    model = folder.fetch(MODEL)
    return EncoderSettings(model=str(model), centroids=str(model / CENTROIDS), layer=layer)


def _fit(clustering: Clustering, device: str, audio: Folder, model: Folder, out: Folder) -> OwnEncoderFacts:
    found: list[OwnEncoderFacts] = []
    out.write_tree(MODEL, lambda target: found.append(_fit_at(clustering, device, audio, model.fetch(), target)))
    return found[0]


def _fit_at(clustering: Clustering, device: str, audio: Folder, model: Path, target: Path) -> OwnEncoderFacts:
    import torch
    from transformers import HubertModel

    from slamray.speech.encoders.centroids import save_centroids
    from slamray.speech.encoders.kmeans import Quantiser, fit_kmeans

    HubertModel.from_pretrained(model, dtype=torch.float16).save_pretrained(target)  # half the size, to be shipped
    layer, seed = clustering.layer, clustering.seed
    train = np.concatenate(list(features(target, layer, device, audio, "train")))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train))[: clustering.frames])
    centroids_KD = fit_kmeans(torch.from_numpy(train[chosen]), clustering.n_units, seed, device)
    save_centroids(target / CENTROIDS, centroids_KD, store.sha256_of(target / "model.safetensors"), layer)
    quantiser = Quantiser(centroids_KD, device)
    units = [quantiser.assign(feats_TD) for feats_TD in features(target, layer, device, audio, "evaluation")]
    return OwnEncoderFacts(_measure(audio, units), _measure(audio, _mfcc_units(clustering, audio)))


def _mfcc_units(clustering: Clustering, audio: Folder) -> list[np.ndarray]:
    """The baseline: units of 39-dimensional MFCCs, each dimension scaled to unit variance."""
    import torch

    from slamray.speech.encoders.kmeans import Quantiser, fit_kmeans
    from slamray.train.cluster_targets import as_float, mfcc_39

    def mfccs(split: str) -> list[torch.Tensor]:
        return [mfcc_39(as_float(document.audio)) for document in spoken_audio.read(audio, split)]

    train = torch.cat(mfccs("train"))[: clustering.frames]
    scale = 1 / train.std(0)
    quantiser = Quantiser(fit_kmeans(train * scale, clustering.n_units, clustering.seed))
    return [quantiser.assign(rows * scale) for rows in mfccs("evaluation")]


def _measure(audio: Folder, units: Sequence[np.ndarray]) -> dict[str, float]:
    """PNMI and purity of frame-wise units on the evaluation recordings; a frame's phone is the one at its middle."""
    from slamray.evaluate.pnmi import frame_phones, pnmi

    spans = [document.phones for document in spoken_audio.read(audio, "evaluation")]
    frame_seconds = 0.04  # 25 Hz, as nano_config's strides
    phones = [p for row, found in zip(units, spans, strict=True) for p in frame_phones(found, len(row), frame_seconds)]
    return pnmi(phones, np.concatenate(units))
