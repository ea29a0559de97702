"""Is speech understood? Word error rate, and an independent recogniser to measure it by.

Own arithmetic, not jiwer's: twenty lines against a dependency with a compiled one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from slamray.errors import BadInput
from slamray.speech.audio import RATE_HZ, to_pcm

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)*")


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation; inner apostrophes kept, hyphens cut."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


@dataclass(frozen=True)
class WordErrors:
    """Substitutions, deletions and insertions together, and the words of the reference."""

    errors: int
    words: int

    @property
    def rate(self) -> float:
        """Errors over words; above 1 where much is inserted."""
        return self.errors / self.words


def word_errors(pairs: Sequence[tuple[str, str]]) -> WordErrors:
    """Over (reference, hypothesis) texts. BadInput when no reference holds a word."""
    split = [(words_of(reference), words_of(hypothesis)) for reference, hypothesis in pairs]
    words = sum(len(reference) for reference, _ in split)
    if words == 0:
        raise BadInput("word error rate: the reference texts hold no words")
    return WordErrors(sum(edits(reference, hypothesis) for reference, hypothesis in split), words)


def edits(reference: Sequence[object], hypothesis: Sequence[object]) -> int:
    """Fewest substitutions, deletions and insertions that turn one into the other (Levenshtein)."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != found))
    return row[-1]


def has_recogniser() -> bool:
    """Whether the recogniser is installed: measuring speech needs it, running a recipe does not."""
    return find_spec("pocketsphinx") is not None


def check_recogniser() -> None:
    """BadInput when it is not."""
    if not has_recogniser():
        raise BadInput("word error rate: needs pocketsphinx; install slamray[dev]")


class Recogniser:
    """PocketSphinx with its own US English model (Gaussian mixtures on MFCCs, trigrams): no kin of any model here."""

    def __init__(self) -> None:
        check_recogniser()
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=RATE_HZ, loglevel="FATAL")

    def __call__(self, audio: np.ndarray) -> str:
        """What is heard in float32 (or int16) audio at 16 kHz, whatever was heard before; empty when nothing is."""
        if len(audio) == 0:
            return ""
        self._decoder.reinit_feat()  # or its removal of noise goes on from what it heard before
        self._decoder.start_utt()
        self._decoder.process_raw(audio.tobytes() if audio.dtype == np.int16 else to_pcm(audio), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return found.hypstr if found else ""
