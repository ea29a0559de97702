"""Minimal grammatical pairs (sBLIMP-like): short sentences over the stories' own words, right against wrong.

The two sentences of a pair have the same number of words and differ in one place. Pairs come in twins in which the
two forms change roles ("The dog is | are", "The dogs are | is"), so no form is right more often than it is wrong;
in word_order both sentences hold the same words. A name, noun, verb or adjective is used only if the stories have it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from slamray.data.item_pairs import ItemSet, collect, make_pair, spoken

METRIC = "grammar"
PARTS = ("agreement", "determiner", "pronoun", "participle", "word_order")
MIN_COUNT = 5  # a word must occur this often in the stories; chosen, not tuned
KINDS = {
    "name": "Lily Tim Tom Ben Sam Lucy Max Jack Sue Amy Anna Emma Bob Peter Jane Kate Leo Mia Billy Mark Fred Ella",
    "animal": "dog cat bird frog bear rabbit dragon horse bee duck monkey cow owl squirrel snail lion girl boy farmer",
    "thing": "ball doll flower hat rock shell apple coin book ring drum cup key toy car boat tree box lamp stone",
    "place": "park garden forest lake house farm beach store river castle barn",
    "adjective": "big small happy sad red blue green new nice shiny loud proud brave lonely silly soft strong funny",
    "mood": "happy sad brave proud tired hungry scared lonely silly kind",
    "past": "saw found liked helped followed loved heard wanted",  # one form for all persons
    "bare": "run jump play swim fly sleep help sing eat",
}
FORMS = (("is", "are"), ("was", "were"))
PRESENT = (("has", "have"), ("likes", "like"), ("wants", "want"), ("sees", "see"))
DETERMINERS = (("this", "these"), ("that", "those"), ("one", "two"))
CASES = (("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me"))
# past, participle, and what may follow either
IRREGULAR = (
    ("went", "gone", "to the {place}"),
    ("saw", "seen", "the {thing}"),
    ("took", "taken", "the {thing}"),
    ("gave", "given", "them the {thing}"),
    ("flew", "flown", "over the {place}"),
    ("broke", "broken", "the {thing}"),
    ("fell", "fallen", "near the {place}"),
    ("hid", "hidden", "the {thing}"),
    ("threw", "thrown", "the {thing}"),
    ("forgot", "forgotten", "the {thing}"),
    ("ate", "eaten", "near the {place}"),
    ("knew", "known", "the {place}"),
    ("did", "done", "it again"),
    ("wrote", "written", "about the {thing}"),
    ("grew", "grown", "near the {place}"),
)
Twin = list[tuple[str, str]]  # (right, wrong) sentences, without the capital and the full stop


class WordLists:
    """The words of the templates that the stories use; draws one of a kind."""

    def __init__(self, word_counts: Mapping[str, int], draw: random.Random) -> None:
        self.draw = draw
        self.kinds = {
            kind: [w for w in words.split() if word_counts.get(w.lower(), 0) >= MIN_COUNT] or words.split()[:1]
            for kind, words in KINDS.items()
        }
        both = [row for row in IRREGULAR if word_counts.get(row[0], 0) and word_counts.get(row[1], 0)]
        self.irregular = both or list(IRREGULAR[:1])

    def pick(self, kind: str) -> str:
        """One word of the kind."""
        return self.draw.choice(self.kinds[kind])


def make_grammar(word_counts: Mapping[str, int], n: int, seed: int) -> ItemSet:
    """At most n pairs (rounded down to tens), as many of each of the five parts. word_counts: of the stories."""
    draw = random.Random(f"grammar/{seed}")
    words = WordLists(word_counts, draw)
    made = []
    for part in PARTS:
        seen: set[str] = set()
        twins: list[Twin] = []
        for _ in range(50 * n):  # a small vocabulary may not have so many different sentences
            if len(twins) == n // (2 * len(PARTS)):
                break
            twin = TEMPLATES[part](words)
            if not seen & {sentence for pair in twin for sentence in pair}:
                twins.append(twin)
                seen |= {sentence for pair in twin for sentence in pair}
        for right, wrong in (pair for twin in twins for pair in twin):
            used = spoken(_finish(right)), spoken(_finish(wrong))
            made.append((make_pair(METRIC, part, (), used[:1], used[1:]), used))
    return collect(made)


def _finish(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:] + "."


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("x", "s", "ch", "sh")) else "s")


def _agreement(words: WordLists) -> Twin:
    """The dog is | are happy; the dogs are | is happy."""
    noun = words.pick("animal")
    if words.draw.random() < 0.6:
        one, many = words.draw.choice(FORMS)
        rest = words.draw.choice((words.pick("mood"), f"in the {words.pick('place')}", f"very {words.pick('mood')}"))
    else:
        one, many = words.draw.choice(PRESENT)
        rest = f"the {words.pick('adjective')} {words.pick('thing')}"
    return [
        (f"the {noun} {one} {rest}", f"the {noun} {many} {rest}"),
        (f"the {_plural(noun)} {many} {rest}", f"the {_plural(noun)} {one} {rest}"),
    ]


def _determiner(words: WordLists) -> Twin:
    """Tim saw this | these ball; Tim saw these | this balls."""
    one, many = words.draw.choice(DETERMINERS)
    start = f"{words.pick('name')} {words.pick('past')}"
    noun = words.pick(words.draw.choice(("animal", "thing")))
    between = words.draw.choice(("", f"{words.pick('adjective')} "))
    return [
        (f"{start} {one} {between}{noun}", f"{start} {many} {between}{noun}"),
        (f"{start} {many} {between}{_plural(noun)}", f"{start} {one} {between}{_plural(noun)}"),
    ]


def _pronoun(words: WordLists) -> Twin:
    """He | him saw the dog; the dog saw him | he."""
    subject, object_ = words.draw.choice(CASES)
    verb, other = words.pick("past"), f"the {words.pick('adjective')} {words.pick('animal')}"
    return [
        (f"{subject} {verb} {other}", f"{object_} {verb} {other}"),
        (f"{other} {verb} {object_}", f"{other} {verb} {subject}"),
    ]


def _participle(words: WordLists) -> Twin:
    """Lily went | gone to the park; Lily had gone | went to the park."""
    past, participle, rest = words.draw.choice(words.irregular)
    subject = words.draw.choice((words.pick("name"), f"the {words.pick('animal')}"))
    rest = rest.format(place=words.pick("place"), thing=words.pick("thing"))
    return [
        (f"{subject} {past} {rest}", f"{subject} {participle} {rest}"),
        (f"{subject} had {participle} {rest}", f"{subject} had {past} {rest}"),
    ]


def _word_order(words: WordLists) -> Twin:
    """The dog did not | not did run; Tim saw a red | red a ball."""
    animal, name, thing = words.pick("animal"), words.pick("name"), words.pick("thing")
    bare, adjective, mood, past = words.pick("bare"), words.pick("adjective"), words.pick("mood"), words.pick("past")
    auxiliary = words.draw.choice(("did", "could", "would", "will"))
    negated = (f"the {animal} {auxiliary} not {bare}", f"the {animal} not {auxiliary} {bare}")
    found = (f"{name} {past} a {adjective} {thing}", f"{name} {past} {adjective} a {thing}")
    felt = (f"the {animal} was very {mood}", f"the {animal} very was {mood}")
    return [negated, words.draw.choice((found, felt))]


TEMPLATES: dict[str, Callable[[WordLists], Twin]] = {
    "agreement": _agreement,
    "determiner": _determiner,
    "pronoun": _pronoun,
    "participle": _participle,
    "word_order": _word_order,
}
