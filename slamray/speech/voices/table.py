"""The table of voices: loads the one that `speech.tts.backend` names, and checks settings before any work."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass

from slamray.config.speech import TtsSettings
from slamray.errors import BadInput
from slamray.speech.voices.base import Voice


@dataclass(frozen=True)
class VoiceKind:
    """How a voice is loaded and checked. Functions go by name, so that nothing is imported before they are called.

    load: `(TtsSettings) -> Voice`, with its weights. BadInput when these cannot be had or do not fit.
    check: `(TtsSettings, names of voices) -> None`. BadInput when it cannot speak with one of them; loads no weights.
    phonemes: it is a PhonemeVoice, which reads and speaks phonemes and knows when each of them sounds.
    """

    load: str
    check: str = "slamray.speech.voices.base:check_one_voice"
    phonemes: bool = True


# By `speech.tts.backend`. The settings of a voice, if it has any, are the field of TtsSettings with its name.
VOICES = {
    "hibari": VoiceKind("slamray.speech.voices.hibari:load"),
    "kokoro": VoiceKind("slamray.speech.voices.kokoro:load", "slamray.speech.voices.kokoro:check"),
    "fastspeech2": VoiceKind("slamray.speech.voices.fastspeech2:load"),
}


def load_voice(tts: TtsSettings) -> Voice:
    """The voice that the settings name, with its weights. BadInput when they cannot be had or do not fit."""
    voice: Voice = pkgutil.resolve_name(VOICES[tts.backend].load)(tts)
    return voice


def check_voices(tts: TtsSettings, voices: Sequence[str]) -> None:
    """BadInput when the model has no such voices; of a hub id their names alone can be checked here."""
    pkgutil.resolve_name(VOICES[tts.backend].check)(tts, voices)


def check_phonemes(tts: TtsSettings, need: str) -> None:
    """BadInput when the voice knows no phonemes. need: who needs them, and the words that do without."""
    if not VOICES[tts.backend].phonemes:
        raise BadInput(f"speech.tts.backend={tts.backend}: this voice knows no phonemes; {need}")
