"""Stage `decoder`: a decoder from units to sound, trained on spoken documents and their units.

Two kinds, one folder and one call (`speech.decoders`): the source-filter decoder, and a HiFi-GAN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from slamray.config.assets import HifiganSettings, SourceFilterSettings
from slamray.config.compute import Compute
from slamray.config.speech import EncoderSettings
from slamray.config.tree import Recipe
from slamray.speech.audio import from_pcm
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine, Metrics, Report
from slamray.stages import own_encoder, spoken_audio
from slamray.stages.checkpoints import MODEL

NAME = "decoder"
DecoderSettings = SourceFilterSettings | HifiganSettings
MEASURED_DOCUMENTS = 12  # evaluation stories, 10 minutes; chosen, not tuned


class Heard:
    """Stored recordings as an encoder hears them."""

    def __init__(self, audio: Folder, encoder: EncoderSettings) -> None:
        from slamray.speech.encoders.table import open_encoder

        self._encoder, self._audio = open_encoder(encoder, "cpu"), audio
        self.n_units, self.hop_samples = self._encoder.n_units, self._encoder.hop_samples

    def read(self, split: str, at_most: int | None = None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(doc_id, unit of every frame, int16 audio) of each recording, by order of id."""
        for document in spoken_audio.read(self._audio, split, at_most):
            (units,) = self._encoder([from_pcm(document.audio)], batch_seconds=0)
            yield document.doc_id, units, document.audio


def stage(recipe: Recipe, spoken: Stage, encoder: Stage | None) -> Stage:
    """encoder: the stage that has trained one; none where the recipe's own speech.encoder is it."""
    assets = recipe.assets
    settings = {
        "decoder": assets.hifigan if assets.decoder == "hifigan" else assets.source_filter,
        **heard_by(recipe, encoder),
    }
    return Stage(NAME, run, settings, (spoken, encoder) if encoder else (spoken,))


def heard_by(recipe: Recipe, encoder: Stage | None) -> dict[str, Any]:
    """The settings of a stage that hears by the recipe's encoder, or by the one that was trained."""
    if encoder:
        return {"given": None, "layer": recipe.assets.encoder.layer}
    return {"given": recipe.speech.encoder, "layer": recipe.speech.encoder.layer}


@dataclass(frozen=True)
class Hearing:
    """The given encoder, or else the one that this run has trained, in the folder of its stage."""

    given: EncoderSettings | None
    trained: Folder | None
    layer: int

    def settings(self) -> EncoderSettings:
        """Where the encoder is used: a trained one is fetched there."""
        if self.given is not None:
            return self.given
        assert self.trained is not None
        return own_encoder.settings_of(self.trained, self.layer)


def encoder_of(inputs: Inputs, given: EncoderSettings | None, layer: int) -> Hearing:
    """The encoder of a stage that hears."""
    return Hearing(given, inputs.get(own_encoder.NAME), layer)


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    decoder: DecoderSettings,
    given: EncoderSettings | None,
    layer: int,
) -> Metrics:
    """Train on training recordings; measure on evaluation recordings."""
    encoder = encoder_of(inputs, given, layer)
    loop = partial(_train, decoder, encoder, machine.compute, inputs["recordings"], out)
    return machine.train(NAME, loop, out)


def _train(
    decoder: DecoderSettings, encoder: Hearing, compute: Compute, audio: Folder, out: Folder, report: Report
) -> Metrics:
    """Facts on rank 0, which alone saves and measures."""
    heard = Heard(audio, encoder.settings())
    if isinstance(decoder, HifiganSettings):
        return _train_hifigan(decoder, compute, heard, out, report)
    return _train_source_filter(decoder, compute, heard, out, report)


def _train_source_filter(
    decoder: SourceFilterSettings, compute: Compute, heard: Heard, out: Folder, report: Report
) -> Metrics:
    from slamray.train.ranks import rank_and_world
    from slamray.train.source_filter_training import measure_vocoder, train_source_filter

    def pairs(split: str, at_most: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((units, from_pcm(pcm)) for _, units, pcm in heard.read(split, at_most))

    train = pairs("train", decoder.documents)
    vocoder, facts = train_source_filter(train, heard.n_units, heard.hop_samples, decoder, compute, out, report)
    if rank_and_world()[0] > 0:
        return facts
    out.write_tree(MODEL, vocoder.save)
    return facts | measure_vocoder(vocoder, list(pairs("evaluation")))


def _train_hifigan(decoder: HifiganSettings, compute: Compute, heard: Heard, out: Folder, report: Report) -> Metrics:
    from slamray.train.hifigan_training import measure_audio, train_hifigan
    from slamray.train.ranks import rank_and_world

    train = ((units, pcm) for _, units, pcm in heard.read("train", decoder.documents))
    vocoder, facts = train_hifigan(train, heard.n_units, heard.hop_samples, decoder, compute, out, report)
    if rank_and_world()[0] > 0:
        return facts
    out.write_tree(MODEL, vocoder.save)
    kept = [(units, pcm) for _, units, pcm in heard.read("evaluation", MEASURED_DOCUMENTS)]
    return facts | measure_audio(vocoder, kept, heard.hop_samples)
