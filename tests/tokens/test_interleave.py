"""Spans of interleaved documents: a pure function of a seed, without overlap, of the share that was asked for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from slamray.config.joint import InterleaveSettings
from slamray.tokens.interleave import Span, choose_spans, cut_pieces

LENGTHS = [1, 2, 3, 7, 10, 31, 150, 1000]
METHODS = ("poisson", "random", "span", "chunks")


def spoken(spans: list[Span]) -> list[int]:
    return [place for span in spans for place in range(span.start, span.stop)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pieces", LENGTHS)
def test_spans_come_in_order_without_overlap_and_are_the_same_for_the_same_seed(method: str, pieces: int) -> None:
    rules = InterleaveSettings(method=method)  # type: ignore[arg-type]
    for seed in range(50):
        spans = choose_spans(pieces, rules, seed)
        places = spoken(spans)
        assert places == sorted(set(places)) and all(0 <= place < pieces for place in places)
        assert all(a.stop < b.start for a, b in itertools.pairwise(spans)), "spans that touch are one"
        assert spans == choose_spans(pieces, rules, seed)
    assert pieces < 31 or len({tuple(choose_spans(pieces, rules, seed)) for seed in range(50)}) > 10


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("pieces", LENGTHS)
def test_poisson_spans_make_up_their_share_of_the_pieces_to_one_piece(share: float, pieces: int) -> None:
    rules = InterleaveSettings(share=share)
    for seed in range(20):
        assert len(spoken(choose_spans(pieces, rules, seed))) == np.ceil(share * pieces)


def test_poisson_spans_are_as_long_as_the_mean_says_and_lie_everywhere() -> None:
    rules, pieces = InterleaveSettings(share=0.05), 2000  # so few of them that hardly two touch
    found = [choose_spans(pieces, rules, seed) for seed in range(300)]
    lengths = [span.stop - span.start for spans in found for span in spans]
    # 100 pieces in spans of 10, of which the last is cut: a little below the mean.
    assert 9 < np.mean(lengths) < 10.5 and np.std(lengths) == pytest.approx(np.sqrt(10), rel=0.25)
    places = np.array([place for spans in found for place in spoken(spans)])
    quarters = np.bincount(places * 4 // pieces, minlength=4) / len(places)
    assert abs(quarters - 0.25).max() < 0.03


def test_random_pieces_are_drawn_one_by_one_and_span_goes_on_after_each() -> None:
    pieces = 20_000
    places = spoken(choose_spans(pieces, InterleaveSettings(method="random", share=0.3), 1))
    assert len(places) / pieces == pytest.approx(0.3, abs=0.02)
    spans = choose_spans(pieces, InterleaveSettings(method="span", share=0.02, span_pieces=10), 1)
    assert all(span.stop - span.start >= 10 for span in spans[:-1])
    # A piece stays text if none of the ten pieces up to it was drawn: 0.98 ** 10.
    assert len(spoken(spans)) / pieces == pytest.approx(1 - 0.98**10, abs=0.02)


def test_chunks_of_text_and_speech_take_turns_within_their_bounds() -> None:
    rules, pieces = InterleaveSettings(method="chunks", text_chunk=(10, 30), speech_chunk=(5, 15)), 5000
    first = []
    for seed in range(40):
        spans = choose_spans(pieces, rules, seed)
        inner = [span for span in spans if span.stop < pieces]
        assert all(5 <= span.stop - span.start <= 15 for span in inner)
        gaps = [b.start - a.stop for a, b in itertools.pairwise(spans)]
        assert all(10 <= gap <= 30 for gap in gaps)
        first.append(spans[0].start == 0)
    assert 10 < sum(first) < 30


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Tim ran home.", ["Tim", " ran", " home."]),
        ("  two  blanks", ["  two", "  blanks"]),
        ("我喜欢猫。", ["我", "喜", "欢", "猫", "。"]),
        ("我有 2 cats", ["我", "有", " 2", " cats"]),
        ("ไป", ["ไ", "ป"]),
        ("나는 고양이", ["나는", " 고양이"]),
        ("", []),
    ],
)
def test_pieces_are_words_or_characters_and_make_up_the_text(text: str, pieces: list[str]) -> None:
    assert cut_pieces(text) == pieces
    assert "".join(cut_pieces(text)) == text


def test_a_least_above_the_most_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"text_chunk \[9, 3\]"):
        InterleaveSettings(method="chunks", text_chunk=(9, 3))
