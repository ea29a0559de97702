"""docs/side_by_side.py prints a story as both sources of speech make it, in the story's own words."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import side_by_side
from support import tiny
from support.machine import InProcess

from slamray.config.load import load_recipe
from slamray.config.model import ModelSettings
from slamray.model.unit_lm import build_unit_lm, save_unit_lm
from slamray.recipe.slam import build
from slamray.stage.materialise import materialise
from slamray.stage.stage import order
from slamray.stages.vocabulary import vocabulary_of
from slamray.tokens.vocabulary import Vocabulary

SPAN = r"`<units \d+>`(?: \*[^*]*\*)?"


@pytest.fixture(scope="module")
def root(tiny_encoder: Path, tiny_vocoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's corpus, units and documents, and a text-to-token model that knows no text and soon ends each span."""
    folder = tmp_path_factory.mktemp("run")
    small = tiny.words(tiny_encoder, Path(), tiny_vocoder)
    words = [*(word for word in small if not word.startswith("model.base")), "recipe=interleaved_laptop",
             "joint.text=null", "joint.interleave.span_pieces=4", "joint.text_to_token.sampling.top_k=1000",
             "speech.train_documents=1", "joint.text_documents=1"]  # fmt: skip
    recipe = load_recipe(words)
    (documents,) = (stage for stage in order(build(recipe)) if stage.name == "documents")
    materialise([documents], folder, InProcess(recipe.compute), {"words": words, "commit": "f" * 40})
    model = build_unit_lm(ModelSettings(base="assets:story-lm", embedding="mean"), vocabulary_of(recipe), 0)
    save_unit_lm(model, folder / "text_to_token" / "0" / "model")
    manifest = {"facts": {}, "inputs": {}, "provenance": {"words": words, "commit": "f" * 40}}
    (folder / "text_to_token" / "0" / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_each_cell_holds_the_storys_words_in_order_and_its_spans(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        side_by_side, "has_recogniser", lambda: False
    )  # it hears noise from an untrained decoder slowly
    assert side_by_side.main([f"root={root}", "stories=1", f"out={tmp_path / 'page.md'}"]) == 0
    made = (tmp_path / "page.md").read_text()
    (row,) = (line for line in made.splitlines() if line.startswith("| ") and "`<units " in line)
    text = made.split("## Story 1\n\n")[1].splitlines()[0]
    for cell in row.removeprefix("| ").removesuffix(" |").split(" | "):
        assert re.search(SPAN, cell)
        left = [word for part in re.split(SPAN, cell) for word in part.split()]
        rest = iter(text.split())
        assert left and len(left) < len(text.split()) and all(word in rest for word in left)


def test_what_is_heard_in_units_stands_after_them(tiny_vocoder: Path) -> None:
    hear = side_by_side.load_hearing(str(tiny_vocoder))
    assert isinstance(hear(np.arange(4)), str)
    known = Vocabulary.joint(Vocabulary.of_text(10, 0, 1, "t"), Vocabulary.of_units(5, "u"))
    ids = np.array([1, known.text_tag, 4, 5, known.speech_tag, 10, 11, 12, known.text_tag, 6, 1])
    shown = side_by_side.shown(
        ids, known, lambda ids: " ".join(f"w{i}" for i in ids), lambda units: f"{units.tolist()}"
    )
    assert shown == "w4 w5 `<units 3>` *[0, 1, 2]* w6"


def test_a_root_without_such_a_run_is_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert side_by_side.main([f"root={tmp_path}"]) == 2
    assert "no finished stage documents" in capsys.readouterr().err
    shutil.copytree(root / "documents", tmp_path / "documents")
    assert side_by_side.main([f"root={tmp_path}"]) == 2 and side_by_side.main(["stories=2"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "no finished stage text_to_token" in errors[0] and "give root=FOLDER" in errors[1]
