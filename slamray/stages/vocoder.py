"""Stage `vocoder`: a decoder from units to sound, trained on spoken documents and their units.

Two kinds, one folder and one call (`speech.vocode.load_vocoder`): the source-filter decoder, and a HiFi-GAN.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from slamray.config.assets import AssetsSettings
from slamray.config.compute import Compute
from slamray.config.speech import EncoderSettings
from slamray.runtime.engine import Engine
from slamray.stage.stage import Facts, Folders
from slamray.stage.work import Metrics, Report
from slamray.stages import recordings
from slamray.stages.encoder import CENTROIDS

MODEL = "model"
MEASURED_DOCUMENTS = 12  # evaluation stories, 10 minutes; chosen, not tuned


def encoder_of(folders: Folders, config: AssetsSettings, given: EncoderSettings) -> EncoderSettings:
    """The encoder that this run has trained, or else the given one."""
    if "encoder" not in folders:
        return given
    model = folders["encoder"] / MODEL
    return EncoderSettings(model=str(model), centroids=str(model / CENTROIDS), layer=config.encoder.layer)


class Heard:
    """Stored recordings as an encoder hears them."""

    def __init__(self, audio: Path, encoder: EncoderSettings) -> None:
        from slamray.stages.encode_kernel import open_encoder

        self._hubert, self._quantiser = open_encoder(encoder, "cpu")
        self.n_units, self.hop_samples = len(self._quantiser.centroids_KD), self._hubert.hop_samples
        self._audio = audio

    def read(self, split: str, at_most: int | None = None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(doc_id, unit of every frame, int16 audio) of each recording, by order of id."""
        for doc_id, pcm, _ in itertools.islice(recordings.read(self._audio, split), at_most):
            yield doc_id, self._quantiser.assign(self._hubert([pcm.astype(np.float32) / 32768])[0]), pcm


def run(folders: Folders, out: Path, config: AssetsSettings, given: EncoderSettings, engine: Engine) -> Facts:
    """Train on training recordings; measure on evaluation recordings."""
    work = partial(_run, config, engine.compute, folders["recordings"], encoder_of(folders, config, given), out)
    return engine.train("vocoder", work, out)


def _run(
    config: AssetsSettings, compute: Compute, audio: Path, encoder: EncoderSettings, out: Path, report: Report
) -> Metrics:
    """Facts on rank 0, which alone saves and measures."""
    heard = Heard(audio, encoder)
    return (_train_hifigan if config.decoder == "hifigan" else _train_source_filter)(
        config, compute, heard, out, report
    )


def _train_source_filter(config: AssetsSettings, compute: Compute, heard: Heard, out: Path, report: Report) -> Metrics:
    from slamray.train.ranks import rank_and_world
    from slamray.train.source_filter_training import measure_vocoder, train_vocoder

    def pairs(split: str, at_most: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((units, pcm.astype(np.float32) / 32768) for _, units, pcm in heard.read(split, at_most))

    train = pairs("train", config.vocoder.documents)
    vocoder, facts = train_vocoder(train, heard.n_units, heard.hop_samples, config.vocoder, compute, out, report)
    if rank_and_world()[0] > 0:
        return facts
    vocoder.save(out / MODEL)
    return facts | measure_vocoder(vocoder, list(pairs("evaluation")))


def _train_hifigan(config: AssetsSettings, compute: Compute, heard: Heard, out: Path, report: Report) -> Metrics:
    from slamray.train.hifigan_training import measure_audio, train_unit_vocoder
    from slamray.train.ranks import rank_and_world

    train = ((units, pcm) for _, units, pcm in heard.read("train", config.unit_vocoder.documents))
    vocoder, facts = train_unit_vocoder(
        train, heard.n_units, heard.hop_samples, config.unit_vocoder, compute, out, report
    )
    if rank_and_world()[0] > 0:
        return facts
    vocoder.save(out / MODEL)
    kept = [(units, pcm) for _, units, pcm in heard.read("evaluation", MEASURED_DOCUMENTS)]
    return facts | measure_audio(vocoder, kept, heard.hop_samples)
