"""Documents of a model of text and speech: text, speech, both interleaved, and pairs that turn one into the other.

    text          <S> <text> text <S>
    speech        <S> <speech> units <S>                                 (documents.py: unit_document)
    interleaved   <S> <text> text <speech> units <text> text .. <S>      a tag where the modality changes
    asr           <S> <speech> units <text> text <S>                     the text and the last <S> are targets
    tts           <S> <text> text <speech> units <S>                     the units and the last <S> are targets

The first tag of a document stands there too, as in slamkit (tokeniser/interleaving_tokeniser.py at 388b402).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from slamray.tokens.documents import Document
from slamray.tokens.interleave import Span
from slamray.tokens.vocabulary import Ints, Tokens, Units, Vocabulary

Encode = Callable[[str], Sequence[int]]  # text to ids of text tokens, without specials


@dataclass(frozen=True)
class SpokenText:
    """A text that was spoken: its pieces, and where the units of each begin.

    pieces: (P,) each with the blanks before it. units: (T,) deduplicated. first_P: (P + 1,) the first unit of each
    piece, from 0 to T: every unit is of one piece.
    """

    pieces: Sequence[str]
    units: Units
    first_P: Ints

    def __post_init__(self) -> None:
        assert len(self.first_P) == len(self.pieces) + 1, "a first unit of each piece, and the end"
        assert self.first_P[0] == 0 and self.first_P[-1] == len(self.units), "every unit is of a piece"

    def __len__(self) -> int:
        return len(self.pieces)

    def text_of(self, span: Span) -> str:
        return "".join(self.pieces[span.start : span.stop])

    def units_of(self, span: Span) -> Units:
        return self.units[self.first_P[span.start] : self.first_P[span.stop]]


def align(pieces: Sequence[str], start_P: Ints, units: Units, durations_T: Ints) -> SpokenText:
    """A spoken text from the frames at which its pieces begin: a unit is of the piece in which it begins.

    start_P: (P,) frames, rising. durations_T: (T,) frames of each unit. The silence after a word is the word's, and
    what is heard before the first piece is the first piece's.
    """
    begins_T = np.cumsum(durations_T) - durations_T
    first_P = np.searchsorted(begins_T, start_P, side="left")
    first_P[:1] = 0
    return SpokenText(pieces, units, np.append(first_P, len(units)).astype(np.int64))


def text_document(text: str, encode: Encode, vocabulary: Vocabulary) -> Document:
    """`<S> <text> text <S>`."""
    return Document(_delimited([_text(text, encode, vocabulary)], vocabulary))


def interleaved_document(spoken: SpokenText, spans: Sequence[Span], encode: Encode, vocabulary: Vocabulary) -> Document:
    """The text with its spans spoken; a span without a unit stays text."""
    heard = [span for span in spans if len(spoken.units_of(span))]
    stretches, place = [], 0
    for span in heard:
        if place < span.start:
            stretches.append(_text(spoken.text_of(Span(place, span.start)), encode, vocabulary))
        stretches.append(_speech(spoken.units_of(span), vocabulary))
        place = span.stop
    if place < len(spoken) or not heard:
        stretches.append(_text(spoken.text_of(Span(place, len(spoken))), encode, vocabulary))
    return Document(_delimited(stretches, vocabulary))


def asr_document(spoken: SpokenText, span: Span, encode: Encode, vocabulary: Vocabulary) -> Document:
    """A stretch as speech, then as text, which is what is learned."""
    speech, text = _speech(spoken.units_of(span), vocabulary), _stretch_text(spoken, span, encode, vocabulary)
    return _learned_from(speech, text, vocabulary)


def tts_document(spoken: SpokenText, span: Span, encode: Encode, vocabulary: Vocabulary) -> Document:
    """A stretch as text, then as speech, which is what is learned."""
    speech, text = _speech(spoken.units_of(span), vocabulary), _stretch_text(spoken, span, encode, vocabulary)
    return _learned_from(text, speech, vocabulary)


def by_modality(ids: Tokens, vocabulary: Vocabulary) -> Iterator[tuple[bool, Tokens]]:
    """(whether it is speech, ids) of each stretch of one modality; tags and <S> are in none."""
    ids = np.asarray(ids)
    speech_T = (ids >= vocabulary.unit_ids.start) & (ids < vocabulary.unit_ids.stop)
    text_T = (ids < vocabulary.n_text) & (ids != vocabulary.bos)
    kept_T = speech_T | text_T
    edges = np.flatnonzero(np.diff(speech_T[kept_T].astype(np.int8))) + 1
    for own, speech in zip(np.split(ids[kept_T], edges), np.split(speech_T[kept_T], edges), strict=True):
        if len(own):
            yield bool(speech[0]), own


def cut_stretches(pieces: int, bounds: tuple[int, int], seed: int) -> Iterator[Span]:
    """A document in consecutive stretches of lengths drawn evenly between the bounds; the last may be shorter."""
    rng, place = np.random.default_rng(seed), 0
    while place < pieces:
        stop = min(pieces, place + int(rng.integers(bounds[0], bounds[1] + 1)))
        yield Span(place, stop)
        place = stop


def _stretch_text(spoken: SpokenText, span: Span, encode: Encode, vocabulary: Vocabulary) -> Tokens:
    return _text(spoken.text_of(span).lstrip(), encode, vocabulary)


def _learned_from(given: Tokens, learned: Tokens, vocabulary: Vocabulary) -> Document:
    """Both with their tags; of `learned` all but its tag are targets, and the last special is."""
    ids = _delimited([given, learned], vocabulary)
    mask = np.zeros(len(ids), np.bool_)
    mask[1 + len(given) + 1 :] = True
    return Document(ids, mask)


def _text(text: str, encode: Encode, vocabulary: Vocabulary) -> Tokens:
    return np.array([vocabulary.text_tag, *encode(text)], vocabulary.dtype)


def _speech(units: Units, vocabulary: Vocabulary) -> Tokens:
    return np.concatenate([np.array([vocabulary.speech_tag], vocabulary.dtype), vocabulary.to_tokens(units)])


def _delimited(stretches: Sequence[Tokens], vocabulary: Vocabulary) -> Tokens:
    special = np.array([vocabulary.bos], vocabulary.dtype)
    return np.concatenate([special, *stretches, special])
