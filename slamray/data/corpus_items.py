"""Pairs that are made from the corpus's text: a function for each metric, all called alike (evaluate/metrics.py)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from slamray.config.evaluation import ItemsSettings
from slamray.data.grammar_items import make_grammar
from slamray.data.item_pairs import ItemSet, count_words, make_sentence_order, make_topic_cloze
from slamray.data.text import TextDocument
from slamray.data.word_items import Invented, invent, make_words, make_words_in_sentences


class Pronounces(Protocol):
    """What metrics of words need of a voice."""

    def phonemise(self, text: str) -> Sequence[str]:
        """Phoneme strings of a text."""

    def lexicon(self) -> Collection[str]:
        """Phoneme strings of the words that the voice knows."""


@dataclass(frozen=True)
class CorpusText:
    """What pairs are made from, and the rules.

    documents: of the evaluation split. train: gives the first so many texts of the training split, all of them for 0.
    heard: so many of them are spoken to train on; None: no text is. load_voice is called where a metric needs to know
    how a word is pronounced.
    """

    documents: Sequence[TextDocument]
    train: Callable[[int], Iterable[str]]
    heard: int | None
    rules: ItemsSettings
    load_voice: Callable[[], Pronounces]

    @cached_property
    def word_counts(self) -> Mapping[str, int]:
        """How often each word occurs in the training text."""
        return count_words(self.train(0))

    @cached_property
    def voice(self) -> Pronounces:
        return self.load_voice()

    def phonemise(self, text: str) -> Sequence[str]:
        """Phoneme strings of a text; none of one that the voice fails over, so that no item is made of it."""
        try:
            return self.voice.phonemise(text)
        except Exception:  # of any voice over any text; the item alone is lost, and items are counted
            return ()

    @cached_property
    def invented(self) -> Sequence[Invented]:
        """Words with their pseudo-words; both metrics of words take theirs from the front."""
        rules = self.rules
        return invent(
            self.word_counts,
            self.word_counts if not self.heard else count_words(self.train(self.heard)),
            self.phonemise,
            max(rules.words, rules.words_in_sentence),
            rules.seed,
            rules.min_word_count,
            rules.min_heard,
            rules.min_phonemes,
            self.voice.lexicon(),
        )


def topic_cloze(text: CorpusText, n: int) -> ItemSet:
    """A passage with its true ending against another story's ending."""
    rules = text.rules
    return make_topic_cloze(text.documents, n, rules.seed, rules.prompt_sentences, rules.max_sentence_words)


def sentence_order(text: CorpusText, n: int) -> ItemSet:
    """A story's first sentences in order against the same in another order."""
    rules = text.rules
    return make_sentence_order(text.documents, n, rules.seed, rules.order_sentences, rules.max_opening_words)


def words(text: CorpusText, n: int) -> ItemSet:
    """A word by itself against a pseudo-word."""
    return make_words(text.invented[:n])


def words_in_sentence(text: CorpusText, n: int) -> ItemSet:
    """The same inside sentences of the evaluation documents."""
    longest, per_word = text.rules.max_sentence_words, text.rules.sentences_per_word
    return make_words_in_sentences(text.invented, text.documents, text.phonemise, n, longest, per_word)


def grammar(text: CorpusText, n: int) -> ItemSet:
    """A grammatical sentence against an ungrammatical one."""
    return make_grammar(text.word_counts, n, text.rules.seed)
