"""Stages `answers_*`: what one checkpoint answers to spoken questions, in text or in speech, and how much is right.

A question without sound, or whose sound could not be read, counts as wrong where it is heard. Nothing is shown to the
model but the question and, before a question about a story, its passage: the book is closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slamray.config.base import Located, part_of
from slamray.config.evaluation import AnswerSettings, ScoringSettings, Way
from slamray.config.model import BaseSettings
from slamray.config.tree import Recipe
from slamray.data.question_sets import Question
from slamray.errors import BadInput
from slamray.evaluate.answers import RULES
from slamray.evaluate.summary import wilson
from slamray.evaluate.wer import check_recogniser
from slamray.stage.folder import Folder
from slamray.stage.parts import write_parts
from slamray.stage.records import from_table
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import questions, units
from slamray.stages.checkpoints import MODEL
from slamray.stages.saying import Said, Speaker, Turn, say
from slamray.stages.vocabulary import vocabulary_of
from slamray.tokens.vocabulary import Vocabulary

ANSWERS = "answers"  # in a stage's folder: a row for each question and way, in parts
WAYS: Mapping[str, str] = {"st": "S→T", "ss": "S→S", "ts": "T→S", "tt": "T→T"}


@dataclass(frozen=True)
class Answer:
    """What became of a question one way. said: text, or what was heard in speech. without_sound: nothing was asked."""

    set: str
    kind: str
    way: str
    question_id: str
    passage: Sequence[str]
    question: str
    answers: Sequence[str]
    said: str
    units: Sequence[int]
    ended: bool
    without_sound: bool
    contains: bool
    exact: bool


@dataclass(frozen=True)
class Share:
    """The share of a set's questions that is right by a rule, one way.

    low, high: Wilson's interval. without_sound: of n, they count as wrong. constant: what it would be for who always
    says the answer that is right most often. kind: of the questions, or `all`.
    """

    set: str
    kind: str
    way: str
    rule: str
    n: int
    without_sound: int
    share: float
    low: float
    high: float
    constant: float


@dataclass(frozen=True)
class AnswerFacts:
    """Shares of each set, way and rule, then of each kind of a set's questions where there are several."""

    shares: Sequence[Share]


def stages(
    recipe: Recipe,
    checkpoints: Sequence[Stage],
    asked: Sequence[Stage],
    given: Mapping[str, Located] | None = None,
) -> tuple[Stage, ...]:
    """One for each checkpoint, where the recipe asks questions. given: folders of models from anywhere, by name."""
    if not asked:
        return ()
    known, answer = vocabulary_of(recipe), part_of(recipe.evaluate.questions, AnswerSettings)
    check(known, answer)
    settings = {
        "answer": answer,
        "scoring": part_of(recipe.evaluate, ScoringSettings),
        "vocabulary": known,
        "base": Located(lambda: None, part_of(recipe.model, BaseSettings) if known.is_joint else None),
    }
    own = (
        Stage(f"answers_{checkpoint.name}", run, {"checkpoint": checkpoint.name, **settings}, (checkpoint, *asked))
        for checkpoint in checkpoints
    )
    others = (
        Stage(f"answers_{name}", run, {"checkpoint": name, "model": at, **settings}, tuple(asked))
        for name, at in (given or {}).items()
    )
    return (*own, *others)


def check(vocabulary: Vocabulary, answer: AnswerSettings) -> None:
    """BadInput for ways that the model or this installation does not have."""
    if not answer.ways:
        raise BadInput("evaluate.questions.ways: no way to ask; say [st] or [st, ss]")
    if not vocabulary.is_joint and set(answer.ways) != {"ss"}:
        raise BadInput(
            f"evaluate.questions.ways=[{', '.join(answer.ways)}]: a model of units alone hears and speaks; say [ss], "
            "or joint.kinds for a model that reads and writes"
        )
    if any(way.endswith("s") for way in answer.ways):
        check_recogniser()


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    checkpoint: str,
    answer: AnswerSettings,
    scoring: ScoringSettings,
    vocabulary: Vocabulary,
    base: Located,
    model: Located | None = None,
) -> AnswerFacts:
    """Ask every question every way; a row for each to Parquet. model: a folder; None: of the input `checkpoint`."""
    from slamray.model.text_tokeniser import TextTokeniser  # seconds that a plan does not need

    asked: list[Question] = []
    sounds: dict[str, np.ndarray] = {}
    for name in questions.NAMES:
        if name in inputs:
            asked += questions.read(inputs[name])
            sounds |= units.by_id(inputs[name])
    encode = TextTokeniser(base.place.base, base.place.revision) if base.place else None
    turns: dict[Way, dict[str, Turn]] = {}
    for way in answer.ways:
        most = answer.text_tokens if way.endswith("t") else scoring.sampling.max_new_tokens
        prompts = ((one, prompt_of(one, way, sounds, encode, vocabulary)) for one in asked)
        turns[way] = {
            one.question_id: Turn(f"{way}/{one.question_id}", ids, most) for one, ids in prompts if ids is not None
        }
    folder = str(model.place if model else inputs[checkpoint] / MODEL)
    speaker = Speaker(folder, vocabulary, base.place, scoring.sampling, None, scoring.vocoder)
    said: dict[str, Said] = {}
    for modality in ("text", "speech"):
        wanted = [turn for way in answer.ways if way.endswith(modality[0]) for turn in turns[way].values()]
        said |= say(f"answers_{checkpoint}", wanted, modality, speaker, out, machine)
    found = [_judge(one, way, turns[way].get(one.question_id), said) for way in answer.ways for one in asked]
    write_parts(out, ANSWERS, found, Answer)
    return AnswerFacts(list(shares(found, scoring.interval)))


