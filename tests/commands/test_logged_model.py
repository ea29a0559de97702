"""An exported model in MLflow: with its card, loaded and registered by MLflow alone, and never twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from slamray.commands.export import export, find_tracked, track
from slamray.commands.model_card import Origin
from slamray.config.compute import TrackingSettings
from slamray.config.load import load_recipe
from slamray.config.model import ModelSettings
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.model.unit_lm import build_unit_lm, save_unit_lm
from slamray.tokens.vocabulary import Vocabulary
from slamray.tracking import DataSet, open_tracker

FINGERPRINT = "0123456789abcdef"
ORIGIN = Origin(
    "demo", "aligned", ["Ten hours became units."], {"topic_cloze": 0.625, "perplexity": 9.5},
    {"tokens": 1000.0, "flops": 42_000.0, "device_hours": 1.5},
    [DataSet("stories.jsonl.gz", "feedfacecafebeef", "/data/stories.jsonl.gz", "training", {})],
    "assets:story-lm", "assets:hubert-nano, layer 3",
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe whose run is in MLflow, with two parameters."""
    recipe = load_recipe(["recipe=demo", f"root={tmp_path_factory.mktemp('runs')}"])
    tracker = open_tracker(TrackingSettings(), "demo", FINGERPRINT, recipe.root)
    tracker.params({"dpo.beta": 0.2})
    tracker.close("FINISHED")
    return recipe


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A unit LM of 20 units as plain transformers opens it."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "text")
    settings = ModelSettings.model_validate({"base": str(folder / "text"), "embedding": "normal"})
    save_unit_lm(build_unit_lm(settings, Vocabulary.of_units(20), seed=0), folder / "unit")
    (out,) = export(folder / "unit", folder / "out", "transformers", "float32", origin=ORIGIN)
    return out


@pytest.fixture
def store(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own functions look at the recipe's store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{recipe.root}/mlflow.db")


def logged(recipe: Recipe, exported: Path) -> str:
    return track(find_tracked(recipe, FINGERPRINT), exported, "demo-aligned", "f-float32")


def test_mlflow_loads_the_logged_model_and_it_says_what_the_folder_says(
    recipe: Recipe, exported: Path, store: None
) -> None:
    loaded: Any = mlflow.transformers.load_model(logged(recipe, exported))
    plain, tokeniser = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    ids = tokeniser("<Un3><Un19>", return_tensors="pt")
    wanted = plain.generate(**ids, do_sample=False, max_new_tokens=5)
    assert torch.equal(loaded.model.generate(**ids, do_sample=False, max_new_tokens=5), wanted)
    (said,) = loaded("<Un3><Un19>", do_sample=False, max_new_tokens=5)
    assert said["generated_text"].replace(" ", "") == tokeniser.decode(wanted[0], skip_special_tokens=True)


def test_what_is_logged_holds_no_pickle_and_has_the_card(recipe: Recipe, exported: Path, store: None) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(logged(recipe, exported)))
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".bin", ".pt", ".pth"))]
    assert any(name.endswith(".safetensors") for name in names) and "MLmodel" in names
    card = (folder / "model_card.md").read_text()
    assert card.strip() and (exported / "README.md").read_text().endswith(card)  # the front matter is a file of its own
    assert "# demo, after DPO" in card and "Ten hours became units." in card
    assert "| Topic cloze | 62.5 % (chance is 50) |" in card and "| validation perplexity | 9.50 |" in card
    assert "1,000 tokens of pre-training, 4.20e+04 FLOPs and 1.5 device-hours" in card
    assert "stories.jsonl.gz (training, checksum feedfacecafebeef)" in card and "`<Un0>` to `<Un19>`" in card


def test_a_model_is_logged_once_and_registers_as_a_model_of_its_run(
    recipe: Recipe, exported: Path, store: None
) -> None:
    address = logged(recipe, exported)
    assert logged(recipe, exported) == address
    client, run = find_tracked(recipe, FINGERPRINT)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == run.info.run_id and model.params == {"dpo.beta": "0.2"}
    assert model.tags["mlflow.note.content"].startswith("---\nlibrary_name: transformers")
    assert [one.model_id for one in run.outputs.model_outputs] == [model.model_id]
    version = mlflow.register_model(address, "unit-lm")
    assert str(version.version) == "1"
    assert mlflow.transformers.load_model("models:/unit-lm/1").model.config.vocab_size == 22


def test_a_run_that_is_not_in_mlflow_is_one_line(recipe: Recipe) -> None:
    with pytest.raises(BadInput, match=r"track=true: sqlite.*has no run of this recipe in experiment slamray"):
        find_tracked(recipe, "fedcba9876543210")
