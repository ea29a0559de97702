"""Make test items from text that no training stage saw: what is spoken, and which of it is right.

An item set holds utterances, each of which is spoken and encoded once, and pairs that refer to them by id. Metrics
topic_cloze and sentence_order are made here, those of words in word_items.py, grammar in grammar_items.py.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slamray.data.ids import content_id
from slamray.data.text import TextDocument

MIN_WORDS = 3  # sentences shorter than this ("Oh no!") say too little to have a place; chosen, not tuned
COMMON_SHARE = 0.15  # a word in more of the stories than this does not tell which story it is; chosen, not tuned
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


@dataclass(frozen=True)
class Utterance:
    """What is spoken as one recording: sentences, or a phoneme string in the synthesiser's alphabet.

    Utterances with the same `noise_id` share the voice's random noise, so that the two sides of a pair differ only in
    what they say; without one, `utterance_id` seeds the noise. `voice` is one of the synthesiser's; empty: its default.
    """

    utterance_id: str
    sentences: tuple[str, ...] | None
    phonemes: str | None
    noise_id: str = ""
    voice: str = ""


@dataclass(frozen=True)
class ItemPair:
    """A right and a wrong sequence of utterances after a common prompt, which may be empty.

    `part` is a subdivision of the metric, for a finer table. The texts are shown in the report. Pairs with the same
    `item` say the same in several voices and count as one; empty: the pair is an item by itself.
    """

    pair_id: str
    metric: str
    part: str
    prompt: tuple[str, ...]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    prompt_text: str
    chosen_text: str
    rejected_text: str
    item: str = ""


@dataclass(frozen=True)
class ItemSet:
    """Distinct utterances, sorted by id, and the pairs that use them."""

    utterances: tuple[Utterance, ...]
    pairs: tuple[ItemPair, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `ItemSet.from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ItemSet:
        """Rebuild from `to_json` after a trip through JSON, which turns tuples into lists."""
        utterances = tuple(Utterance(**{k: _freeze(v) for k, v in row.items()}) for row in tree["utterances"])
        return cls(utterances, tuple(ItemPair(**{k: _freeze(v) for k, v in row.items()}) for row in tree["pairs"]))


def _freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def spoken(*sentences: str) -> Utterance:
    """An utterance of one or more sentences."""
    return Utterance(content_id("sentences", sentences), sentences, None)


def spoken_phonemes(phonemes: str, noise_id: str) -> Utterance:
    """An utterance of phonemes; utterances with the same noise_id share the voice's noise."""
    return Utterance(content_id("phonemes", phonemes, noise_id), None, phonemes, noise_id)


def make_pair(
    metric: str,
    part: str,
    prompt: Sequence[Utterance],
    chosen: Sequence[Utterance],
    rejected: Sequence[Utterance],
    texts: tuple[str, str, str] | None = None,
) -> ItemPair:
    """A pair with its id; texts (prompt, chosen, rejected) default to what the utterances say."""
    groups = [tuple(u.utterance_id for u in group) for group in (prompt, chosen, rejected)]
    if texts is None:
        say = [" ".join(s for u in group for s in u.sentences or ()) for group in (prompt, chosen, rejected)]
        texts = (say[0], say[1], say[2])
    return ItemPair(content_id(metric, *groups), metric, part, groups[0], groups[1], groups[2], *texts)


def collect(made: Sequence[tuple[ItemPair, Sequence[Utterance]]]) -> ItemSet:
    """One item set from pairs with the utterances they use; an utterance used twice is kept once."""
    utterances = {u.utterance_id: u for _, used in made for u in used}
    return ItemSet(_by_id(utterances), tuple(pair for pair, _ in made))


def merge(*sets: ItemSet) -> ItemSet:
    """All pairs of several item sets, in the order given."""
    utterances = {u.utterance_id: u for items in sets for u in items.utterances}
    return ItemSet(_by_id(utterances), tuple(pair for items in sets for pair in items.pairs))