def prompt_of(
    question: Question, way: Way, sounds: Mapping[str, np.ndarray], encode: Any, vocabulary: Vocabulary
) -> list[int] | None:
    """`<S> <tag> question [<tag>]`, the second tag where the answer is of the other modality; None without a sound."""
    if way.startswith("s"):
        heard = sounds.get(question.utterance_id)
        if heard is None or not len(heard):
            return None
        ids = [*vocabulary.before_units, *vocabulary.to_tokens(heard).tolist()]
    else:
        ids = [vocabulary.bos, vocabulary.text_tag, *encode(" ".join([*question.passage, question.text]))]
    if way == "st":
        ids.append(vocabulary.text_tag)
    elif way == "ts":
        ids.append(vocabulary.speech_tag)
    return ids


def _judge(question: Question, way: Way, turn: Turn | None, said: Mapping[str, Said]) -> Answer:
    one = said[turn.key] if turn else Said("", "", (), False)
    right = {name: turn is not None and rule(one.text, question.answers) for name, rule in RULES.items()}
    return Answer(
        question.set,
        question.kind,
        way,
        question.question_id,
        question.passage,
        question.text,
        question.answers,
        one.text,
        one.units,
        one.ended,
        turn is None,
        **right,
    )


def shares(answers: Sequence[Answer], interval: float) -> Iterator[Share]:
    """The share of each set, way and rule; then those of its kinds, where there are several."""
    for name in dict.fromkeys(one.set for one in answers):
        own = [one for one in answers if one.set == name]
        kinds = list(dict.fromkeys(one.kind for one in own))
        for kind in ["all", *(kinds if len(kinds) > 1 else [])]:
            for way in dict.fromkeys(one.way for one in own):
                members = [one for one in own if one.way == way and kind in ("all", one.kind)]
                for rule in RULES:
                    yield _share(members, name, kind, way, rule, interval)


def _share(answers: Sequence[Answer], name: str, kind: str, way: str, rule: str, interval: float) -> Share:
    n = len(answers)
    share = sum(getattr(one, rule) for one in answers) / n
    often = Counter(answer.lower() for one in answers for answer in {text.lower() for text in one.answers})
    most = often.most_common(1)[0][1] / n
    without = sum(one.without_sound for one in answers)
    return Share(name, kind, way, rule, n, without, share, *wilson(share, n, interval), most)


def rows(shares: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Shares of a manifest, their ways as readers are shown them."""
    return [{**share, "way": WAYS[share["way"]]} for share in shares]


def lines(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """For a terminal: a row for each set, way and rule, a column for each checkpoint; found: `rows` by their titles."""
    if not found:
        return []
    head = f"{'questions':<24}{'way':<6}{'rule':<10}{'n':>7}{'no sound':>10}{'one answer':>12}"
    made = [head + "".join(f"{title:>24}" for title in found)]
    for cells in zip(*found.values(), strict=True):
        first = cells[0]
        name = first["set"] if first["kind"] == "all" else f"  {first['kind']}"
        line = f"{name:<24}{first['way']:<6}{first['rule']:<10}{first['n']:>7,}{first['without_sound']:>10,}"
        made.append(f"{line}{100 * first['constant']:>12.1f}" + "".join(f"{_shown(cell):>24}" for cell in cells))
    return [*made, "right answers in %; interval: Wilson's; one answer: who always says the commonest right answer"]


def _shown(share: Mapping[str, Any]) -> str:
    return f"{100 * share['share']:.1f} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def read(folder: Folder) -> list[Answer]:
    """Every answer of a stage."""
    names = folder.names(f"{ANSWERS}/part-*.parquet")
    return [answer for name in names for answer in from_table(folder.read_table(name), Answer)]
