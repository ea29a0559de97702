"""Reads English text: hibari's port of misaki 0.9.4 turns it into phonemes, for every voice that speaks phonemes."""

from __future__ import annotations

from typing import Any


class EnglishReader:
    """American or British English, in misaki's alphabet. model: the hibari voice that holds the dictionaries."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def phonemise(self, text: str) -> list[str]:
        """Phoneme strings, one for each piece that a model speaks at once."""
        pieces: list[str] = self._model.phonemize(text)
        return pieces

    def lexicon(self) -> list[str]:
        """The phonemes of every word in the dictionaries, about 184 000."""
        books = self._model.g2p.lexicon
        entries = [entry for book in (books.golds, books.silvers) for entry in book.d.values()]
        nested = [[entry] if isinstance(entry, str) else list(entry.values()) for entry in entries]
        return [phonemes for pronunciations in nested for phonemes in pronunciations if phonemes]


def load_reader(british: bool) -> EnglishReader:
    """The reader for voices that have none.

    hibari opens it only together with a voice, and the voice's name decides between American and British. So the voice
    in the package is loaded under a name of the wanted kind: nothing is downloaded, and only the dictionaries are used.
    """
    from hibari.tts import Hibari  # a second to import, which a check of settings does not need
    from hibari.voices import voice_path

    return EnglishReader(Hibari(voice="emma" if british else "heart", model=voice_path("heart")))
