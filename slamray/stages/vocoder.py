"""Stage `vocoder`: the small unit-to-waveform decoder, trained on spoken documents and their units."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from slamray.config import VocoderConfig
from slamray.runtime.engine import Engine
from slamray.runtime.pool import Metrics, Report
from slamray.stage import Facts, Folders
from slamray.stages import recordings
from slamray.stages.encoder import CENTROIDS

MODEL = "model"


def run(folders: Folders, out: Path, config: VocoderConfig, layer: int, engine: Engine) -> Facts:
    """Train on training recordings; measure on evaluation recordings."""
    one = engine.compute.model_copy(
        update={"workers": 1, "cpus_per_worker": engine.compute.workers * engine.compute.cpus_per_worker}
    )
    return engine.train(
        "vocoder", partial(_run, config, layer, folders["recordings"], folders["encoder"] / MODEL, out), out, one
    )


def _run(config: VocoderConfig, layer: int, audio: Path, model: Path, out: Path, report: Report) -> Metrics:
    from slamray.speech.hubert import HubertEncoder
    from slamray.speech.quantise import Quantiser, load_centroids
    from slamray.speech.vocode import measure_vocoder, train_vocoder
    from slamray.train.hubert import nano_config, pad_samples

    hubert = HubertEncoder(model, layer, pad_samples=pad_samples(nano_config()))
    centroids_KD = load_centroids(model / CENTROIDS)
    quantiser = Quantiser(centroids_KD)

    def pairs(split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(unit of every frame, float32 audio) of each recording."""
        for _, pcm, _ in recordings.read(audio, split):
            sound = pcm.astype(np.float32) / 32768
            yield quantiser.assign(hubert([sound])[0]), sound

    train = list(itertools.islice(pairs("train"), config.documents))
    vocoder = train_vocoder(train, len(centroids_KD), hubert.hop_samples, config, report)
    vocoder.save(out / MODEL)
    return measure_vocoder(vocoder, list(pairs("evaluation")))
