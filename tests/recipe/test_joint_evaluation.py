"""jobs/evaluate.py on a model of text and speech that lies anywhere: its own metrics, questions, and tasks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import tiny
from support.machine import InProcess

from slamray.config.load import load_recipe
from slamray.config.model import ModelSettings
from slamray.errors import BadInput
from slamray.model.unit_lm import build_unit_lm, save_unit_lm
from slamray.recipe.evaluation import build, measured, own_words, show
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stages.vocabulary import vocabulary_of

BASE = "assets:story-lm"


@pytest.fixture(scope="module")
def words(tiny_encoder: Path, tiny_vocoder: Path) -> list[str]:
    small = tiny.words(tiny_encoder, Path(), tiny_vocoder)
    return [*(word for word in small if not word.startswith("model.base")), "recipe=interleaved_laptop",
            "joint.text=null", "evaluate.items.sentence_order=0", "evaluate.items.words=0",
            "evaluate.items.words_in_sentence=0", "evaluate.items.grammar=0", "evaluate.items.topic_cloze=3",
            "evaluate.questions.stories=3", "evaluate.questions.text_tokens=4", "evaluate.task_sentences=2",
            "joint.text_to_token.sampling.most_units_per_piece=1"]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    vocabulary = vocabulary_of(load_recipe(words))
    save_unit_lm(build_unit_lm(ModelSettings(base=BASE, embedding="normal"), vocabulary, 0), folder)
    return folder


def test_a_model_of_text_and_speech_from_anywhere_is_measured_by_all_that_is_named(
    words: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = "metrics=[topic_cloze_st, topic_cloze_tt, text_perplexity, questions, tasks]"
    asked, rest = own_words([f"checkpoints={{mine: {checkpoint}}}", metrics, *words, f"root={tmp_path}"])
    recipe = load_recipe(rest)
    targets = build(recipe, asked)
    assert [stage.name for stage in targets] == ["evaluation", "answers_mine", "tasks_mine"]
    made = materialise(targets, tmp_path, InProcess(recipe.compute), {"words": rest})
    assert not {"untrained", "pretrained", "packed"} & made.keys(), "nothing is trained"
    figures = made["evaluation"]["facts"]["checkpoints"]["mine"]["figures"]
    assert figures["topic_cloze_st"]["n"] == figures["topic_cloze_tt"]["n"] == 3
    assert figures["text_perplexity"]["targets"] > 100
    shares = made["answers_mine"]["facts"]["shares"]
    ways = {(row["way"], row["rule"], row["n"]) for row in shares if row["kind"] == "all"}
    assert ways == {(way, rule, 3) for way in ("st", "tt") for rule in ("contains", "exact")}
    assert {task: rate["sentences"] for task, rate in made["tasks_mine"]["facts"]["rates"].items()} == {
        "asr": 2, "tts": 2}  # fmt: skip
    show(Folder(tmp_path), targets)
    shown = capsys.readouterr().out
    assert re.search(r"^topic_cloze_st +3 ", shown, re.MULTILINE) and "evaluate.scored=continuation" in shown
    assert "ASR, mine" in shown and "S→T" in shown and "one answer" in shown
    folder = targets[0].folder(tmp_path)
    assert str(folder) in shown


def test_what_is_not_of_the_recipe_is_named(words: list[str], checkpoint: Path, tiny_words: list[str]) -> None:
    given = {"checkpoints": f"{{mine: {checkpoint}}}"}
    without = load_recipe([*words, "evaluate.questions.stories=0", "evaluate.task_sentences=0"])
    with pytest.raises(BadInput, match=r"no such metric questions; there are .*topic_cloze_ss.*"):
        build(without, {**given, "metrics": "[questions]"})
    with pytest.raises(BadInput, match=r"no such metric topic_cloze_st"):
        build(load_recipe(tiny_words), {"metrics": "[topic_cloze_st]"})
    with pytest.raises(BadInput, match=r"mine: .* is a model of text and speech; give the words of the recipe"):
        build(load_recipe(tiny_words), {**given, "metrics": "[perplexity]"})


def test_a_study_may_ask_for_the_metrics_of_text_and_speech(words: list[str], tiny_words: list[str]) -> None:
    assert {"topic_cloze_st", "text_perplexity"} <= set(measured(load_recipe(words)))
    assert {"topic_cloze_st_gain", "topic_cloze_ss_gain"} <= set(measured(load_recipe(words)))
    assert not any("gain" in name for name in measured(load_recipe([*words, "evaluate.scored=sequence"])))
    assert "grammar_t" not in measured(load_recipe(words)), "no pairs of grammar are made"
    assert not {"topic_cloze_st", "text_perplexity"} & set(measured(load_recipe(tiny_words)))
