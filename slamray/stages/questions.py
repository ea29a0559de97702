"""Stages `question_sets` and `story_questions`: spoken questions with their answers, each heard once as units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from slamray.config.base import Located, asset_path, part_of
from slamray.config.speech import ListeningSettings, SpeakingSettings
from slamray.config.tree import Recipe
from slamray.data.question_sets import Question, QuestionSet, check_kind, read_question_set
from slamray.data.story_questions import KINDS, make_story_questions
from slamray.data.text import EVALUATION
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stage.parts import write_parts
from slamray.stage.records import from_table
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import corpus
from slamray.stages.items import MOST_DOCUMENTS
from slamray.stages.published import SHARD_RECORDINGS
from slamray.stages.speak_and_listen import SpeechFacts, listen, speak
from slamray.stages.units import SPEAKING

NAMES = ("question_sets", "story_questions")
QUESTIONS = "questions"  # in a stage's folder: the questions, in parts
PASSAGE_SENTENCES = 3  # before a question about a story; chosen, not tuned
LONGEST_SENTENCE_WORDS = 14  # of a passage, so that passage and question are some 15 s of speech; chosen, not tuned


@dataclass(frozen=True)
class QuestionFacts(SpeechFacts):
    """questions: of each set, or of each kind of questions about stories. sets: what is not as published."""

    questions: Mapping[str, int]
    sets: Mapping[str, Any]


def stages(recipe: Recipe, documents: Stage) -> tuple[Stage, ...]:
    """Those that the recipe asks for; BadInput for a kind of set that is not known."""
    asked, made = recipe.evaluate.questions, []
    for name in asked.sets:
        check_kind(name)
    if asked.sets:
        sets = Sets(tuple(sorted(asked.sets.items())))
        listening = ListeningSettings(
            encoder=recipe.speech.encoder,
            shard_documents=SHARD_RECORDINGS,
            sample_documents=0,
            max_bad_share=recipe.speech.max_bad_share,
        )
        settings = {"sets": Located(sets.content, sets), "listening": listening}
        made.append(Stage("question_sets", run_sets, settings, cost=sets.cost))
    if asked.stories:
        rules = {"count": asked.stories, "seed": asked.seed, "speaking": part_of(recipe.speech, SpeakingSettings)}
        made.append(Stage("story_questions", run_stories, rules, (documents,), group=SPEAKING))
    return tuple(made)


@dataclass(frozen=True)
class Sets:
    """The sets that a recipe names, (name, folder); they are read when something is asked of them, and once."""

    named: tuple[tuple[str, str], ...]

    @cached_property
    def found(self) -> list[QuestionSet]:
        """BadInput for whatever is wrong with one of them."""
        return [read_question_set(name, Path(asset_path(folder))) for name, folder in self.named]

    def content(self) -> dict[str, Any]:
        return {one.name: dict(one.identity) for one in self.found}

    def cost(self) -> str:
        notes = "".join(f"; {one.name}: {one.facts['note']}" for one in self.found if one.facts["note"])
        return f"encodes {sum(len(one.recordings) for one in self.found):,} questions{notes}"


def run_sets(
    inputs: Inputs, out: Folder, machine: Machine, sets: Located, listening: ListeningSettings
) -> QuestionFacts:
    """Encode the sound of all sets; questions to a table."""
    found: list[QuestionSet] = sets.place.found
    heard = [recording for one in found for recording in one.recordings]
    if not heard:
        raise BadInput("evaluate.questions.sets: no question has a sound; bring the files with their column audio")
    facts = listen(heard, out, machine, listening, "question_sets", "speech.max_bad_share")
    write_parts(out, QUESTIONS, (question for one in found for question in one.questions), Question)
    counts = {one.name: len(one.questions) for one in found}
    return QuestionFacts(**asdict(facts), questions=counts, sets={one.name: dict(one.facts) for one in found})


def run_stories(
    inputs: Inputs, out: Folder, machine: Machine, count: int, seed: int, speaking: SpeakingSettings
) -> QuestionFacts:
    """Make questions about stories of the evaluation split, and speak each after its passage."""
    documents = list(corpus.read(inputs["corpus"], EVALUATION, MOST_DOCUMENTS))
    questions, utterances = make_story_questions(documents, count, seed, PASSAGE_SENTENCES, LONGEST_SENTENCE_WORDS)
    if not questions:
        raise BadInput(
            f"evaluate.questions.stories={count}: no rule finds a fact in {len(documents)} evaluation documents; "
            "bring more stories, or say evaluate.questions.stories=0"
        )
    facts = speak(utterances, out, machine, speaking, "story_questions")
    write_parts(out, QUESTIONS, questions, Question)
    kinds = Counter(question.kind for question in questions)
    return QuestionFacts(**asdict(facts), questions={kind: kinds[kind] for kind in KINDS}, sets={})


def read(folder: Folder) -> Sequence[Question]:
    """The questions as they were made."""
    names = folder.names(f"{QUESTIONS}/part-*.parquet")
    return [question for name in names for question in from_table(folder.read_table(name), Question)]
