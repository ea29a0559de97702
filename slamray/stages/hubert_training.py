"""Stages `hubert_1` and `hubert_2`: an own HuBERT, the HuBERT way.

hubert_1 predicts k-means clusters of MFCCs under masking, hubert_2 clusters of hubert_1's features (Hsu et al. 2021).
The loops are imported where they run: on a worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from slamray.config.assets import HubertTrainingSettings
from slamray.config.compute import Compute
from slamray.config.speech import EncoderSettings
from slamray.config.tree import Recipe
from slamray.speech.audio import RATE_HZ, from_pcm
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine, Metrics, Report
from slamray.stages import spoken_audio
from slamray.stages.checkpoints import MODEL

FIRST, SECOND = "hubert_1", "hubert_2"


def first_stage(recipe: Recipe, spoken: Stage) -> Stage:
    """Iteration 1."""
    encoder = recipe.assets.encoder
    targets = {"clusters": [encoder.mfcc_clusters], "seed": encoder.seed, "layer": None}
    return Stage(FIRST, run, {"training": encoder.first, **targets}, (spoken,))


def second_stage(recipe: Recipe, spoken: Stage, first: Stage) -> Stage:
    """Iteration 2 starts from the weights of iteration 1."""
    encoder = recipe.assets.encoder
    targets = {"clusters": encoder.feature_clusters, "seed": encoder.seed, "layer": encoder.feature_layer}
    return Stage(SECOND, run, {"training": encoder.second, **targets}, (spoken, first))


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    training: HubertTrainingSettings,
    clusters: Sequence[int],
    seed: int,
    layer: int | None,
) -> Metrics:
    """Train one iteration; `out/model` is a transformers checkpoint.

    clusters: of each codebook that is predicted; seed: of their k-means; layer: whose features are clustered, none for
    MFCCs.
    """
    name, before = (SECOND, inputs[FIRST] / MODEL) if FIRST in inputs else (FIRST, None)
    targets = Targets(tuple(clusters), seed, layer, before)
    loop = partial(_train, training, targets, machine.compute, inputs["recordings"], out)
    return machine.train(name, loop, out)


@dataclass(frozen=True)
class Targets:
    """What is predicted: clusters of MFCCs, or of a layer's features of the model in a folder."""

    clusters: tuple[int, ...]
    seed: int
    layer: int | None
    model: Folder | None

    def of(self, audio: Folder, device: str) -> list[np.ndarray]:
        """int64 (T, codebooks) of each training recording."""
        from slamray.train.cluster_targets import targets_from_features, targets_from_mfcc

        if self.model is None or self.layer is None:
            recordings = [document.audio for document in spoken_audio.read(audio, "train")]
            return targets_from_mfcc(recordings, self.clusters[0], self.seed)
        found = list(features(self.model.fetch(), self.layer, device, audio, "train"))
        return targets_from_features(found, self.clusters, self.seed)


def _train(
    training: HubertTrainingSettings, targets: Targets, compute: Compute, audio: Folder, out: Folder, report: Report
) -> Metrics:
    from transformers import HubertModel

    from slamray.train.cluster_targets import targets_once
    from slamray.train.masked_prediction import nano_config, train_hubert

    recordings = [document.audio for document in spoken_audio.read(audio, "train")]
    found = targets_once(out, lambda: targets.of(audio, compute.device))
    init = HubertModel.from_pretrained(targets.model.fetch()) if targets.model else None
    facts = train_hubert(recordings, found, nano_config(), training, compute, out, report, init)
    return facts | {"recordings": len(recordings), "audio_seconds": round(sum(map(len, recordings)) / RATE_HZ, 1)}


def features(model: Path, layer: int, device: str, audio: Folder, split: str) -> Iterator[np.ndarray]:
    """float32 (T, D) of each recording of a split, one at a time."""
    from slamray.speech.encoders.table import open_features
    from slamray.train.masked_prediction import nano_config, pad_samples

    encoder = EncoderSettings(model=str(model), layer=layer, pad_samples=pad_samples(nano_config()))
    hear = open_features(encoder, device)
    for document in spoken_audio.read(audio, split):
        yield hear([from_pcm(document.audio)])[0]
