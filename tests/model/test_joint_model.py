"""A text LM that learns units beside its text: which rows stay, which are new, and how many parameters there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedModel, Qwen2Config

from slamray.config.base import ASSETS, asset_path
from slamray.config.evaluation import SamplingSettings
from slamray.config.model import ModelSettings
from slamray.errors import BadInput
from slamray.model.families import family_config
from slamray.model.sampling import Prompt, continue_units
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import build_unit_lm, count_unit_lm_parameters, load_unit_lm, save_unit_lm
from slamray.tokens.vocabulary import Vocabulary

TEXT = Vocabulary.of_text(60, 0, 1, "t" * 64)  # of 64 rows: published embeddings have more rows than tokens
JOINT = Vocabulary.joint(TEXT, Vocabulary.of_units(20, "u" * 64))
QWEN = Qwen2Config(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
    vocab_size=64, tie_word_embeddings=True,
)  # fmt: skip
NEOX = GPTNeoXConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=64,
    tie_word_embeddings=False,
)  # fmt: skip


def built(config: Qwen2Config | GPTNeoXConfig, folder: Path, embedding: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    torch.manual_seed(0)
    text = AutoModelForCausalLM.from_config(config)
    text.save_pretrained(folder)
    settings = ModelSettings(base=str(folder), embedding=embedding, rope_theta=None)  # type: ignore[arg-type]
    return text, build_unit_lm(settings, JOINT, 0)


@pytest.mark.parametrize("embedding", ["mean", "normal"])
@pytest.mark.parametrize("config", [QWEN, NEOX], ids=["tied", "untied"])
def test_rows_of_text_stay_and_those_of_units_and_tags_are_new(
    config: Qwen2Config | GPTNeoXConfig, embedding: str, tmp_path: Path
) -> None:
    text, joint = built(config, tmp_path, embedding)
    for side in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(text, side)().weight.detach(), getattr(joint, side)().weight.detach()
        assert len(new) == 82 and torch.equal(new[:60], old[:60])
        fresh = new[60:]
        assert torch.unique(fresh, dim=0).shape == fresh.shape and not torch.equal(fresh[:4], old[60:])
        spread = 0.02 if embedding == "mean" else 1
        assert float((fresh.std(0) / old.std(0)).mean()) == pytest.approx(spread, rel=0.3)
    body = next(name for name, _ in text.named_parameters() if "layers.1" in name)
    assert torch.equal(text.get_parameter(body), joint.get_parameter(body))


def test_first_rows_are_refused_for_units_beside_text(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"model.embedding=first_rows: .* say mean or normal"):
        built(QWEN, tmp_path, "first_rows")


def test_a_saved_model_states_its_vocabulary_and_goes_on_from_itself(tmp_path: Path) -> None:
    _, joint = built(QWEN, tmp_path / "text", "mean")
    save_unit_lm(joint, tmp_path / "joint")
    again = build_unit_lm(ModelSettings(base=str(tmp_path / "joint")), JOINT, 1)
    assert torch.equal(again.get_input_embeddings().weight, joint.get_input_embeddings().weight)  # type: ignore[arg-type]
    other = Vocabulary.joint(Vocabulary.of_text(60, 0, 1, "x" * 64), Vocabulary.of_units(20, "u" * 64))
    with pytest.raises(BadInput, match="the text are tttttttttttttttt here, xxxxxxxxxxxxxxxx there"):
        build_unit_lm(ModelSettings(base=str(tmp_path / "joint")), other, 1)


def test_qwens_joint_model_has_the_parameters_of_its_shape() -> None:
    joint = Vocabulary.joint(Vocabulary.of_text(151_665, 151_643, 151_643, "t"), Vocabulary.of_units(500, "u"))
    # docs/paper.md 1.3: a body of 357,898,112, and 152,167 rows of 896, tied.
    assert count_unit_lm_parameters(family_config("Qwen/Qwen2.5-0.5B"), joint) == 357_898_112 + 152_167 * 896


def test_a_joint_model_continues_speech_in_units_alone(tmp_path: Path) -> None:
    _, joint = built(QWEN, tmp_path, "normal")
    save_unit_lm(joint, tmp_path / "joint")
    model = load_unit_lm(tmp_path / "joint")
    prompts = [Prompt(str(n), np.arange(n, n + 5) % 20) for n in range(4)]
    said = continue_units(model, prompts, SamplingSettings(max_new_tokens=40))
    assert all(one.units.max() < 20 and len(one.units) + one.ended == 40 for one in said if not one.ended)
    assert sum(len(one.units) for one in said) > 20


def test_a_tokeniser_says_its_ids_by_content_and_text_comes_back() -> None:
    base = ASSETS + "story-lm"
    tokeniser = TextTokeniser(base)
    vocabulary = tokeniser.vocabulary
    assert (vocabulary.size, vocabulary.pad, vocabulary.bos) == (4096, 0, 1)
    text = "Tim and his mom went to the park."
    assert tokeniser.decode(tokeniser(text)) == text
    words = [token for word in ["Tim", " and", " his", " mom"] for token in tokeniser(word)]
    assert tokeniser("Tim and his mom") == words  # so a text that is cut at words has the tokens of the whole
    assert TextTokeniser(asset_path(base)).vocabulary == vocabulary


def test_a_folder_without_a_tokeniser_is_refused_in_one_line(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(QWEN).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"model.base=.*: no tokeniser is in it; .* its tokenizer.json"):
        TextTokeniser(str(tmp_path))
