"""Spoken words against pseudo-words (sWUGGY-like): pairs of phoneme strings that obey the same phonotactics.

The rule, after Wuggy (Keuleers and Brysbaert 2010), which changes a third of a word and matches transition
frequencies: a third of the segments (at least one) are substituted, consonants by consonants and full vowels by full
vowels; length, stress and reduced vowels stay. Every phoneme trigram of the result, word edges included, occurs in
the words of the training text (every bigram, where no such substitution exists: `part` says which). The result is no
known word, and of the candidates it is the one whose trigram log-probability is nearest to the word's. So the two can
be told apart only by whether the word has been heard: on the 500 pairs of the demo, a trigram model of the word list
prefers the word in 71 % if that word is in its list, and in 29 % if it alone is taken out.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from slamray.data.ids import content_id
from slamray.data.item_pairs import ItemPair, ItemSet, Utterance, collect, make_pair, spoken_phonemes
from slamray.data.text import TextDocument

Phonemise = Callable[[str], Sequence[str]]

# The alphabet of misaki (Kokoro's and hibari's), American and British.
REDUCED = frozenset("\u0259\u1d4a\u1d7b\u0250")  # schwas
VOWELS = frozenset("AIOWYQaeiou\u00e6\u0251\u0252\u0254\u025b\u025c\u026a\u028a\u028c")
CONSONANTS = frozenset("bdfhjklmnpstvwzTx\u0261\u014b\u00f0\u03b8\u0279\u0283\u0292\u02a4\u02a7\u027e\u0294")
SEGMENTS = REDUCED | VOWELS | CONSONANTS
EDGE = "#"
_MARKS = ".,!?;:\"'()"
TRIES = 48  # draws for each word and number of substitutions; chosen, not tuned
FLOOR = 1e-4  # probability of an unseen trigram, only met under the bigram rule; chosen, not tuned


class Phonotactics:
    """Which phonemes follow which in a list of words (types, not tokens).

    words: segment strings without stress marks or punctuation.
    """

    def __init__(self, words: Collection[str]) -> None:
        self.bigrams = Counter(gram for word in words for gram in _grams(word, 2))
        self.trigrams = Counter(gram for word in words for gram in _grams(word, 3))
        segments = sorted(set("".join(words)))
        self.consonants = [s for s in segments if s in CONSONANTS]
        self.vowels = [s for s in segments if s in VOWELS]

    def attests(self, word: str, order: int) -> bool:
        """Whether every n-gram of the word, its edges included, occurs."""
        counts = self.trigrams if order == 3 else self.bigrams
        return all(gram in counts for gram in _grams(word, order))

    def log_probability(self, word: str) -> float:
        """Sum of log p(third | first two) over the word's trigrams."""
        terms = ((self.trigrams[g], self.bigrams[g[:2]]) for g in _grams(word, 3))
        return sum(math.log(max(count / total, FLOOR)) if total else math.log(FLOOR) for count, total in terms)

    def substitutes(self, segment: str) -> list[str]:
        """Segments of the same class; none for reduced vowels."""
        group = self.consonants if segment in CONSONANTS else self.vowels if segment in VOWELS else []
        return [other for other in group if other != segment]


@dataclass(frozen=True)
class Invented:
    """A word, its phonemes, its segments, the segments of its pseudo-word, and the rule that the pseudo-word obeys."""

    word: str
    phonemes: str
    plain: str
    pseudo: str
    rule: str


def invent(
    word_counts: Mapping[str, int],
    heard_counts: Mapping[str, int],
    phonemise: Phonemise,
    n: int,
    seed: int,
    min_count: int,
    min_heard: int,
    min_phonemes: int,
    known: Collection[str] = (),
) -> list[Invented]:
    """At most n pseudo-words for the n words that were heard most and are long enough; the same words for every seed.

    word_counts: of all training text; words that occur min_count times are what the phonotactics come from.
    heard_counts: of the part of it that is spoken; a test word occurs there min_heard times. phonemise: a
    synthesiser's, text -> phoneme strings. known: phoneme strings of further real words that no pseudo-word may be, a
    pronunciation lexicon's for example.
    """
    eligible = [word for word, count in word_counts.items() if count >= min_count and word.isalpha()]
    pronounced = {}
    for word in sorted(eligible, key=lambda word: (-word_counts[word], word)):
        pieces = phonemise(word + ".")
        if len(pieces) == 1 and " " not in pieces[0].strip():
            pronounced[word] = pieces[0]
    model = Phonotactics({segments(p) for p in pronounced.values()})
    taken = {segments(p) for p in known} | {segments(p) for p in pronounced.values()}
    made: dict[str, Invented] = {}
    heard = [word for word in pronounced if heard_counts.get(word, 0) >= min_heard]
    for word in sorted(heard, key=lambda word: (-heard_counts[word], word)):
        if len(made) == n:
            break
        phonemes = pronounced[word]
        plain = segments(phonemes)
        if len(plain) < min_phonemes or plain in made:
            continue
        found = _pseudo_word(plain, model, taken, random.Random(f"words/{seed}/{word}"))
        if found is not None:
            taken.add(found[0])
            made[plain] = Invented(word, phonemes, plain, *found)
    return list(made.values())


