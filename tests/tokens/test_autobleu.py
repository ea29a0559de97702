"""Auto-BLEU against values counted by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest

from slamray.tokens.autobleu import auto_bleu, word_tokens


def words(text: str) -> list[str]:
    return text.split()


def test_share_of_repeated_bigrams_equals_the_hand_count() -> None:
    # Bigrams: the-cat, cat-saw, saw-the, the-cat, cat-. : the-cat stands twice, so 2 of 5.
    assert auto_bleu(words("the cat saw the cat .")) == pytest.approx(2 / 5)


def test_every_occurrence_of_a_repeated_ngram_counts() -> None:
    # a-b x 3, b-a x 2: all five occur more than once; trigrams a-b-a x 2, b-a-b x 2.
    assert auto_bleu(list("ababab")) == 1.0
    assert auto_bleu(list("ababac"), n=3) == pytest.approx(2 / 4)  # aba bab aba bac
    assert auto_bleu(list("abac"), n=1) == pytest.approx(2 / 4)


def test_a_sequence_without_ngrams_or_repeats_scores_zero() -> None:
    assert auto_bleu([]) == 0.0
    assert auto_bleu(["a"]) == 0.0
    assert auto_bleu(words("all words differ here")) == 0.0


def test_units_score_like_words() -> None:
    units = np.array([3, 4, 9, 3, 4, 3], dtype=np.uint16)  # 3-4 4-9 9-3 3-4 4-3
    assert auto_bleu(units.tolist()) == pytest.approx(2 / 5)
    assert auto_bleu(units) == pytest.approx(2 / 5)


def test_long_sequences_take_linear_time() -> None:
    start = time.perf_counter()
    auto_bleu(list(range(200_000)))
    assert time.perf_counter() - start < 5  # slamkit's n^2 count would take hours


def test_words_keep_inner_apostrophes_and_marks_stand_alone() -> None:
    assert word_tokens('"Don\'t go," said Mr. Fox; a well-known 3.5-year-old.') == [
        '"', "Don't", "go", ",", '"', "said", "Mr", ".", "Fox", ";", "a", "well-known", "3.5", "-", "year-old", ".",
    ]  # fmt: skip


def test_case_is_kept() -> None:
    assert auto_bleu(word_tokens("The cat and the cat")) == 0.0
    assert auto_bleu(word_tokens("the cat and the cat")) == pytest.approx(2 / 4)
