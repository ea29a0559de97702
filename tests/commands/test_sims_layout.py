"""slamkit's layout of models of text and speech (SIMS): published ones are read, ours are written as slamkit reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen2Config

from slamray.commands.export import export, main
from slamray.config.base import asset_path
from slamray.config.load import load_recipe
from slamray.config.model import BaseSettings, ModelSettings
from slamray.errors import BadInput
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import build_unit_lm, load_unit_lm, save_unit_lm
from slamray.recipe.evaluation import build, own_words
from slamray.tokens.vocabulary import Vocabulary

BASE = "assets:story-lm"
TEXT = TextTokeniser(BASE).vocabulary.size
UNITS = 500
ROWS = TEXT + UNITS + 2  # units in their order, then <speech> and <text>
IDS = torch.tensor([[1, ROWS - 2, TEXT, TEXT + 7, ROWS - 1, 5, 9, 1]])
SHAPE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 24, "rope_theta": 10_000.0,
}  # fmt: skip


def joint() -> Vocabulary:
    return Vocabulary.joint(TextTokeniser(BASE).vocabulary, Vocabulary.of_units(UNITS, "u" * 64))


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A SIMS checkpoint as slamkit writes it: no word of its vocabulary, ids 0, 1, 1 for specials; and its logits.

    base_config keeps the text LM's number of rows (UnitLM resizes after it has made the LM), and its weights lie
    below lm. (slamkit model/unit_lm.py at 388b402).
    """
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sims")
    model = AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=ROWS, tie_word_embeddings=True, **SHAPE))
    base = {
        **SHAPE, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": TEXT + 271,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "tie_word_embeddings": True, "torch_dtype": None,
        "rope_scaling": None, "use_sliding_window": False, "attention_dropout": 0.0, "hidden_act": "silu",
    }  # fmt: skip
    tree = {
        "architectures": ["UnitLM"], "model_type": "speech_language_model", "base_model_name": "Qwen/Qwen2.5-7B",
        "base_config": base, "vocab_size": ROWS, "twist_init": True, "use_cache": False, "torch_dtype": "float32",
        "tie_word_embeddings": True, "transformers_version": "4.51.3",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(tree))
    weights = {f"lm.{name}": weight.detach().clone() for name, weight in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder, logits_of(model)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    save_unit_lm(build_unit_lm(ModelSettings(base=BASE, embedding="normal"), joint(), 0), folder / "model")
    export(folder / "model", folder / "out", "both", "float32", base=BaseSettings(base=BASE))
    return folder


def test_a_published_model_of_text_and_speech_is_known_by_the_vocabulary_that_it_is_to_have(
    published: tuple[Path, torch.Tensor],
) -> None:
    folder, logits = published
    found = read_unit_vocabulary(folder, "checkpoint", wanted=joint())
    assert [(block.kind, block.size, bool(block.identity)) for block in found.blocks] == [
        ("text", TEXT, False), ("units", UNITS, False), ("specials", 2, True)]  # fmt: skip
    model = load_unit_lm(folder, wanted=joint())
    assert torch.equal(logits_of(model), logits)
    # Ids 0 and 1 are text tokens like others: none of them is padding, whose row torch would not train.
    assert model.config.pad_token_id in (None, joint().pad) and model.config.bos_token_id == joint().bos


def test_a_published_model_goes_on_training_as_a_base(published: tuple[Path, torch.Tensor]) -> None:
    folder, logits = published
    again = build_unit_lm(ModelSettings(base=str(folder), embedding="mean"), joint(), 3)
    assert torch.equal(logits_of(again), logits) and Vocabulary.from_json(again.config.vocabulary, "config") == joint()


def test_a_model_of_other_rows_is_refused(published: tuple[Path, torch.Tensor], tiny_encoder: Path) -> None:
    asked, rest = own_words([f"checkpoints={{sims: {published[0]}}}", "metrics=[perplexity]"])
    words = [*rest, "recipe=interleaved_laptop", "profile=laptop"]
    assert [stage.name for stage in build(load_recipe(words), asked)] == ["evaluation"]
    others = [f"speech.encoder.model={tiny_encoder}", f"speech.encoder.centroids={tiny_encoder}/centroids.safetensors",
              "speech.encoder.layer=2", "speech.encoder.pad_samples=40"]  # fmt: skip
    message = rf"sims: .* \(2 specials, {ROWS - 2} units\) and model\.base=.*the order of ids is specials units here"
    with pytest.raises(BadInput, match=message):
        build(load_recipe([*words, *others]), asked)


def test_a_published_model_is_exported_for_plain_transformers(
    published: tuple[Path, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recipe=interleaved_laptop", f"checkpoint={published[0]}", f"out={tmp_path}", "layout=transformers"]
    assert main(words) == 0, capsys.readouterr().err
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "transformers")
    tokeniser = AutoTokenizer.from_pretrained(tmp_path / "transformers")
    assert torch.equal(logits_of(plain), published[1])
    assert tokeniser("<speech><Un0><Un7><text>", add_special_tokens=False)["input_ids"] == [
        ROWS - 2, TEXT, TEXT + 7, ROWS - 1]  # fmt: skip


def test_our_model_is_written_as_slamkit_reads_it(ours: Path) -> None:
    """What UnitLM.from_pretrained does: a model of base_config, resized to vocab_size, gets the weights below lm."""
    folder = ours / "out" / "slamkit"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "generation_config.json"}
    tree = json.loads((folder / "config.json").read_text())
    assert (tree["model_type"], tree["vocab_size"]) == ("speech_language_model", ROWS)
    assert tree["base_config"]["pad_token_id"] == 0, "slamkit pads with it, and leaves its targets out"
    inner = AutoConfig.for_model(**tree["base_config"])
    lm = AutoModelForCausalLM.from_config(inner)
    lm.resize_token_embeddings(tree["vocab_size"])
    weights = {name.removeprefix("lm."): weight for name, weight in load_file(folder / "model.safetensors").items()}
    missing, unexpected = lm.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    lm.tie_weights()
    assert torch.equal(logits_of(lm), logits_of(load_unit_lm(ours / "model")))
    tokeniser = AutoTokenizer.from_pretrained(asset_path(BASE))
    tokeniser.add_tokens([f"<Un{unit}>" for unit in range(UNITS)] + ["<speech>", "<text>"])
    ids = tokeniser("<speech><Un0><Un7><text>", add_special_tokens=False)["input_ids"]
    assert ids == [ROWS - 2, TEXT, TEXT + 7, ROWS - 1] and len(tokeniser) == ROWS


@pytest.mark.parametrize("layout", ["transformers", "slamkit"])
def test_both_layouts_of_ours_say_which_text_and_units_they_know(ours: Path, layout: str) -> None:
    folder = ours / "out" / layout
    assert read_unit_vocabulary(folder, "checkpoint") == joint()
    assert torch.equal(logits_of(load_unit_lm(folder)), logits_of(load_unit_lm(ours / "model")))
