"""Where rows, pairs or recordings meet a model, units of other centroids are refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from slamray.config.compute import Compute
from slamray.config.evaluation import ScoringSettings
from slamray.config.load import load_recipe
from slamray.config.model import ModelSettings
from slamray.config.speech import EncoderSettings
from slamray.config.training import DpoSettings
from slamray.errors import BadInput
from slamray.model.unit_lm import build_unit_lm, save_unit_lm
from slamray.recipe import evaluation
from slamray.speech.encoders.base import EncoderFacts
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stages import aligned, packed
from slamray.stages.scoring import Task
from slamray.stages.scoring_kernel import Measure
from slamray.tokens.documents import unit_document
from slamray.tokens.rows import write_rows
from slamray.tokens.vocabulary import Vocabulary, write_vocabulary

OURS = Vocabulary.of_units(20, "a" * 64)
OTHERS = Vocabulary.of_units(20, "b" * 64)
DIFFERENT = r"the units are a{16} here, b{16} there"


@pytest.fixture
def model(tiny_lm: Path, tmp_path: Path) -> Path:
    """A unit LM that was trained on OURS."""
    save_unit_lm(build_unit_lm(ModelSettings(base=str(tiny_lm)), OURS, 0), tmp_path / "model")
    return tmp_path / "model"


def test_preference_pairs_of_other_units(model: Path, tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "pairs", OTHERS)
    with pytest.raises(BadInput, match=rf"/model .* and .*/pairs .*: {DIFFERENT}"):
        out, pairs = Folder(tmp_path / "out"), Folder(tmp_path / "pairs")
        aligned._train(DpoSettings(), Compute(), Folder(model), pairs, out, lambda _: None)


def test_scores_of_recordings_of_other_units(model: Path, tmp_path: Path) -> None:
    measure = Measure({}, ScoringSettings(), EncoderFacts(20, 25.0, "b" * 64), None, "cpu", 1000)
    with pytest.raises(BadInput, match=rf"/model .* and speech.encoder .*: {DIFFERENT}"):
        measure(Task("model", str(model), "perplexity", str(tmp_path)))


def test_perplexity_of_rows_of_other_units(model: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / packed.VALIDATION, [unit_document(range(20), OTHERS)], OTHERS, 32)
    encoder = EncoderFacts(20, 25.0, "a" * 64)
    measure = Measure({"packed": Folder(tmp_path)}, ScoringSettings(), encoder, None, "cpu", 1000)
    with pytest.raises(BadInput, match=rf"speech.encoder .* and .*/validation .*: {DIFFERENT}"):
        measure(Task("model", str(model), "perplexity", str(tmp_path)))


def test_checkpoints_of_other_units_are_refused_before_any_stage(
    model: Path, tiny_words: list[str], tmp_path: Path
) -> None:
    recipe = load_recipe([*tiny_words, f"root={tmp_path}/runs"])
    found = check_encoder(recipe.speech.encoder).centroids[:16]
    asked = {"checkpoints": f"[{model}]", "metrics": "[perplexity]"}
    with pytest.raises(BadInput, match=rf"checkpoints: .*/model .* and speech.encoder .*a{{16}} here, {found} there"):
        evaluation.build(recipe, asked)


def test_the_same_centroids_are_the_same_units_wherever_the_encoder_lies(tiny_encoder: Path, tmp_path: Path) -> None:
    """The checksum is of the matrix: a copy with other metadata has it too, and another matrix has not."""
    centroids = load_file(tiny_encoder / "centroids.safetensors")
    config = EncoderSettings(model=str(tiny_encoder), centroids=str(tmp_path / "copy"), layer=2)
    known = check_encoder(config.model_copy(update={"centroids": str(tiny_encoder / "centroids.safetensors")}))
    save_file(centroids, tmp_path / "copy", {"note": json.dumps("a copy")})
    assert check_encoder(config).vocabulary == known.vocabulary and known.vocabulary.n_units == 20
    save_file({name: matrix[::-1].copy() for name, matrix in centroids.items()}, tmp_path / "copy")
    assert check_encoder(config).vocabulary.checksum != known.vocabulary.checksum
