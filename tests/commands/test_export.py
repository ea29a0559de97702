"""Doors out and in: both layouts give the logits of the checkpoint without a line of ours, and load back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GlmConfig,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from slamray.commands.export import ExportWords, export, main, unit_tokeniser
from slamray.commands.words import find_model, split_words
from slamray.config.base import asset_path
from slamray.config.load import load_recipe
from slamray.config.model import ModelSettings
from slamray.errors import BadInput
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.unit_lm import build_unit_lm, load_unit_lm, save_unit_lm
from slamray.tokens.vocabulary import BOS, PAD, Vocabulary

N_UNITS = 20
UNITS = Vocabulary.of_units(N_UNITS)
SIZE: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**SIZE, num_key_value_heads=2, intermediate_size=48, tie_word_embeddings=True),
    "llama": LlamaConfig(**SIZE, num_key_value_heads=2, intermediate_size=48, tie_word_embeddings=True),
    "glm": GlmConfig(
        **SIZE,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        attention_bias=True,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=[2, 3],
    ),
    "pythia": GPTNeoXConfig(**SIZE, intermediate_size=48, tie_word_embeddings=False),
    "opt": OPTConfig(**SIZE, ffn_dim=48, word_embed_proj_dim=32),
}

# What a person does who has transformers and not us; the second layout is the first one's model under a prefix.
PLAIN = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

root = Path(sys.argv[1])
for family in sorted(root.iterdir()):
    tokens = load_file(family / "tokens.safetensors")["tokens"]
    plain = AutoModelForCausalLM.from_pretrained(family / "out" / "transformers")
    tree = json.loads((family / "out" / "slamkit" / "config.json").read_text())
    assert tree["model_type"] == "speech_language_model"
    inner = AutoConfig.for_model(**tree["base_config"])
    prefixed = AutoModelForCausalLM.from_pretrained(
        str(family / "out" / "slamkit"), config=inner, key_mapping={r"^lm\\.": ""}
    )
    tokeniser = AutoTokenizer.from_pretrained(family / "out" / "transformers")
    assert tokeniser("<Un3><Un19>")["input_ids"] == [1, 5, 21], tokeniser("<Un3><Un19>")
    assert tokeniser("<Un3> <Un19><S>")["input_ids"] == [1, 5, 21, 1]
    assert tokeniser(["<Un0>", "<Un1><Un2>"], padding=True)["input_ids"] == [[0, 1, 2], [1, 3, 4]]
    assert tokeniser.decode([1, 5, 21, 1], skip_special_tokens=True) == "<Un3><Un19>"
    assert (tokeniser.pad_token_id, tokeniser.bos_token_id, tokeniser.eos_token_id, len(tokeniser)) == (0, 1, 1, 22)
    said = plain.generate(**tokeniser("<Un3><Un19>", return_tensors="pt"), max_new_tokens=4)
    assert said.shape[1] <= 7 and not (said == 0).any()
    logits = {name: model.eval()(tokens).logits.detach() for name, model in (("plain", plain), ("lm", prefixed))}
    save_file(logits, family / "logits.safetensors")
assert "slamray" not in sys.modules
"""


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A unit LM of each family, exported in both layouts."""
    root = tmp_path_factory.mktemp("families")
    tokens = torch.randint(2, 22, (2, 11), generator=torch.Generator().manual_seed(0))
    for name, config in FAMILIES.items():
        save_unit_lm(unit_lm(root / name / "text", config), root / name / "unit")
        export(root / name / "unit", root / name / "out", "both", "float32")
        save_file({"tokens": tokens}, root / name / "tokens.safetensors")
    return root


def unit_lm(text: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """With an embedding that is no text LM's first rows, and a RoPE base that is not the default."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(text)
    return build_unit_lm(
        ModelSettings.model_validate({"base": str(text), "embedding": "normal", "rope_theta": 5000.0}), UNITS, seed=0
    )


def logits_of(model: PreTrainedModel, root: Path) -> torch.Tensor:
    logits: torch.Tensor = model.eval()(load_file(root / "tokens.safetensors")["tokens"]).logits.detach()
    return logits


