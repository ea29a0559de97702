"""What all voices have in common: speech with the times of its parts, and a voice around a model of phonemes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from slamray.config.speech import DEFAULT_VOICE, TtsSettings
from slamray.errors import BadInput
from slamray.speech.spans import Span
from slamray.speech.voices.english import EnglishReader

STRESS = "\u02c8\u02cc"  # primary and secondary stress stand before their vowel and have durations of their own
EDGE = "_"  # stands for the padding id 0 at both ends of a piece that the model speaks at once
PAUSES = frozenset(EDGE + ' ;:,.!?\u2014\u2026"()\u201c\u201d')  # the signs of vocab.json that are no phones
# A sign is heard two frames before the sum of the durations ahead of it, in hibari and in Kokoro, from which hibari was
# distilled. Measured with hibari over 40 stories: clusters of MFCCs tell most about the phones when all spans are moved
# by -50 ms (PNMI 0.46; 0.36 unmoved, 0.44 at -75 ms). Kokoro's KPipeline.join_timestamps takes off three frames; a
# comment there asks whether that is right.
EARLY_FRAMES = 2


@dataclass(frozen=True)
class Speech:
    """Audio (float32, mono) and the spans in it.

    phones: they tile the whole audio. A stress mark's time belongs to the phone that follows. Pauses (`PAUSES`:
    punctuation, the blank between words, the edges of a sentence) are spans too, empty where the model makes no pause.
    words: without the pauses around them. Their text is the word as written, or its phonemes where the voice reads
    more or fewer words than are written ("$9.99").
    sentences: one for each given sentence, with its pauses; they tile the audio too.
    A voice that does not know when words and phones sound leaves both empty.
    """

    audio: np.ndarray
    rate_hz: int
    sentences: Sequence[Span]
    words: Sequence[Span] = ()
    phones: Sequence[Span] = ()


class Voice(Protocol):
    """Speaks sentences. The same arguments give the same bytes.

    voice: a name that the model knows, or empty for the one with which it was loaded.
    """

    rate_hz: int

    def speak(self, sentences: Sequence[str], seed: int, voice: str = "") -> Speech:
        """The sentences in order. BadInput when one of them holds nothing that can be spoken, or for another voice."""


def check_one_voice(tts: TtsSettings, voices: Sequence[str]) -> None:
    """BadInput when a model with one voice is to speak with others."""
    if tuple(voices) != (DEFAULT_VOICE,):
        raise BadInput(f"preferences.voices: {tts.backend} has one voice; leave it at [{DEFAULT_VOICE}]")


class PhonemeVoice(ABC):
    """A voice around a model that turns one phoneme string (misaki's alphabet) into audio and each sign's duration.

    A subclass sets the four attributes and implements `render` and `reader`; reading text and placing its parts in the
    audio is the same for all.
    """

    rate_hz: int
    frame_seconds: float  # unit of the durations
    early_frames: int  # a sign is heard this many frames before the sum of the durations ahead of it
    alphabet: AbstractSet[str]

    @abstractmethod
    def render(self, phonemes: str, rng: np.random.Generator, voice: str) -> tuple[np.ndarray, np.ndarray]:
        """Audio float32 and the durations (int frames) of the edge, every sign of the string, and the edge.

        The durations add up to the audio. BadInput when there is no such voice.
        """

    @abstractmethod
    def reader(self, voice: str = "") -> EnglishReader:
        """The reader that turns text into phonemes for a voice."""

    def phonemise(self, text: str) -> list[str]:
        """Phoneme strings, one for each piece that the model speaks at once."""
        return self.reader().phonemise(text)

    def lexicon(self) -> list[str]:
        """The phonemes of every word that the voice's dictionaries know."""
        return self.reader().lexicon()

    def speak(self, sentences: Sequence[str], seed: int, voice: str = "") -> Speech:
        """The sentences in order. BadInput when one of them holds nothing that can be spoken."""
        reader = self.reader(voice)
        pieces = [reader.phonemise(sentence) for sentence in sentences]
        silent = [sentence for sentence, piece in zip(sentences, pieces, strict=True) if not piece]
        if silent or not sentences:
            raise BadInput(f"nothing to speak in {silent[:1] or 'an empty list of sentences'}; remove the sentence")
        return self._speak(sentences, pieces, seed, voice)

    def speak_phonemes(self, phonemes: str, seed: int, voice: str = "") -> Speech:
        """A phoneme string as one sentence. BadInput on a sign that is not in the model's alphabet."""
        unknown = sorted(set(phonemes) - self.alphabet)
        if unknown or not set(phonemes) - PAUSES:
            reason = f"unknown {unknown}" if unknown else "no phone"
            raise BadInput(f"cannot speak the phonemes {phonemes!r}: {reason}")
        return self._speak([phonemes], [[phonemes]], seed, voice)

    def _speak(self, sentences: Sequence[str], pieces: list[list[str]], seed: int, voice: str) -> Speech:
        audio: list[np.ndarray] = []
        sentence_spans: list[Span] = []
        words: list[Span] = []
        phones: list[Span] = []
        frame = 0
        for number, (sentence, strings) in enumerate(zip(sentences, pieces, strict=True)):
            rng = np.random.default_rng((seed, number))
            first_frame, first_phone = frame, len(phones)
            for phonemes in strings:
                wave, durations = self.render(phonemes, rng, voice)
                expected = round(durations.sum() * self.frame_seconds * self.rate_hz)
                assert len(wave) == expected, "durations do not add up"
                phones += self._phone_spans(phonemes, durations, frame)
                frame += int(durations.sum())
                audio.append(wave)
            sentence_spans.append(Span(sentence, first_frame * self.frame_seconds, frame * self.frame_seconds))
            words += _word_spans(sentence, phones[first_phone:])
        return Speech(np.concatenate(audio), self.rate_hz, sentence_spans, words, phones)

    def _phone_spans(self, phonemes: str, durations: np.ndarray, first_frame: int) -> list[Span]:
        """Spans that tile a piece: one for each sign, stress marks joined to the sign that follows."""
        edges = np.concatenate([[0], np.cumsum(durations)])
        edges[1:-1] = np.maximum(edges[1:-1] - self.early_frames, 0)
        edges += first_frame
        spans: list[Span] = []
        start = edges[0]
        for place, sign in enumerate(EDGE + phonemes + EDGE):
            if sign in STRESS:
                continue
            end = edges[place + 1]
            spans.append(Span(sign, float(start) * self.frame_seconds, float(end) * self.frame_seconds))
            start = end
        return spans


def _word_spans(sentence: str, phones: list[Span]) -> list[Span]:
    """Spans of the words of a sentence: runs of phones between blanks and edges."""
    groups: list[list[Span]] = [[]]
    for phone in phones:
        if phone.text in (" ", EDGE):
            groups.append([])
        elif phone.text not in PAUSES:
            groups[-1].append(phone)
    spoken = [group for group in groups if group]
    written = [word for word in sentence.split() if any(c.isalnum() for c in word)]
    if len(written) != len(spoken):
        written = ["".join(phone.text for phone in group) for group in spoken]
    return [Span(w, g[0].start_seconds, g[-1].end_seconds) for w, g in zip(written, spoken, strict=True)]