def make_words(invented: Sequence[Invented]) -> ItemSet:
    """A pair for each: the word by itself against its pseudo-word by itself."""
    made = []
    for item in invented:
        used = tuple(spoken_phonemes(text, item.word) for text in (item.phonemes, _respell(item.phonemes, item.pseudo)))
        made.append((make_pair("words", item.rule, (), used[:1], used[1:], _texts(item)), used))
    return collect(made)


def make_words_in_sentences(
    invented: Sequence[Invented],
    documents: Sequence[TextDocument],
    phonemise: Phonemise,
    n: int,
    max_words: int,
    per_word: int = 1,
) -> ItemSet:
    """At most n pairs: a sentence of documents with the word against the same with its pseudo-word.

    Running speech holds no words by themselves; here all but the word's segments is as in the story. The sentences of a
    word are the first per_word, by a hash of their text, that have at most max_words words and hold the word once,
    pronounced as by itself. All sentences of a word count as one item.
    """
    by_word: dict[str, list[str]] = {}
    for sentence in sorted({s for d in documents for s in d.sentences}, key=content_id):
        words = [word.strip(_MARKS).lower() for word in sentence.split()]
        if len(words) <= max_words:
            for word in set(words):
                if words.count(word) == 1:
                    by_word.setdefault(word, []).append(sentence)
    found = [_in_sentences(item, by_word.get(item.word, ()), phonemise, per_word) for item in invented]
    rounds = [pairs[turn] for turn in range(per_word) for pairs in found if turn < len(pairs)]
    return collect(rounds[:n])


def _in_sentences(
    item: Invented, sentences: Sequence[str], phonemise: Phonemise, at_most: int
) -> list[tuple[ItemPair, tuple[Utterance, ...]]]:
    made: list[tuple[ItemPair, tuple[Utterance, ...]]] = []
    for sentence in sentences:
        if len(made) == at_most:
            break
        place = [word.strip(_MARKS).lower() for word in sentence.split()].index(item.word)
        pieces = phonemise(sentence)
        spoken = pieces[0].split(" ") if len(pieces) == 1 else []
        if len(spoken) != len(sentence.split()) or segments(spoken[place]) != item.plain:
            continue
        other = [*spoken[:place], _respell(spoken[place], item.pseudo), *spoken[place + 1 :]]
        used = tuple(spoken_phonemes(" ".join(said), item.word) for said in (spoken, other))
        pair = make_pair("words_in_sentence", item.rule, (), used[:1], used[1:], (sentence, *_texts(item)[1:]))
        made.append((replace(pair, item=item.word), used))
    return made


def _texts(item: Invented) -> tuple[str, str, str]:
    return "", f"{item.word} /{item.plain}/", f"/{item.pseudo}/"


def segments(phonemes: str) -> str:
    """The segments alone: no stress marks, length marks, spaces or punctuation."""
    return "".join(symbol for symbol in phonemes if symbol in SEGMENTS)


def _grams(word: str, order: int) -> list[str]:
    padded = EDGE + word + EDGE
    return [padded[i : i + order] for i in range(len(padded) - order + 1)]


def _respell(phonemes: str, changed: str) -> str:
    """Put the changed segments where the old ones stood; stress marks and punctuation stay."""
    new = iter(changed)
    return "".join(next(new) if symbol in SEGMENTS else symbol for symbol in phonemes)


def _pseudo_word(word: str, model: Phonotactics, taken: Collection[str], draw: random.Random) -> tuple[str, str] | None:
    """(pseudo-word, rule) of the strictest rule that has one: trigrams before bigrams, more changes before fewer."""
    places = [i for i, segment in enumerate(word) if model.substitutes(segment)]
    target = model.log_probability(word)
    for order, rule in ((3, "trigram"), (2, "bigram")):
        for changes in range(min(max(1, round(len(word) / 3)), len(places)), 0, -1):
            drawn = {_substitute(word, sorted(draw.sample(places, changes)), model, order, draw) for _ in range(TRIES)}
            candidates = sorted(candidate for candidate in drawn if candidate and candidate not in taken)
            if candidates:
                return min(candidates, key=lambda c: abs(model.log_probability(c) - target)), rule
    return None


def _substitute(word: str, places: list[int], model: Phonotactics, order: int, draw: random.Random) -> str | None:
    for place in places:
        options = [word[:place] + s + word[place + 1 :] for s in model.substitutes(word[place])]
        options = [option for option in options if model.attests(option, order)]
        if not options:
            return None
        word = draw.choice(options)
    return word