@pytest.mark.slow
def test_plain_transformers_gets_the_same_logits_from_both_layouts(families: Path) -> None:
    command = [sys.executable, "-c", PLAIN, str(families)]
    alike = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # another number rounds otherwise
    done = subprocess.run(command, cwd=families, env=alike, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in FAMILIES:
        expected = logits_of(load_unit_lm(families / name / "unit"), families / name)
        found = load_file(families / name / "logits.safetensors")
        assert torch.equal(found["plain"], expected) and torch.equal(found["lm"], expected), name


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("layout", ["transformers", "slamkit"])
def test_both_layouts_load_back_to_evaluate_and_to_go_on_training(families: Path, name: str, layout: str) -> None:
    folder = families / name / "out" / layout
    expected = logits_of(load_unit_lm(families / name / "unit"), families / name)
    assert torch.equal(logits_of(load_unit_lm(folder), families / name), expected)
    # `embedding` and `rope_theta` are about text LMs: a unit LM keeps its own.
    config = ModelSettings.model_validate({"base": str(folder), "embedding": "mean", "rope_theta": 777.0})
    again = build_unit_lm(config, UNITS, seed=3)
    assert torch.equal(logits_of(again, families / name), expected)
    assert (again.config.pad_token_id, again.config.bos_token_id, again.config.eos_token_id) == (PAD, BOS, BOS)


def test_a_unit_lm_saved_before_it_was_marked_goes_on_too(families: Path, tmp_path: Path) -> None:
    model = load_unit_lm(families / "qwen2" / "unit")
    save_unit_lm(model, tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    assert Vocabulary.from_json(tree.pop("vocabulary"), "config.json") == UNITS
    (tmp_path / "config.json").write_text(json.dumps(tree))
    again = build_unit_lm(ModelSettings(base=str(tmp_path), embedding="normal"), UNITS, seed=0)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_the_slamkit_layout_is_that_of_slprl_slam(families: Path) -> None:
    folder = families / "qwen2" / "out" / "slamkit"
    weights = load_file(folder / "model.safetensors")
    assert all(name.startswith("lm.model.") for name in weights)
    assert weights["lm.model.embed_tokens.weight"].shape == (N_UNITS + 2, 32)
    tree = json.loads((folder / "config.json").read_text())
    assert tree["architectures"] == ["UnitLM"] and tree["vocab_size"] == N_UNITS + 2 and tree["twist_init"]
    assert tree["base_model_name"] == "Qwen/Qwen2.5-0.5B"
    # transformers 4, on which slamkit runs, reads these names
    assert tree["base_config"]["rope_theta"] == 5000.0 and tree["base_config"]["torch_dtype"] == "float32"
    assert json.loads((folder / "tokeniser_config.json").read_text()) == {
        "dedup": True, "bos_eos_token_id": 1, "pad_token_id": 0, "num_units": N_UNITS, "load_fe": False,
    }  # fmt: skip


def published(folder: Path, model: PreTrainedModel, weights: str = "model.safetensors") -> Path:
    """A checkpoint as slamkit writes it under transformers 4.51: seen by running its UnitLM.save_pretrained there.

    Its base_config keeps the text LM's vocabulary and all defaults; RoPE has its older keys.
    """
    folder.mkdir()
    config = model.config
    base = {
        "_attn_implementation_autoset": False, "_name_or_path": "Qwen/Qwen2.5-0.5B", "add_cross_attention": False,
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bad_words_ids": None, "bos_token_id": 1,
        "eos_token_id": 1, "pad_token_id": 0, "hidden_act": "silu", "hidden_size": config.hidden_size,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "initializer_range": 0.02, "is_decoder": False,
        "intermediate_size": config.intermediate_size, "max_length": 20, "max_position_embeddings": 32768,
        "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers, "num_key_value_heads": config.num_key_value_heads,
        "return_dict": True, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 5000.0,
        "sliding_window": None, "temperature": 1.0, "tie_word_embeddings": True, "top_k": 50, "torch_dtype": None,
        "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
    }  # fmt: skip
    tree = {
        "architectures": ["UnitLM"], "base_config": base, "base_model_name": "Qwen/Qwen2.5-0.5B",
        "max_position_embeddings": 32768, "model_type": "speech_language_model", "rope_theta": 5000.0,
        "torch_dtype": "bfloat16", "transformers_version": "4.51.3", "trust_remote_code": None, "twist_init": True,
        "use_cache": False, "use_safetensors": None, "vocab_size": N_UNITS + 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(tree))
    tensors = {f"lm.{name}": weight.detach().clone() for name, weight in model.named_parameters()}
    if weights.endswith(".bin"):
        torch.save(tensors, folder / weights)
    else:
        save_file(tensors, folder / weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_published_checkpoint_is_read_as_it_is(families: Path, tmp_path: Path, weights: str) -> None:
    model = load_unit_lm(families / "qwen2" / "unit")
    folder = published(tmp_path / "slam", model, weights)
    expected = logits_of(model, families / "qwen2")
    assert torch.equal(logits_of(load_unit_lm(folder), families / "qwen2"), expected)
    again = build_unit_lm(ModelSettings(base=str(folder)), UNITS, seed=0)
    assert torch.equal(logits_of(again, families / "qwen2"), expected)


def test_a_bin_file_with_more_than_weights_is_refused_and_not_run(families: Path, tmp_path: Path) -> None:
    folder = published(tmp_path / "slam", load_unit_lm(families / "qwen2" / "unit"), "pytorch_model.bin")
    witness = tmp_path / "was here"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(witness),)

    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({**tensors, "more": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match="more than weights"):
        load_unit_lm(folder)
    assert not witness.exists()


def test_a_checkpoint_that_lacks_weights_is_refused(families: Path, tmp_path: Path) -> None:
    folder = published(tmp_path / "slam", load_unit_lm(families / "qwen2" / "unit"))
    weights = load_file(folder / "model.safetensors")
    del weights["lm.model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=r"1 weights are missing, the first is model\.norm\.weight"):
        load_unit_lm(folder)


def test_a_unit_lm_of_other_units_is_refused_by_its_numbers(families: Path) -> None:
    for layout in ("transformers", "slamkit"):
        base = str(families / "qwen2" / "out" / layout)
        message = r"model\.base=.*20 units.* and speech\.encoder .* different vocabularies: 20 units here, 12 there"
        with pytest.raises(BadInput, match=message):
            build_unit_lm(ModelSettings(base=base), Vocabulary.of_units(12), seed=0)


def test_text_that_is_no_unit_is_an_error_of_the_tokeniser() -> None:
    tokeniser = unit_tokeniser(UNITS)
    assert tokeniser.encode("<Un0><Un19>").ids == [1, 2, 21]
    for text in ("<Un20>", "hello"):
        with pytest.raises(Exception, match="WordLevel error"):
            tokeniser.encode(text)


def test_bfloat16_halves_the_bytes(families: Path, tmp_path: Path) -> None:
    export(families / "qwen2" / "unit", tmp_path, "slamkit", "bfloat16")
    half, full = (p / "slamkit" / "model.safetensors" for p in (tmp_path, families / "qwen2" / "out"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slamkit"]


def test_the_command_finds_the_checkpoint_by_the_recipes_words(
    tiny_words: list[str], families: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny_words, f"root={tmp_path}/runs"]
    assert main([*words, f"out={tmp_path}/out"]) == 2
    line = capsys.readouterr().err
    assert "this recipe's aligned is not made yet" in line
    stage = Path(line.removeprefix("error: ").split(":")[0])
    save_unit_lm(load_unit_lm(families / "qwen2" / "unit"), stage / "model")
    spent = {"tokens": 9, "flops": 1.0, "flops_with_attention": 2.0, "device_seconds": 3600.0, "parameters": 5}
    (stage / "manifest.json").write_text(json.dumps({"facts": spent | {"heldout": {"pairs": 0}}}))
    assert main([*words, f"out={tmp_path}/out"]) == 0
    assert capsys.readouterr().out.split() == [f"{tmp_path}/out/transformers", f"{tmp_path}/out/slamkit"]
    card = (tmp_path / "out/transformers/README.md").read_text()
    assert "# demo, after DPO" in card and "Not measured." in card and "stories.jsonl.gz (training, checksum " in card
    assert main([*words, f"out={tmp_path}/out"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_bad_words_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main([f"out={tmp_path}", "dtype=int8"]) == 2
    assert main([f"out={tmp_path}", f"checkpoint={tmp_path}"]) == 2
    assert main([f"out={tmp_path}", "chekpoint=x"]) == 2
    missing, wrong, empty, misspelt = capsys.readouterr().err.splitlines()
    assert missing.startswith("error: give out=: ") and wrong.startswith("error: dtype='int8': ")
    assert empty == f"error: checkpoint={tmp_path}: no config.json there, nor in its folder model; check the path"
    assert misspelt.startswith("error: chekpoint: no such key")


def test_own_words_and_a_recipes_words_are_told_apart() -> None:
    own, others = split_words(["out=a", "dpo.beta=0.2", "stage=pretrained", "profile=laptop"], ExportWords)
    assert (own.out, own.stage, others) == ("a", "pretrained", ["dpo.beta=0.2", "profile=laptop"])
    assert load_recipe(others).dpo.beta == 0.2


def test_a_stage_folder_stands_for_the_model_in_it(families: Path, tmp_path: Path) -> None:
    save_unit_lm(load_unit_lm(families / "qwen2" / "unit"), tmp_path / "model")
    assert find_model(str(tmp_path), "aligned", lambda: load_recipe([])) == tmp_path / "model"


def test_a_text_lm_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"out={tmp_path / 'out'}", f"checkpoint={asset_path('assets:story-lm')}"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: checkpoint: ") and "story-lm is a text LM (vocabulary: 4096 text" in line
    assert not (tmp_path / "out").exists()


def test_both_layouts_carry_who_the_units_are(families: Path, tmp_path: Path) -> None:
    known = Vocabulary.of_units(N_UNITS, "c" * 64)
    base = ModelSettings(base=str(families / "qwen2" / "unit"))
    save_unit_lm(build_unit_lm(base, known, seed=0), tmp_path / "unit")
    for folder in export(tmp_path / "unit", tmp_path / "out", "both", "float32"):
        assert read_unit_vocabulary(folder, "checkpoint") == known
        save_unit_lm(load_unit_lm(folder), tmp_path / "back" / folder.name)
        assert read_unit_vocabulary(tmp_path / "back" / folder.name, "checkpoint") == known
