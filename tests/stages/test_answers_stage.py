"""Spoken questions from their Parquet file to shares: a model that was taught its answers, and a question unheard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.machine import InProcess
from support.published_sets import say
from transformers import Qwen2Config, Qwen2ForCausalLM

from slamray.config.base import ASSETS, Located
from slamray.config.evaluation import AnswerSettings, SamplingSettings, ScoringSettings
from slamray.config.model import BaseSettings
from slamray.config.speech import EncoderSettings, ListeningSettings
from slamray.errors import BadInput
from slamray.evaluate.summary import wilson
from slamray.model.saved_vocabulary import set_vocabulary
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import save_unit_lm
from slamray.speech.audio import to_flac
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stages import answers, questions, units
from slamray.stages.checkpoints import MODEL
from slamray.tokens.vocabulary import Vocabulary

BASE = BaseSettings(base=ASSETS + "story-lm")
# Question, right answer, what the model is taught to say; the last question has no sound.
ROWS = (
    ("What is the capital of France?", "Paris", "It is Paris."),
    ("How many days has a week?", "7", "seven"),
    ("Which city has the famous cathedral?", "Milan", "Rome"),
    ("Who is there?", "Ann", ""),
)
SPOKEN = [3, 14, 7, 2, 19, 5]  # units that it is taught to say to the first question


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> EncoderSettings:
    return EncoderSettings(
        model=str(tiny_encoder),
        centroids=f"{tiny_encoder}/centroids.safetensors",
        layer=2,
        pad_samples=40,
        dtype="float32",
    )


@pytest.fixture(scope="module")
def vocabulary(encoder: EncoderSettings) -> Vocabulary:
    return Vocabulary.joint(TextTokeniser(BASE.base).vocabulary, check_encoder(encoder).vocabulary)


@pytest.fixture(scope="module")
def asked(encoder: EncoderSettings, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The questions, spoken and encoded."""
    folder = tmp_path_factory.mktemp("asked")
    sound = say([question for question, _, _ in ROWS[:3]])
    rows: list[dict[str, Any]] = [
        {
            "question": text,
            "answer": right,
            "audio": {"bytes": to_flac(sound[text]) if text in sound else None, "path": "x"},
        }
        for text, right, _ in ROWS
    ]
    rows[3]["audio"] = None
    (folder / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "set" / "test.parquet")
    sets = questions.Sets((("trivia_qa", str(folder / "set")),))
    listening = ListeningSettings(encoder=encoder, shard_documents=2, sample_documents=0)
    out = Folder(folder / "heard")
    facts = questions.run_sets({}, out, InProcess(), Located(sets.content, sets), listening)
    assert facts.questions == {"trivia_qa": 4} and facts.utterances == 3
    return out


@pytest.fixture(scope="module")
def taught(asked: Folder, vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A small model of text and speech that says what it was taught to each question that it hears."""
    encode, heard = TextTokeniser(BASE.base), units.by_id(asked)
    said = {question: answer for question, _, answer in ROWS}
    documents = [
        (answers.prompt_of(one, "st", heard, encode, vocabulary) or [], [*encode(said[one.text]), vocabulary.bos])
        for one in questions.read(asked)[:3]
    ]
    first = answers.prompt_of(questions.read(asked)[0], "ss", heard, encode, vocabulary) or []
    documents.append((first, [*vocabulary.to_tokens(np.array(SPOKEN)).tolist(), vocabulary.bos]))
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
        vocab_size=vocabulary.size, tie_word_embeddings=True,
    )  # fmt: skip
    set_vocabulary(config, vocabulary)
    model = Qwen2ForCausalLM(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        for prompt, answer in documents:
            labels = torch.tensor([[-100] * len(prompt) + answer])
            model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    folder = Folder(tmp_path_factory.mktemp("taught"))
    save_unit_lm(model, Path(str(folder / MODEL)))
    return folder


def ask(taught: Folder, asked: Folder, out: Path, vocabulary: Vocabulary, vocoder: Path, *ways: Any) -> Folder:
    scoring = ScoringSettings(
        sampling=SamplingSettings(batch=2, max_new_tokens=20, top_k=1, repetition_penalty=1), vocoder=str(vocoder)
    )
    base = Located(lambda: None, BASE)
    inputs = {"pretrained": taught, "question_sets": asked}
    answer = AnswerSettings(ways=ways, text_tokens=12)
    facts = answers.run(inputs, Folder(out), InProcess(), "pretrained", answer, scoring, vocabulary, base)
    out.mkdir(exist_ok=True)
    Folder(out).write_json("facts.json", [vars(share) for share in facts.shares])
    return Folder(out)


def test_taught_answers_are_right_by_either_rule_and_a_question_without_sound_is_wrong(
    taught: Folder, asked: Folder, tmp_path: Path, vocabulary: Vocabulary, tiny_vocoder: Path
) -> None:
    out = ask(taught, asked, tmp_path / "out", vocabulary, tiny_vocoder, "st", "ss")
    found = {(row["way"], row["rule"]): row for row in out.read_json("facts.json")}
    said = {(one.way, one.question): one for one in answers.read(out)}
    assert [said["st", question].said for question, _, _ in ROWS] == ["It is Paris.", "seven", "Rome", ""]
    assert found["st", "contains"]["share"] == 2 / 4 and found["st", "exact"]["share"] == 1 / 4
    assert (found["st", "contains"]["low"], found["st", "contains"]["high"]) == wilson(0.5, 4)
    assert all((row["n"], row["without_sound"], row["constant"]) == (4, 1, 0.25) for row in found.values())
    spoken = said["ss", ROWS[0][0]]
    assert list(spoken.units) == SPOKEN and spoken.ended and not said["ss", ROWS[3][0]].units


def test_what_a_killed_stage_had_answered_stays_and_the_rest_is_the_same(
    taught: Folder, asked: Folder, tmp_path: Path, vocabulary: Vocabulary, tiny_vocoder: Path
) -> None:
    first = ask(taught, asked, tmp_path / "out", vocabulary, tiny_vocoder, "st", "tt")
    before = answers.read(first)
    first.remove("batches/text-000001.said.json")
    again = answers.read(ask(taught, asked, tmp_path / "out", vocabulary, tiny_vocoder, "st", "tt"))
    assert before == again and len(before) == 2 * 4
    assert [one.way for one in before if one.without_sound] == ["st"]  # what is read needs no sound


def test_ways_that_a_model_does_not_have_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(BadInput, match=r"evaluate.questions.ways=\[st, ss\]: a model of units alone hears and speaks"):
        answers.check(vocabulary.units_alone, AnswerSettings())
    answers.check(vocabulary.units_alone, AnswerSettings(ways=("ss",)))
    with pytest.raises(BadInput, match=r"evaluate.questions.ways: no way to ask"):
        answers.check(vocabulary, AnswerSettings(ways=()))
