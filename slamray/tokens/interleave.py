"""Which words of a text are spoken: spans for interleaved documents, drawn from a seed alone.

A text is cut into pieces (words; in scripts without blanks, characters), and a span is a run of pieces. Nothing here
knows what a token is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from slamray.config.joint import InterleaveSettings

# Scripts that put no blanks between words: kana, CJK ideographs, and Thai, Lao, Khmer and Burmese. Hangul has blanks.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PIECE = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")


@dataclass(frozen=True)
class Span:
    """Pieces from `start` to `stop`, the last not included."""

    start: int
    stop: int


def cut_pieces(text: str) -> list[str]:
    """Words of a text, each with the blanks before it; a character each where a script has no blanks.

    Joined they are the text, but for blanks at its end.
    """
    return _PIECE.findall(text)


def choose_spans(pieces: int, settings: InterleaveSettings, seed: int) -> list[Span]:
    """The spans of a document that are spoken, in order, without overlap: a pure function of its arguments.

    seed: of the document (data/ids.py: row_seed of a recipe's seed and the document's id).

    poisson (2411.17607, section 2.2 in docs/paper.md): lengths from Poisson(`span_pieces`), none of them 0, until they
    are `share` of the pieces, the last cut to what is missing; placed at random, each way as likely.
    random: each piece by itself with probability `share`. span: a piece that is drawn with probability `share` begins
    a span of `span_pieces`. (Both as slamkit's tokeniser/interleaving_tokeniser.py at 388b402.)
    chunks: text and speech by turns, lengths even between the bounds; which comes first is a coin's throw
    (tiagoCuervo/interleaved_lm at 07fd8df).
    """
    rng = np.random.default_rng(seed)
    match settings.method:
        case "poisson":
            return _poisson(pieces, settings, rng)
        case "random":
            return _runs(rng.random(pieces) < settings.share)
        case "span":
            return _runs(_begun(rng.random(pieces) < settings.share, settings.span_pieces))
        case "chunks":
            return list(_chunks(pieces, settings, rng))


def _poisson(pieces: int, settings: InterleaveSettings, rng: np.random.Generator) -> list[Span]:
    missing = int(np.ceil(settings.share * pieces))
    lengths: list[int] = []
    while missing > 0:
        lengths.append(min(missing, max(1, int(rng.poisson(settings.span_pieces)))))
        missing -= lengths[-1]
    # The spans among the pieces that stay text: which places of the sequence are spans, each choice as likely.
    text = pieces - sum(lengths)
    places = np.sort(rng.choice(text + len(lengths), len(lengths), replace=False)) if lengths else np.zeros(0, int)
    order = rng.permutation(len(lengths))  # the cut one is not always the last
    spans, spoken = [], 0
    for number, place in enumerate(places.tolist()):
        start = place - number + spoken
        spoken += lengths[order[number]]
        spans.append(Span(start, place - number + spoken))
    return _joined(spans)


def _begun(drawn_P: np.ndarray, length: int) -> np.ndarray:
    """True at each drawn place and the length - 1 after it."""
    since = np.arange(len(drawn_P)) - np.maximum.accumulate(np.where(drawn_P, np.arange(len(drawn_P)), -length))
    return since < length


def _runs(spoken_P: np.ndarray) -> list[Span]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], spoken_P.astype(np.int8), [0]])))
    return [Span(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _joined(spans: list[Span]) -> list[Span]:
    """Spans that touch are one."""
    found: list[Span] = []
    for span in spans:
        if found and found[-1].stop == span.start:
            span = Span(found.pop().start, span.stop)
        found.append(span)
    return found


def _chunks(pieces: int, settings: InterleaveSettings, rng: np.random.Generator) -> Iterator[Span]:
    speech, place = bool(rng.random() < 0.5), 0
    while place < pieces:
        least, most = settings.speech_chunk if speech else settings.text_chunk
        stop = min(pieces, place + int(rng.integers(least, most + 1)))
        if speech:
            yield Span(place, stop)
        speech, place = not speech, stop
