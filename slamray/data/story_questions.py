"""Questions about stories, derived by rule: who, where and what, each answered by one sentence of a passage.

    who     A boy named Tim ...                              What was the boy named?      Tim
    where   Tim went to the park. Tim was playing in ...     Where did Tim go?            park
    what    Tim saw a big tree.                              What did Tim see?            tree

Stories say nothing that is true beyond them, so the passage is heard (or read) before the question. A question does not
hold its answer, and no two sentences of its passage answer a question of its kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from slamray.data.ids import content_id
from slamray.data.item_pairs import Utterance, spoken
from slamray.data.question_sets import Question
from slamray.data.text import TextDocument

SET = "stories"
KINDS = ("who", "where", "what")
_WHO = re.compile(r"\b(?:a|an) (?:\w+ ){0,2}?(?P<noun>[a-z]+) (?:named|called) (?P<answer>[A-Z][a-z]+)\b")
_PLACES = (
    "attic barn beach bedroom bridge castle cave church city farm field forest garage garden hill hospital house "
    "island jungle kitchen lake library mall market meadow mountain museum ocean park playground pond pool restaurant "
    "river school sea shop shore store street town village yard zoo"
)
_PLACE = rf"(?:the|a|an) (?:[a-z]+ )?(?P<answer>{'|'.join(_PLACES.split())})\b"
_DID = {"saw": "see", "found": "find", "had": "have", "made": "make", "got": "get", "bought": "buy", "took": "take",
        "ate": "eat", "lost": "lose", "wanted": "want"}  # fmt: skip
_NAMED = r"^(?:[A-Z]\w+(?: \w+){0,2}, )?(?P<who>[A-Z]?[a-z]+)"
_WENT = re.compile(rf"{_NAMED} (?:went|walked|ran) to {_PLACE}")
_WAS = re.compile(rf"{_NAMED} (?P<was>was|were) (?P<doing>[a-z]+ing) (?:[a-z]+ )?(?:in|at|near|by) {_PLACE}")
_NOTHING = "bit|face|few|idea|look|lot|one|place|thing|time|way"  # such answers name nothing
_THEN = "and|because|behind|but|by|called|for|from|full|in|named|near|of|on|so|that|to|under|which|who|with"
_WHAT = re.compile(
    rf"{_NAMED} (?P<verb>{'|'.join(_DID)}) (?:a|an) (?!lot\b)(?:[a-z]+,? ){{0,2}}?(?!(?:{_NOTHING})\b)"
    rf"(?P<answer>[a-z]+)(?=[.!?]|,? (?:{_THEN}|[a-z]+ing)\b)"
)


@dataclass(frozen=True)
class Fact:
    """A question with its answer."""

    question: str
    answer: str


def make_story_questions(
    documents: Sequence[TextDocument], n: int, seed: int, sentences: int, max_words: int
) -> tuple[list[Question], list[Utterance]]:
    """At most n questions, one of each story, and their utterances; as many of each kind as there are.

    sentences: of a passage, each of at most max_words words. A hash of (seed, doc_id) chooses the stories.
    """
    found: dict[str, list[tuple[Question, Utterance]]] = {kind: [] for kind in KINDS}
    for document in sorted(documents, key=lambda document: content_id(seed, document.doc_id)):
        own = list(_of_story(document, sentences, max_words))
        if own:  # the kind of which there are fewest so far
            question, utterance = min(own, key=lambda pair: len(found[pair[0].kind]))
            found[question.kind].append((question, utterance))
        if sum(map(len, found.values())) >= n:
            break
    made = [pair for pairs in found.values() for pair in pairs]
    utterances = {utterance.utterance_id: utterance for _, utterance in made}
    return [question for question, _ in made], [utterances[key] for key in sorted(utterances)]


def _of_story(document: TextDocument, sentences: int, max_words: int) -> Iterator[tuple[Question, Utterance]]:
    for start in range(len(document.sentences) - sentences + 1):
        passage = document.sentences[start : start + sentences]
        if any(len(sentence.split()) > max_words for sentence in passage):
            continue
        answered = [facts_of(sentence) for sentence in passage]
        for kind in KINDS:
            facts = [facts[kind] for facts in answered if kind in facts]
            if len(facts) == 1:
                utterance = spoken(*passage, facts[0].question)
                key = content_id(SET, document.doc_id, kind, start)
                answers = (facts[0].answer,)
                yield Question(key, SET, kind, passage, facts[0].question, answers, utterance.utterance_id), utterance


def facts_of(sentence: str) -> Mapping[str, Fact]:
    """What a sentence answers, by kind; none of which the question itself would hold the answer."""
    found: dict[str, Fact] = {}
    if who := _WHO.search(sentence):
        found["who"] = Fact(f"What was the {who['noun']} named?", who["answer"])
    if went := _WENT.match(sentence):
        found["where"] = Fact(f"Where did {_subject(went['who'])} go?", went["answer"])
    elif was := _WAS.match(sentence):
        found["where"] = Fact(f"Where {was['was']} {_subject(was['who'])} {was['doing']}?", was["answer"])
    if what := _WHAT.match(sentence):
        found["what"] = Fact(f"What did {_subject(what['who'])} {_DID[what['verb']]}?", what["answer"])
    return {kind: fact for kind, fact in found.items() if fact.answer.lower() not in fact.question.lower()}


def _subject(word: str) -> str:
    """A name as it is; a pronoun as it stands inside a sentence."""
    return word.lower() if word.lower() in ("he", "she", "it", "they", "we") else word
