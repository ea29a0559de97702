"""The text LM's stages in one process: text of its own, a teacher, and what the trained model is found to know."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from support.llama2c import write_teacher
from support.machine import InProcess
from transformers import AutoModelForCausalLM, AutoTokenizer

from slamray.config.base import ASSETS, asset_path
from slamray.config.corpora import CorpusSettings
from slamray.config.load import load_recipe
from slamray.data.text import EVALUATION, TRAIN
from slamray.recipe.assets import build
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stages import corpus
from slamray.stages.text_rows import opening

WORDS = [
    "assets.make=text_lm", "tracking.enabled=false", "compute.micro_batch=4", "corpus.evaluation_share=0.4",
    "assets.text_lm.text.evaluation_share=0.4", "assets.text_lm.vocab_size=300", "assets.text_lm.hidden=32",
    "assets.text_lm.layers=1", "assets.text_lm.heads=2", "assets.text_lm.kv_heads=1", "assets.text_lm.ffn=32",
    "assets.text_lm.context=64", "assets.text_lm.pretrain.budget=steps:2",
    "assets.text_lm.pretrain.tokens_per_step=512", "evaluate.items.topic_cloze=20", "evaluate.items.grammar=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def stories() -> list[str]:
    lines = gzip.decompress(Path(asset_path(ASSETS + "stories.jsonl.gz")).read_bytes()).splitlines()[:300]
    return [json.loads(line)["text"] for line in lines]


def _write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def _make(tmp_path: Path, *words: str) -> dict[str, Any]:
    recipe = load_recipe([*WORDS, f"root={tmp_path}/runs", *words])
    return materialise(build(recipe), Path(recipe.root), InProcess(recipe.compute), {})


@pytest.mark.usefixtures("group")
def test_a_text_lm_is_made_from_text_of_its_own_and_a_teacher(stories: list[str], tmp_path: Path) -> None:
    measured = _write(tmp_path / "measured.jsonl", stories[:150])
    twin = " ".join(stories[0].split()[:25]) + " they went home and slept until the sun came up. It was a good day."
    own = _write(tmp_path / "own.jsonl", [*stories[150:], *(f"{story} The end." for story in stories[:150]), twin])
    teacher = write_teacher(tmp_path / "llama2.data").path
    shape = ["hidden=32", "heads=2", "kv_heads=1", "ffn=32", "vocab_size=300"]
    manifests = _make(
        tmp_path, f"corpus.paths=[{measured}]", f"assets.text_lm.text.paths=[{own}]",
        f"assets.text_lm.teacher.path={teacher}", *(f"assets.text_lm.{word}" for word in shape),
    )  # fmt: skip
    assert set(manifests) == {"corpus", "text_lm_corpus", "text_rows", "text_lm", "text_quality"}
    found = manifests["text_quality"]["facts"]
    assert found["metrics"]["topic_cloze"]["n"] == found["metrics"]["grammar"]["n"] == 20
    (model,) = (tmp_path / "runs/text_lm").glob("*/model")
    assert found["bytes"] == (model / "model.safetensors").stat().st_size
    lm, tokeniser = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    assert lm.config.vocab_size == len(tokeniser) <= 300 and "\u2581the" in tokeniser.get_vocab()
    # Every story of `measured` that is evaluated on stands in the own text with an end added: none of those is read.
    read = manifests["corpus"]["facts"]["evaluation"]
    assert manifests["text_rows"]["facts"]["left_out"] >= 0.4 * read > 10


def test_no_text_that_assets_were_trained_on_begins_as_one_that_the_demo_is_measured_on(tmp_path: Path) -> None:
    """Neither the text LM, whose rule is opening(), nor the text-to-token model, which reads the training split."""
    texts: dict[str, dict[str, list[str]]] = {}
    for name in ("stories", "more_stories"):
        out = Folder(tmp_path / name)
        corpus.run({}, out, InProcess(), CorpusSettings(paths=(f"{ASSETS}{name}.jsonl.gz",)))
        texts[name] = {split: [one.text for one in corpus.read(out, split)] for split in (TRAIN, EVALUATION)}
    evaluated = {opening(text) for text in texts["stories"][EVALUATION]}
    assert len(evaluated) == 380
    for own in texts.values():
        assert len(own[TRAIN]) > 5000 and not [text for text in own[TRAIN] if opening(text) in evaluated]
