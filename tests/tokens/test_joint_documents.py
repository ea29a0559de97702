"""Documents of text and speech: what they are made of, what is learned, and that no word is cut or lost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from slamray.config.joint import InterleaveSettings
from slamray.tokens.documents import Document, unit_document
from slamray.tokens.interleave import Span, choose_spans
from slamray.tokens.joint_documents import (
    SpokenText,
    align,
    asr_document,
    cut_stretches,
    interleaved_document,
    text_document,
    tts_document,
)
from slamray.tokens.vocabulary import Vocabulary

# 100 text tokens of which 0 pads and 1 is <S>; unit u is id 100 + u; <speech> is 600 and <text> 601.
JOINT = Vocabulary.joint(Vocabulary.of_text(100, 0, 1, "t"), Vocabulary.of_units(500, "u"))
S, SPEECH, TEXT, UNIT = 1, 600, 601, 100


def encode(text: str) -> list[int]:
    """A token for each word: 10 more than the number that it holds."""
    return [10 + int(word[1:]) for word in text.split()]


def spoken_of(counts: list[int]) -> SpokenText:
    """Words w0, w1, .. with so many units each; the units of word n are 10 n, 10 n + 1, .."""
    pieces = [f"w{n}" if n == 0 else f" w{n}" for n in range(len(counts))]
    units = np.array([10 * n + k for n, count in enumerate(counts) for k in range(count)], np.uint16)
    return SpokenText(pieces, units, np.concatenate([[0], np.cumsum(counts)]))


def test_a_unit_is_of_the_piece_in_which_it_begins() -> None:
    # Units of 2, 3, 1, 4 frames begin at 0, 2, 5, 6; pieces at 1, 5 and 6: what comes before the first is its own.
    spoken = align(["a", " b", " c"], np.array([1, 5, 6]), np.arange(4, dtype=np.uint16), np.array([2, 3, 1, 4]))
    assert [spoken.units_of(Span(n, n + 1)).tolist() for n in range(3)] == [[0, 1], [2], [3]]
    # A unit that begins before a piece and goes on into it is the piece's before.
    spoken = align(["a", " b"], np.array([0, 4]), np.arange(3, dtype=np.uint16), np.array([3, 3, 2]))
    assert [spoken.units_of(Span(n, n + 1)).tolist() for n in range(2)] == [[0, 1], [2]]


def test_every_kind_has_its_tags_and_its_loss_mask() -> None:
    spoken, part = spoken_of([2, 1, 3, 2]), Span(1, 3)
    assert text_document("w3 w4", encode, JOINT).ids.tolist() == [S, TEXT, 13, 14, S]
    assert unit_document(np.array([4, 7]), JOINT).ids.tolist() == [S, SPEECH, 104, 107, S]
    asr, tts = asr_document(spoken, part, encode, JOINT), tts_document(spoken, part, encode, JOINT)
    units = [110, 120, 121, 122]
    assert asr.ids.tolist() == [S, SPEECH, *units, TEXT, 11, 12, S]
    assert learned(asr) == [11, 12, S]
    assert tts.ids.tolist() == [S, TEXT, 11, 12, SPEECH, *units, S]
    assert learned(tts) == [*units, S]
    mixed = interleaved_document(spoken, [part], encode, JOINT)
    assert mixed.ids.tolist() == [S, TEXT, 10, SPEECH, *units, TEXT, 13, S]
    assert mixed.targets.tolist() == [False, *[True] * 10]


def test_a_document_that_begins_or_ends_with_speech_has_no_empty_stretch() -> None:
    spoken = spoken_of([1, 1, 1])
    assert interleaved_document(spoken, [Span(0, 1), Span(2, 3)], encode, JOINT).ids.tolist() == [
        S, SPEECH, 100, TEXT, 11, SPEECH, 120, S,
    ]  # fmt: skip
    assert interleaved_document(spoken, [Span(0, 3)], encode, JOINT).ids.tolist() == [S, SPEECH, 100, 110, 120, S]
    assert interleaved_document(spoken, [], encode, JOINT).ids.tolist() == [S, TEXT, 10, 11, 12, S]
    silent = spoken_of([2, 0, 0, 1])  # a span in which no unit begins stays text
    assert interleaved_document(silent, [Span(1, 3)], encode, JOINT).ids.tolist() == [S, TEXT, 10, 11, 12, 13, S]


@pytest.mark.parametrize("seed", range(20))
def test_every_word_is_there_once_as_text_or_as_all_its_units(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spoken = spoken_of(rng.integers(0, 5, 40).tolist())
    spans = choose_spans(len(spoken), InterleaveSettings(span_pieces=4), seed)
    ids = interleaved_document(spoken, spans, encode, JOINT).ids.tolist()
    heard = {n for span in spans for n in range(span.start, span.stop) if len(spoken.units_of(span))}
    wanted = [  # by hand, without tags
        token
        for n in range(len(spoken))
        for token in ((UNIT + spoken.units_of(Span(n, n + 1))).tolist() if n in heard else [10 + n])
    ]
    assert [token for token in ids if token not in (S, SPEECH, TEXT)] == wanted
    tags = [token for token in ids if token in (SPEECH, TEXT)]
    assert all(a != b for a, b in itertools.pairwise(tags)), "a tag stands where the modality changes"


def test_stretches_cut_a_document_into_all_its_pieces() -> None:
    for seed in range(20):
        spans = list(cut_stretches(100, (5, 40), seed))
        assert [place for span in spans for place in range(span.start, span.stop)] == list(range(100))
        assert all(5 <= span.stop - span.start <= 40 for span in spans[:-1])
    assert list(cut_stretches(3, (5, 40), 0)) == [Span(0, 3)] and not list(cut_stretches(0, (5, 40), 0))


def learned(document: Document) -> list[int]:
    found: list[int] = document.ids[document.targets].tolist()
    return found
