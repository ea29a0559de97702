"""Stages `hubert_1`, `hubert_2` and `encoder`: an own HuBERT, the HuBERT way, and its k-means, measured on phones.

hubert_1 predicts k-means clusters of MFCCs under masking, hubert_2 clusters of hubert_1's features (Hsu et al. 2021);
encoder fits the units on hubert_2's features and measures PNMI on text that no stage trained on. The loops are imported
where they run: on a worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from slamray.config.assets import EncoderTrainingSettings, HubertTrainingSettings
from slamray.config.compute import Compute
from slamray.runtime.engine import Engine
from slamray.stage import store
from slamray.stage.stage import Facts, Folders
from slamray.stage.work import Metrics, Report
from slamray.stages import recordings

MODEL = "model"
CENTROIDS = "centroids.safetensors"


def first(folders: Folders, out: Path, config: EncoderTrainingSettings, engine: Engine) -> Facts:
    """Iteration 1: clusters of MFCCs."""
    return engine.train("hubert_1", partial(_first, config, engine.compute, folders["recordings"], out), out)


def second(folders: Folders, out: Path, config: EncoderTrainingSettings, engine: Engine) -> Facts:
    """Iteration 2: clusters of iteration 1's features; starts from iteration 1's weights."""
    loop = partial(_second, config, engine.compute, folders["recordings"], folders["hubert_1"] / MODEL, out)
    return engine.train("hubert_2", loop, out)


def fit(folders: Folders, out: Path, config: EncoderTrainingSettings, engine: Engine) -> Facts:
    """k-means on iteration 2's features, and how well units, and MFCCs, tell phones apart."""
    work = partial(_fit, config, engine.compute.device, folders["recordings"], folders["hubert_2"] / MODEL, out)
    return engine.call("encoder", work)


def _first(config: EncoderTrainingSettings, compute: Compute, audio: Path, out: Path, report: Report) -> Metrics:
    from slamray.train.cluster_targets import targets_from_mfcc, targets_once

    audios = [pcm for _, pcm, _ in recordings.read(audio, "train")]
    targets = targets_once(out, lambda: targets_from_mfcc(audios, config.mfcc_clusters, config.seed))
    return _train(audios, targets, config.first, compute, out, report)


def _second(
    config: EncoderTrainingSettings, compute: Compute, audio: Path, before: Path, out: Path, report: Report
) -> Metrics:
    from slamray.train.cluster_targets import targets_from_features, targets_once

    def make() -> list[np.ndarray]:
        features = list(_features(before, config.feature_layer, compute.device, audio, "train"))
        return targets_from_features(features, config.feature_clusters, config.seed)

    audios = [pcm for _, pcm, _ in recordings.read(audio, "train")]
    return _train(audios, targets_once(out, make), config.second, compute, out, report, before)


def _train(
    audios: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    training: HubertTrainingSettings,
    compute: Compute,
    out: Path,
    report: Report,
    start: Path | None = None,
) -> Metrics:
    from transformers import HubertModel

    from slamray.train.masked_prediction import nano_config, train_hubert

    init = HubertModel.from_pretrained(start) if start else None
    facts = train_hubert(audios, targets, nano_config(), training, compute, out, report, init)
    return facts | {"recordings": len(audios), "audio_seconds": round(sum(map(len, audios)) / 16_000, 1)}


def _features(model: Path, layer: int, device: str, audio: Path, split: str) -> Iterator[np.ndarray]:
    """float32 (T, D) of each recording, one at a time."""
    from slamray.speech.encoders.hubert import HubertEncoder
    from slamray.train.masked_prediction import nano_config, pad_samples

    encoder = HubertEncoder(model, layer, device, pad_samples=pad_samples(nano_config()))
    for _, pcm, _ in recordings.read(audio, split):
        yield encoder([pcm.astype(np.float32) / 32768])[0]


def _fit(config: EncoderTrainingSettings, device: str, audio: Path, model: Path, out: Path) -> Facts:
    import torch
    from transformers import HubertModel

    from slamray.speech.encoders.kmeans import Quantiser, fit_kmeans, save_centroids

    target = out / MODEL
    HubertModel.from_pretrained(model, dtype=torch.float16).save_pretrained(target)  # half the size, to be shipped
    train = np.concatenate(list(_features(target, config.layer, device, audio, "train")))
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(train))[: config.kmeans_frames])
    centroids_KD = fit_kmeans(torch.from_numpy(train[chosen]), config.n_units, config.seed, device)
    save_centroids(target / CENTROIDS, centroids_KD, store.sha256_of(target / "model.safetensors"), config.layer)
    quantiser = Quantiser(centroids_KD, device)
    units = [quantiser.assign(feats_TD) for feats_TD in _features(target, config.layer, device, audio, "evaluation")]
    return {"units": _measure(audio, units), "mfcc": _measure(audio, _mfcc_units(config, audio))}


def _mfcc_units(config: EncoderTrainingSettings, audio: Path) -> list[np.ndarray]:
    """The baseline: units of 39-dimensional MFCCs, each dimension scaled to unit variance."""
    import torch

    from slamray.speech.encoders.kmeans import Quantiser, fit_kmeans
    from slamray.train.cluster_targets import as_float, mfcc_39

    train = torch.cat([mfcc_39(as_float(pcm)) for _, pcm, _ in recordings.read(audio, "train")])[: config.kmeans_frames]
    scale = 1 / train.std(0)
    quantiser = Quantiser(fit_kmeans(train * scale, config.n_units, config.seed))
    return [quantiser.assign(mfcc_39(as_float(pcm)) * scale) for _, pcm, _ in recordings.read(audio, "evaluation")]


def _measure(audio: Path, units: Sequence[np.ndarray]) -> dict[str, float]:
    """PNMI and purity of frame-wise units on the evaluation recordings; a frame's phone is the one at its middle."""
    from slamray.evaluate.pnmi import frame_phones, pnmi
    from slamray.speech.voices.base import Span

    spans = [[Span(**span) for span in phones] for _, _, phones in recordings.read(audio, "evaluation")]
    frame_seconds = 0.04  # 25 Hz, as nano_config's strides
    phones = [p for row, found in zip(units, spans, strict=True) for p in frame_phones(found, len(row), frame_seconds)]
    return pnmi(phones, np.concatenate(units))
