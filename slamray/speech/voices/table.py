"""The table of voices: loads the one that a recipe names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from slamray.config.base import asset_path
from slamray.config.speech import DEFAULT_VOICE, TtsSettings
from slamray.errors import BadInput
from slamray.speech.voices.base import Synthesiser
from slamray.speech.voices.hibari import Hibari


def load_synthesiser(config: TtsSettings) -> Synthesiser:
    """The voice that the settings name, with its weights. BadInput when they cannot be had or do not fit."""
    if config.backend == "kokoro":
        from slamray.speech.voices.kokoro import Kokoro  # imports torch models that the other voices do not need

        return Kokoro.load(config.kokoro.model, config.kokoro.revision, config.kokoro.voice)
    if config.backend == "fastspeech2":
        from slamray.speech.voices.fastspeech2 import FastSpeech2

        return FastSpeech2.load(config.fastspeech2.model, config.fastspeech2.revision)
    return Hibari()


def check_voices(config: TtsSettings, voices: Sequence[str]) -> None:
    """BadInput when the back end has no such voices; of a hub id their names alone can be checked here."""
    if config.backend != "kokoro":
        if tuple(voices) != (DEFAULT_VOICE,):
            raise BadInput(f"preferences.voices: {config.backend} has one voice; leave it at [{DEFAULT_VOICE}]")
        return
    folder = Path(asset_path(config.kokoro.model))
    keys = [("speech.tts.kokoro.voice", config.kokoro.voice)]
    for key, voice in keys + [("preferences.voices", voice) for voice in voices if voice != DEFAULT_VOICE]:
        if not re.fullmatch("[ab][fm]_[a-z]+", voice):
            raise BadInput(f"{key}: {voice} is no English voice of Kokoro; they are called like af_heart, bm_george")
        if folder.is_dir() and not (folder / "voices" / f"{voice}.pt").is_file():
            raise BadInput(f"{key}: {config.kokoro.model} has no voices/{voice}.pt")
