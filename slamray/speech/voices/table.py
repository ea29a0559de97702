"""Which voice speaks: the back end that a recipe names, with its weights."""

from __future__ import annotations

from slamray.config.speech import TtsSettings
from slamray.speech.voices.base import Synthesiser
from slamray.speech.voices.hibari import Hibari


def load_synthesiser(config: TtsSettings) -> Synthesiser:
    """The back end that the config names, with its weights. BadInput when these cannot be had or are something else."""
    if config.backend == "kokoro":
        from slamray.speech.voices.kokoro import Kokoro  # torch models that the other back ends do without

        return Kokoro.load(config.kokoro.model, config.kokoro.revision, config.kokoro.voice)
    if config.backend == "fastspeech2":
        from slamray.speech.voices.fastspeech2 import FastSpeech2

        return FastSpeech2.load(config.fastspeech2.model, config.fastspeech2.revision)
    return Hibari()
