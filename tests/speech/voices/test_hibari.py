"""The synthesiser's audio, spans and errors."""

from __future__ import annotations

from itertools import pairwise

import hibari
import numpy as np
import pytest

from slamray.config.speech import TtsSettings
from slamray.errors import BadInput
from slamray.speech.voices.base import EDGE
from slamray.speech.voices.hibari import Hibari
from slamray.speech.voices.table import load_voice

SENTENCES = ["Mark found a green ring in the house.", '"Look, Mom!" he said.']


@pytest.fixture(scope="module")
def voice() -> Hibari:
    return Hibari()


def test_the_audio_is_that_of_the_library(voice: Hibari) -> None:
    model = hibari.Hibari()
    (ids,) = ([model.ids(p)] for p in model.phonemize(SENTENCES[0]))
    expected = model.from_ids(ids[0], rng=np.random.default_rng((7, 0)))
    np.testing.assert_array_equal(voice.speak(SENTENCES[:1], seed=7).audio, expected)


def test_the_same_sentences_and_seed_give_the_same_bytes(voice: Hibari) -> None:
    first, again, other = (voice.speak(SENTENCES, seed=s).audio for s in (3, 3, 4))
    assert first.dtype == np.float32
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_a_sentence_sounds_the_same_whatever_follows_it(voice: Hibari) -> None:
    alone = voice.speak(SENTENCES[:1], seed=1).audio
    np.testing.assert_array_equal(voice.speak(SENTENCES, seed=1).audio[: len(alone)], alone)


def test_phones_and_sentences_tile_the_audio(voice: Hibari) -> None:
    speech = voice.speak(SENTENCES, seed=0)
    for spans in (speech.phones, speech.sentences):
        assert spans[0].start_seconds == 0
        assert all(a.end_seconds == b.start_seconds for a, b in pairwise(spans))
        assert spans[-1].end_seconds == pytest.approx(len(speech.audio) / speech.rate_hz, abs=1e-9)
    assert [span.text for span in speech.sentences] == SENTENCES


def test_phones_are_the_signs_of_the_phonemes_without_stress(voice: Hibari) -> None:
    (phonemes,) = voice.phonemise(SENTENCES[0])
    expected = EDGE + phonemes.replace("\u02c8", "").replace("\u02cc", "") + EDGE
    assert "".join(span.text for span in voice.speak(SENTENCES[:1], seed=0).phones) == expected


def test_words_carry_their_spelling_and_lie_in_order_inside_their_sentence(voice: Hibari) -> None:
    speech = voice.speak(SENTENCES, seed=0)
    assert [word.text for word in speech.words] == " ".join(SENTENCES).split()
    edges = [edge for word in speech.words for edge in (word.start_seconds, word.end_seconds)]
    assert edges == sorted(edges)
    assert speech.words[8].start_seconds >= speech.sentences[1].start_seconds


def test_sound_begins_where_the_first_phone_does(voice: Hibari) -> None:
    for sentence in ("Sam saw Tom.", "Can Kate come?", "Put it back.", "Two dogs ran."):
        speech = voice.speak([sentence], seed=0)
        power = np.square(speech.audio[: len(speech.audio) // 120 * 120]).reshape(-1, 120).mean(1)  # 5 ms
        onset_seconds = np.flatnonzero(power > 1e-4 * power.max())[0] * 0.005
        assert onset_seconds == pytest.approx(speech.words[0].start_seconds, abs=0.05)


def test_words_that_are_read_otherwise_than_written_carry_their_phonemes(voice: Hibari) -> None:
    words = voice.speak(["It costs $9.99 today."], seed=0).words
    assert len(words) > 4
    assert all(word.text for word in words)


def test_a_phoneme_string_is_one_sentence_and_one_word(voice: Hibari) -> None:
    speech = voice.speak_phonemes("bl\u02c8\u026ak", seed=0)
    assert [p.text for p in speech.phones] == [EDGE, *"bl\u026ak", EDGE]
    assert [w.text for w in speech.words] == ["bl\u02c8\u026ak"]


def test_what_cannot_be_spoken_is_bad_input(voice: Hibari) -> None:
    with pytest.raises(BadInput, match="nothing to speak"):
        voice.speak(["Fine.", ""], seed=0)
    with pytest.raises(BadInput, match="nothing to speak"):
        voice.speak([], seed=0)
    with pytest.raises(BadInput, match="unknown"):
        voice.speak_phonemes("b\u4e00", seed=0)
    with pytest.raises(BadInput, match="no phone"):
        voice.speak_phonemes(" .", seed=0)


def test_unknown_voices_are_bad_input(voice: Hibari) -> None:
    with pytest.raises(BadInput, match="nobody"):
        Hibari("nobody")
    with pytest.raises(BadInput, match="hibari speaks with heart here, not with 'af_bella'"):
        voice.speak(SENTENCES, seed=0, voice="af_bella")


def test_the_default_config_is_hibari() -> None:
    assert isinstance(load_voice(TtsSettings()), Hibari)
