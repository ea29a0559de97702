"""Word error rate against hand counts, and a recogniser that understands the voice."""

from __future__ import annotations

import numpy as np
import pytest

from slamray.errors import BadInput
from slamray.evaluate.wer import Recogniser, edits, word_errors, words_of


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [
        ("the cat sat", "the cat sat", 0),
        ("the cat sat", "the hat sat", 1),  # one substitution
        ("the cat sat", "the sat", 1),  # one deletion
        ("the cat sat", "the big cat sat", 1),  # one insertion
        ("the cat sat", "", 3),
        ("", "the cat", 2),
        ("a b c d", "b c d a", 2),  # moving a word: a deletion and an insertion
        ("a b c", "x y z", 3),
    ],
)
def test_edits_are_the_fewest_that_turn_one_into_the_other(reference: str, hypothesis: str, errors: int) -> None:
    assert edits(reference.split(), hypothesis.split()) == errors


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert words_of('"Don\'t," said Tim\u2019s well-worn 3 toys.') == [
        "don't", "said", "tim's", "well", "worn", "3", "toys",
    ]  # fmt: skip
    assert word_errors([("Oh, no!", "oh no"), ("It is.", "it was so")]).rate == pytest.approx(2 / 4)


def test_a_reference_without_words_is_named() -> None:
    with pytest.raises(BadInput, match="hold no words"):
        word_errors([("...", "a")])


def test_the_recogniser_understands_the_voice_and_hears_nothing_in_silence() -> None:
    from slamray.speech.audio import resample
    from slamray.speech.voices.hibari import Hibari

    sentences = ["Once upon a time there was a little girl.", "She wanted to play with her friends."]
    speech = Hibari().speak(sentences, seed=0)
    recognise = Recogniser()
    heard = recognise(resample(speech.audio, speech.rate_hz, 16_000))
    assert word_errors([(" ".join(sentences), heard)]).rate < 0.35  # 0.11 over whole stories
    assert recognise(np.zeros(0, np.float32)) == ""
    assert len(words_of(recognise(np.zeros(16_000, np.float32)))) <= 1
