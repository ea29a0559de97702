"""TWIST with tied and untied heads against slamkit, and bases without weights or with foreign code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, Qwen2Config

from slamray.config.load import load_recipe
from slamray.config.model import ModelSettings
from slamray.errors import BadInput
from slamray.model.families import SHAPES, family_config
from slamray.model.unit_lm import build_unit_lm, count_parameters, read_lm_config
from slamray.stages.planning import parameters
from slamray.stages.untrained import shape_numbers
from slamray.tokens.vocabulary import Vocabulary

N_UNITS = 20
UNITS = Vocabulary.of_units(N_UNITS)
ROWS = N_UNITS + 2
TEXT: dict[str, PreTrainedConfig] = {
    "tied": Qwen2Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, tie_word_embeddings=True,
    ),
    "untied": GPTNeoXConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        tie_word_embeddings=False,
    ),
}  # fmt: skip


@pytest.fixture(params=TEXT)
def text_lm(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(TEXT[request.param])
    with torch.no_grad():  # embedding and head of different spread and place, so that each is seen to get its own
        model.get_input_embeddings().weight.add_(1.0)
        if request.param == "untied":
            model.get_output_embeddings().weight.mul_(3.0).sub_(2.0)
    model.save_pretrained(tmp_path / "text")
    return request.param, tmp_path / "text"


def build(folder: Path, embedding: str) -> torch.nn.Module:
    return build_unit_lm(
        ModelSettings.model_validate({"base": str(folder), "embedding": embedding, "rope_theta": None}), UNITS, seed=0
    )


def test_first_rows_gives_the_logits_of_slamkits_resized_model(text_lm: tuple[str, Path]) -> None:
    """slamkit (model/unit_lm.py) loads the text LM and resizes its embeddings; its head is not drawn anew."""
    _, folder = text_lm
    slamkit = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    slamkit.resize_token_embeddings(ROWS)
    ours = build(folder, "first_rows")
    tokens = torch.randint(0, ROWS, (2, 15), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(tokens).logits, slamkit.eval()(tokens).logits, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("embedding", ["first_rows", "mean", "normal"])
def test_a_head_is_tied_as_the_text_lms_is_and_starts_from_its_own_rows(
    text_lm: tuple[str, Path], embedding: str
) -> None:
    kind, folder = text_lm
    model = build(folder, embedding)
    text = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (rows is head) == (kind == "tied")
    sides = ((rows, text.get_input_embeddings().weight), (head, text.get_output_embeddings().weight))
    for ours, theirs in ((one.detach(), other.detach()) for one, other in sides):
        assert ours.shape == (ROWS, 32)
        if embedding == "first_rows":
            assert torch.equal(ours, theirs[:ROWS])
        elif embedding == "mean":
            torch.testing.assert_close(
                ours, theirs.mean(dim=0).expand(ROWS, 32), atol=0.2 * float(theirs.std()), rtol=0
            )
            assert len(torch.unique(ours, dim=0)) == ROWS
        else:  # fresh: around zero, as wide as the text LM's
            assert abs(float(ours.mean())) < 0.2 * float(theirs.std())
            assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.15)


def test_what_is_trained_on_one_end_of_a_tied_head_shows_on_the_other_and_is_saved(
    text_lm: tuple[str, Path], tmp_path: Path
) -> None:
    kind, folder = text_lm
    model = build(folder, "first_rows")
    model(torch.tensor([[1, 2, 3]])).logits.logsumexp(-1).sum().backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.1 * weight.grad if weight.grad is not None else 0.0
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    same = torch.equal(again.get_input_embeddings().weight, again.get_output_embeddings().weight)
    assert same == (kind == "tied")
    assert torch.equal(again.get_output_embeddings().weight, model.get_output_embeddings().weight)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_trained_from_nothing(name: str) -> None:
    recipe = load_recipe([f"model.base=shape:{name}", "model.twist=false"])
    model = build_unit_lm(config := recipe.model, Vocabulary.of_units(500), seed=0)
    assert count_parameters(model) == parameters(recipe)
    assert type(read_lm_config(f"shape:{name}")) is SHAPES[name][0]
    assert shape_numbers(config)["hidden_size"] == family_config(name).hidden_size


def test_shapes_of_one_width_have_about_the_same_size() -> None:
    names = [name for name in SHAPES if "nano" in name]
    nano = [parameters(load_recipe([f"model.base=shape:{name}", "model.twist=false"])) for name in names]
    assert max(nano) < 1.35 * min(nano)


def test_a_shape_has_no_weights_for_twist() -> None:
    with pytest.raises(BadInput, match=r"model\.base=shape:opt-nano: a shape has no weights .* model\.twist=false"):
        shape_numbers(ModelSettings(base="shape:opt-nano"))
    with pytest.raises(BadInput, match=r"shape:opt-nana: no such shape; there are qwen2-nano"):
        shape_numbers(ModelSettings(base="shape:opt-nana", twist=False))


def test_mobilellm_is_read_as_a_llama_and_its_own_code_is_not_run(tmp_path: Path) -> None:
    """As published (facebook/MobileLLM-125M): model_type mobilellm, auto_map to code beside, one shared embedding."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    llama = AutoModelForCausalLM.from_config(config)
    llama.save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    tree |= {
        "model_type": "mobilellm", "architectures": ["MobileLLMForCausalLM"], "share_embedding": True,
        "tie_word_embeddings": False, "layer_sharing": False, "rope_theta": 10000.0, "rope_scaling": None,
        "auto_map": {"AutoConfig": "configuration_mobilellm.MobileLLMConfig",
                     "AutoModelForCausalLM": "modeling_mobilellm.MobileLLMForCausalLM"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(tree))
    for name in ("configuration_mobilellm.py", "modeling_mobilellm.py"):
        (tmp_path / name).write_text("raise SystemExit('foreign code was run')\n")
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = build_unit_lm(ModelSettings(base=str(tmp_path)), UNITS, seed=0)
    assert model.config.model_type == "llama" and model.config.rms_norm_eps == 1e-5
    assert not hasattr(model.config, "auto_map")
    assert torch.equal(model.get_input_embeddings().weight, llama.get_input_embeddings().weight[:ROWS])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
