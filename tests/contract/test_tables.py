"""The tables of voices, encoders and decoders: every row leads somewhere, and the settings say the same names."""

from __future__ import annotations

import pkgutil
from typing import get_args

from slamray.config.base import Chosen, Settings
from slamray.config.speech import TtsSettings
from slamray.speech.decoders.table import DECODERS
from slamray.speech.encoders.table import ENCODERS
from slamray.speech.voices.base import PhonemeVoice
from slamray.speech.voices.table import VOICES


def test_the_voices_of_the_settings_are_those_of_the_table() -> None:
    assert set(get_args(TtsSettings.model_fields["backend"].annotation)) == set(VOICES)


def test_the_settings_of_a_voice_have_its_name_and_count_only_while_it_speaks() -> None:
    groups = {name: field for name, field in TtsSettings.model_fields.items() if isinstance(field.default, Settings)}
    assert groups.keys() <= VOICES.keys() and len(groups) == 2
    for field in groups.values():
        assert Chosen("backend") in field.metadata


def test_every_function_that_a_row_names_exists() -> None:
    named = [name for voice in VOICES.values() for name in (voice.load, voice.check)]
    named += [name for kind in ENCODERS.values() for name in (kind.check, kind.encoder, kind.features) if name]
    named += [kind.load for kind in DECODERS.values()]
    for name in named:
        assert callable(pkgutil.resolve_name(name)), name


def test_a_row_says_of_each_voice_whether_it_knows_phonemes() -> None:
    for name, voice in VOICES.items():
        module = pkgutil.resolve_name(voice.load.partition(":")[0])
        kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, PhonemeVoice)]
        assert voice.phonemes == (kinds != [PhonemeVoice] and kinds != []), name


def test_no_two_decoders_are_known_by_the_same_key() -> None:
    assert len({kind.key for kind in DECODERS.values()}) == len(DECODERS)
