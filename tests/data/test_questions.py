"""Published columns are read as they are, and questions about stories have the answers that a reader gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slamray.data.question_sets import read_question_set
from slamray.data.story_questions import facts_of, make_story_questions
from slamray.data.text import TextDocument
from slamray.errors import BadInput

SOUND = {"bytes": b"RIFF", "path": "a.wav"}
SILENT = {"bytes": None, "path": None}


def write(folder: Path, rows: list[dict[str, Any]], name: str = "data/test-00000-of-00001.parquet") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "row", "answers"),
    [
        ("llama_questions", {"Questions": "Who?", "Answer": "Ann", "audio": SOUND}, ["Ann"]),
        ("llama_questions-fixie", {"question": "Who?", "answer": "Ann", "audio": SOUND}, ["Ann"]),
        ("web_questions", {"url": "u", "question": "Who?", "answers": ["Ann", "Bo"], "audio": SOUND}, ["Ann", "Bo"]),
        ("trivia_qa", {"question": "Who?", "answer": "Ann", "audio": SOUND}, ["Ann"]),
        (
            "trivia_qa-fixie",
            {"question": "Who?", "answer": {"value": "Ann", "aliases": ["Anne", "Ann"]}, "audio": SOUND},
            ["Ann", "Anne"],
        ),
    ],
)
def test_the_published_columns_are_read(tmp_path: Path, name: str, row: dict[str, Any], answers: list[str]) -> None:
    found = read_question_set(name, write(tmp_path, [row]))
    (question,), (recording,) = found.questions, found.recordings
    assert (question.text, list(question.answers), question.set) == ("Who?", answers, name)
    assert question.utterance_id == recording.utterance_id
    assert (recording.path, recording.parquet_row, recording.column) == (
        str(tmp_path / "data/test-00000-of-00001.parquet"), 0, "audio",
    )  # fmt: skip


def test_a_question_without_sound_stays_and_is_counted(tmp_path: Path) -> None:
    rows = [{"question": f"Who {n}?", "answer": "Ann", "audio": audio} for n, audio in enumerate((SOUND, SILENT, None))]
    found = read_question_set("llama_questions", write(tmp_path, rows))
    assert [bool(question.utterance_id) for question in found.questions] == [True, False, False]
    assert len(found.recordings) == 1 and found.facts["without_sound"] == 2
    assert found.facts["note"] == (
        "3 questions, published are 300; 2 have no sound and count as wrong where they are heard"
    )


def test_a_set_is_known_by_its_files_and_not_by_its_folder(tmp_path: Path) -> None:
    row = {"question": "Who?", "answer": "Ann", "audio": SOUND}
    one, other = (read_question_set("trivia_qa", write(tmp_path / name, [row])).identity for name in ("a", "b"))
    assert one == other != read_question_set("trivia_qa", write(tmp_path / "c", [row | {"answer": "Bo"}])).identity


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("alpaca", [], r"evaluate.questions.sets.alpaca: no such kind .* llama_questions web_questions trivia_qa"),
        ("trivia_qa", [{"answer": "Ann", "audio": SOUND}], "no column question or Questions; it has answer audio"),
        ("trivia_qa", [{"question": "Who?", "audio": SOUND}], "no column answers or answer or Answer"),
        ("trivia_qa", [{"question": "Who?", "answer": "Ann"}], "no column audio"),
        ("trivia_qa", [{"question": "Who?", "answer": " ", "audio": SOUND}], "row 0: no text in question or in answer"),
    ],
)
def test_what_is_wrong_with_a_set_is_named(tmp_path: Path, name: str, rows: list[dict[str, Any]], message: str) -> None:
    folder = write(tmp_path, rows) if rows else tmp_path
    with pytest.raises(BadInput, match=message):
        read_question_set(name, folder)


def test_a_folder_without_a_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"evaluate.questions.sets.trivia_qa=.*/none: no such folder"):
        read_question_set("trivia_qa", tmp_path / "none")
    with pytest.raises(BadInput, match="no Parquet file in it"):
        read_question_set("trivia_qa", tmp_path)


@pytest.mark.parametrize(
    ("sentence", "asked"),
    [
        ("One day, a little girl named Amy went to the barn.", {"who": ("What was the girl named?", "Amy")}),
        ("She had a pony called Star.", {"who": ("What was the pony named?", "Star"),
                                         "what": ("What did she have?", "pony")}),
        ("Tim went to the park with his mom.", {"where": ("Where did Tim go?", "park")}),
        ("The next day, they ran to the toy store.", {"where": ("Where did they go?", "store")}),
        ("Sue was playing in the garden.", {"where": ("Where was Sue playing?", "garden")}),
        ("She saw a big, green frog on the wall.", {"what": ("What did she see?", "frog")}),
        ("He found a shiny key.", {"what": ("What did he find?", "key")}),
        ("Mia saw a crocodile swimming in the water.", {"what": ("What did Mia see?", "crocodile")}),
        ("Sam had an idea.", {}),  # names nothing
        ("They had a lot of fun.", {}),
        ("Tim went to the girl.", {}),  # no place
        ("The park was big.", {}),
    ],
)  # fmt: skip
def test_a_sentence_answers_who_where_and_what(sentence: str, asked: dict[str, tuple[str, str]]) -> None:
    assert {kind: (fact.question, fact.answer) for kind, fact in facts_of(sentence).items()} == asked


def story(number: int, *sentences: str) -> TextDocument:
    return TextDocument(f"{number:016x}", sentences, "", "evaluation")


def test_a_question_comes_after_the_passage_that_alone_answers_it() -> None:
    one = story(1, "It was a warm day.", "Tim went to the park.", "The sun was out.", "He was glad.")
    questions, utterances = make_story_questions([one], 10, 0, 3, 14)
    (question,), (utterance,) = questions, utterances
    assert question.passage == ("It was a warm day.", "Tim went to the park.", "The sun was out.")
    assert (question.kind, question.text, list(question.answers)) == ("where", "Where did Tim go?", ["park"])
    assert utterance.utterance_id == question.utterance_id
    assert utterance.sentences == (*question.passage, "Where did Tim go?")


def test_a_passage_with_two_answers_of_a_kind_is_not_asked_about_it() -> None:
    two = story(2, "Tim went to the park.", "Sue went to the shop.", "They were glad.")
    assert make_story_questions([two], 10, 0, 3, 14) == ([], [])


def test_stories_are_asked_about_once_in_kinds_alike_and_in_any_order_of_documents() -> None:
    facts = zip(("park", "shop", "barn", "farm"), ("dog", "cat", "cow", "pig"), strict=True)
    both = [
        story(n, "It was warm.", f"Tim went to the {place}.", f"He saw a {thing}.")
        for n, (place, thing) in enumerate(facts)
    ]
    questions, _ = make_story_questions(both, 4, 0, 3, 14)
    assert sorted(question.kind for question in questions) == ["what", "what", "where", "where"]
    assert make_story_questions(both[::-1], 4, 0, 3, 14)[0] == questions
    assert len(make_story_questions(both, 3, 0, 3, 14)[0]) == 3