def _by_id(utterances: Mapping[str, Utterance]) -> tuple[Utterance, ...]:
    return tuple(utterances[key] for key in sorted(utterances))


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, in small letters."""
    return Counter(word for text in texts for word in _WORD.findall(text.lower()))


def find_passages(
    documents: Sequence[TextDocument], n: int, seed: int, prompt_sentences: int, max_words: int
) -> list[tuple[str, ...]]:
    """At most n passages of prompt_sentences + 1 consecutive sentences, one of each story, from documents.

    The passage of a story is its last one whose sentences are all short and distinct, and whose ending repeats a
    content word of the sentences before it, so that a listener can know that it belongs there. A hash of (seed, doc_id)
    chooses the stories.
    """
    common, size = _common_words(documents), prompt_sentences + 1
    passages: dict[str, tuple[str, ...]] = {}  # by ending, so that no two passages end in the same words
    # A hash keeps the choice the same in whatever order the documents come.
    for document in sorted(documents, key=lambda document: content_id(seed, document.doc_id)):
        for end in range(len(document.sentences), size - 1, -1):
            passage = tuple(document.sentences[end - size : end])
            short = all(MIN_WORDS <= len(sentence.split()) <= max_words for sentence in passage)
            if not short or len(set(passage)) < size or passage[-1] in passages:
                continue
            if _content(passage[-1:], common) & _content(passage[:-1], common):
                passages[passage[-1]] = passage
                break
        if len(passages) >= n:
            break
    return list(passages.values())[:n]


def make_topic_cloze(
    documents: Sequence[TextDocument], n: int, seed: int, prompt_sentences: int, max_words: int
) -> ItemSet:
    """At most n pairs: a passage with its true ending (its last sentence) against another story's ending.

    The wrong endings are a permutation of the right ones, so that an ending by itself does not say which it is. A wrong
    ending is about as long as the right one and repeats no content word of the passage.
    """
    common = _common_words(documents)
    passages = find_passages(documents, n, seed, prompt_sentences, max_words)
    rows = sorted(passages, key=lambda passage: (len(passage[-1].split()), content_id(seed, passage)))
    made = []
    for row, other in _derange(rows, lambda a, b: not _content(a[:-1], common) & _content(b[-1:], common)):
        prompt, right, wrong = [spoken(s) for s in row[:-1]], [spoken(row[-1])], [spoken(other[-1])]
        made.append((make_pair("topic_cloze", "all", prompt, right, wrong), prompt + right + wrong))
    return collect(made)


def make_sentence_order(
    documents: Sequence[TextDocument], n: int, seed: int, sentences: int, max_words: int
) -> ItemSet:
    """At most n pairs: a story's first sentences in order against the same in another order, one pair for each story.

    It is the opening, because there a listener can know the order (who is introduced, what "he" refers to). Its
    sentences are distinct and of at most max_words words. The wrong order is drawn by (seed, doc_id) among those in
    which no sentence keeps its place (of four sentences there are nine).
    """
    made: list[tuple[ItemPair, list[Utterance]]] = []
    for document in sorted(documents, key=lambda document: content_id(seed, document.doc_id)):
        opening = document.sentences[:sentences]
        if len(set(opening)) < sentences or any(len(sentence.split()) > max_words for sentence in opening):
            continue
        if len(made) == n:
            break
        draw = random.Random(f"order/{seed}/{document.doc_id}")
        right = [spoken(sentence) for sentence in opening]
        wrong = list(right)
        while any(a == b for a, b in zip(right, wrong, strict=True)):
            draw.shuffle(wrong)
        made.append((make_pair("sentence_order", "all", (), right, wrong), right))
    return collect(made)


def _common_words(documents: Sequence[TextDocument]) -> frozenset[str]:
    seen = Counter(word for d in documents for word in set(_WORD.findall(" ".join(d.sentences).lower())))
    return frozenset(word for word, count in seen.items() if count > max(1, COMMON_SHARE * len(documents)))


def _content(sentences: Sequence[str], common: frozenset[str]) -> set[str]:
    """Words of 3 letters or more that are not common, without a plural s, so that 'dogs' and 'dog' are the same."""
    words = (word.removesuffix("'s") for word in _WORD.findall(" ".join(sentences).lower()))
    return {word.removesuffix("s") for word in words if len(word) >= 3 and word not in common}


def _derange(
    rows: list[tuple[str, ...]], allowed: Callable[[tuple[str, ...], tuple[str, ...]], bool]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Give each row another row as its distractor: its neighbour, or the nearest that is allowed. Each is used once.

    A row without an allowed distractor is left out, and the rest is matched again.
    """
    rows = list(rows)
    while len(rows) > 1:
        match = [(i + 1) % len(rows) for i in range(len(rows))]

        def fits(i: int, j: int) -> bool:
            return i != j and allowed(rows[i], rows[j])

        for i in range(len(rows)):
            if fits(i, match[i]):
                continue
            for k in sorted(range(len(rows)), key=lambda k: abs(k - i)):
                if fits(i, match[k]) and fits(k, match[i]):
                    match[i], match[k] = match[k], match[i]
                    break
            else:
                del rows[i]
                break
        else:
            return [(rows[i], rows[j]) for i, j in enumerate(match)]
    return []
