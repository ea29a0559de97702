"""Published sets of spoken questions, Parquet files as on the hub: a row is a question, its answers and its sound.

A set's name is its kind, or its kind, a hyphen and anything (`web_questions-fixie`):

    llama_questions   Questions or question, Answer or answer, audio     TwinkStart/llama-questions, fixie-ai/...
    web_questions     question, answers (a list), audio                  TwinkStart/speech-web-questions, fixie-ai/...
    trivia_qa         question, answer, audio                            TwinkStart/speech-triavia-qa, fixie-ai/...

An answer is a text, a list of texts, or TriviaQA's record of {value, aliases}. A row without sound stays: it cannot be
answered by who only hears.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slamray.config.outside import local_content
from slamray.data.ids import content_id
from slamray.data.recordings import Recording, check_columns
from slamray.errors import BadInput
from slamray.given import files_below, opening

AUDIO = "audio"
_QUESTION, _ANSWER = ("question", "Questions"), ("answers", "answer", "Answer")
_GROUP_ROWS = 64  # of sound that are looked at together


@dataclass(frozen=True)
class Question:
    """What is asked and what is right.

    passage: sentences that go before the question; a published question has none. utterance_id: its sound, passage and
    question together; empty where there is none. kind: a subdivision of the set.
    """

    question_id: str
    set: str
    kind: str
    passage: Sequence[str]
    text: str
    answers: Sequence[str]
    utterance_id: str


@dataclass(frozen=True)
class QuestionSet:
    """A set as it was read. identity: of the files' names and contents. facts: counts, and a note beside them."""

    name: str
    questions: tuple[Question, ...]
    recordings: tuple[Recording, ...]
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]


# Questions of the test sets as published; of TriviaQA's spoken copies no count is published.
QUESTION_KINDS: Mapping[str, int | None] = {"llama_questions": 300, "web_questions": 2_032, "trivia_qa": None}


def check_kind(name: str) -> None:
    """BadInput for a kind of set that is not known."""
    if name.partition("-")[0] not in QUESTION_KINDS:
        known = " ".join(QUESTION_KINDS)
        raise BadInput(f"evaluate.questions.sets.{name}: no such kind of set; a name starts with one of {known}")


def read_question_set(name: str, folder: Path) -> QuestionSet:
    """Read questions and answers, and which of them have sound; no sound is decoded.

    BadInput names the file and what is wrong: no such folder, no Parquet in it, a column missing, no answer in a row.
    """
    check_kind(name)
    key = f"evaluate.questions.sets.{name}={folder}"
    if not folder.is_dir() or not str(folder).strip("."):
        raise BadInput(f"{key}: no such folder")
    with opening(key):
        files = files_below(folder, (".parquet",))
    if not files:
        raise BadInput(f"{key}: no Parquet file in it; slamray/data/question_sets.py shows the layouts")
    questions: list[Question] = []
    recordings: list[Recording] = []
    for path in files:
        for row, (text, answers, has_sound) in enumerate(_rows(path)):
            question_id = content_id(name, path.relative_to(folder).as_posix(), row)
            if has_sound:
                recordings.append(Recording(question_id, str(path), row, AUDIO))
            questions.append(Question(question_id, name, "all", (), text, answers, question_id if has_sound else ""))
    facts = _count(name, questions)
    return QuestionSet(name, tuple(questions), tuple(recordings), local_content(files, folder), facts)


def _rows(path: Path) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    with opening(str(path)):
        file = pq.ParquetFile(path, pre_buffer=False)  # or all its sound is read before the first question
    names = file.schema_arrow.names
    question, answer = (_first(path, names, wanted) for wanted in (_QUESTION, _ANSWER))
    check_columns(file.schema_arrow, (AUDIO,), (AUDIO,), str(path))
    with opening(str(path)):
        for number, batch in enumerate(file.iter_batches(_GROUP_ROWS, columns=[question, answer, AUDIO])):
            columns = (batch[question].to_pylist(), batch[answer].to_pylist(), _has_sound(batch[AUDIO]))
            for row, (text, value, has_sound) in enumerate(zip(*columns, strict=True), number * _GROUP_ROWS):
                answers = _answers(value)
                if not isinstance(text, str) or not text.strip() or not answers:
                    raise BadInput(f"{path}: row {row}: no text in {question} or in {answer}; remove the row")
                yield text, answers, has_sound


def _first(path: Path, names: Sequence[str], wanted: Sequence[str]) -> str:
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise BadInput(f"{path}: no column {' or '.join(wanted)}; it has {' '.join(names)}")
    return found


def _has_sound(audio: pa.Array) -> list[bool]:
    """Whether each cell holds anything: {bytes, path}, {array, sampling_rate}, or bytes alone."""
    cells = [audio]
    if pa.types.is_struct(audio.type):
        fields = {audio.type.field(i).name for i in range(audio.type.num_fields)}
        cells = [pc.struct_field(audio, name) for name in ("bytes", "array", "path") if name in fields]
    lengths = [_length(cell).to_pylist() for cell in cells]
    return [any(one) for one in zip(*lengths, strict=True)]


def _length(cell: pa.Array) -> pa.Array:
    if pa.types.is_nested(cell.type):
        return pc.list_value_length(cell)
    return pc.binary_length(cell)


def _answers(value: Any) -> tuple[str, ...]:
    """The right answers of a cell, each once."""
    if isinstance(value, Mapping):
        value = [value.get("value"), *(value.get("aliases") or ())]
    texts = [value] if isinstance(value, str) else value or ()
    return tuple(dict.fromkeys(text.strip() for text in texts if isinstance(text, str) and text.strip()))


def _count(name: str, questions: Sequence[Question]) -> dict[str, Any]:
    published = QUESTION_KINDS[name.partition("-")[0]]
    without = sum(not question.utterance_id for question in questions)
    notes = []
    if published not in (None, len(questions)):
        notes.append(f"{len(questions):,} questions, published are {published:,}")
    if without:
        notes.append(f"{without:,} have no sound and count as wrong where they are heard")
    return {"questions": len(questions), "without_sound": without, "published": published, "note": "; ".join(notes)}
