"""What a run cost: FLOPs with attention against torch's own counter and a hand count, pieces as they were read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from slamray.config.training import DpoSettings, PretrainSettings
from slamray.model.unit_lm import count_parameters, training_flops
from slamray.tokens.documents import Document
from slamray.tokens.rows import RowStore, write_rows
from slamray.tokens.vocabulary import Vocabulary
from slamray.train.cost import dpo_cost, pretraining_cost


def test_flops_are_those_that_torch_counts() -> None:
    # Eager attention computes every pair, masked ones too, so torch sees T x T of them. It counts matrix products
    # alone: no norms, and no look-up of embeddings, which are the head's product here because they are tied.
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    products = sum(weight.numel() for weight in model.parameters() if weight.ndim == 2)
    assert count_parameters(model) - products == 7 * 32  # two norms in a layer and one at the end
    tokens = 24
    # Embeddings as input, with a gradient: else torch would not go back through the input of the first layer.
    embedded = model.get_input_embeddings()(torch.arange(tokens)[None])
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embedded).logits.sum().backward()
    assert counter.get_total_flops() == training_flops(config, products, tokens, tokens * tokens)


def test_flops_agree_with_counting_by_hand() -> None:
    # 2 layers of 1 head of 4 channels; a piece of 3 tokens has 1 + 2 + 3 pairs. A pair costs, forward, 4 multiply-adds
    # for the score and 4 for the sum, that is 16 FLOPs a layer; backward twice that; so 96 in all.
    config = Qwen2Config(num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1, hidden_size=4)
    assert training_flops(config, parameters=1000, tokens=3, pairs=6) == 6 * 1000 * 3 + 6 * 96


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = Qwen2Config(
        vocab_size=22, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        intermediate_size=8, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_pretraining_is_charged_the_pieces_that_its_steps_read(model: Path, tmp_path: Path) -> None:
    # Rows of 16: one piece of 16, then one of 10 and one of 6. Two rows a step, so each step reads both.
    documents = [Document(np.ones(length, np.uint16)) for length in (16, 10, 6)]
    write_rows(tmp_path / "rows", documents, Vocabulary.of_units(20), 16)
    config = PretrainSettings(budget="steps:3", tokens_per_step=32)
    facts = {"step": 3, "tokens": 96, "train_seconds": 5.0}
    cost = pretraining_cost(config, 2, model, RowStore(tmp_path / "rows"), facts)
    pairs = 16 * 17 // 2 + 10 * 11 // 2 + 6 * 7 // 2
    parameters = 22 * 8 + (3 * (8 * 8 + 8) + 8 * 8) + 3 * 8 * 8 + 3 * 8  # embedding, q k v with biases, o, ffn, norms
    assert cost == {
        "parameters": parameters,
        "flops_with_attention": 6 * parameters * 96 + 12 * 1 * 8 * 3 * pairs,
        "device_seconds": 10.0,
    }


def test_dpo_is_charged_both_sequences_of_each_pair(model: Path) -> None:
    # <S> and 3 units, then 2 and 4 units with <S>: sequences of 7 and 9 tokens.
    pair = {"pair_id": "a", "prompt": [1, 2, 3], "chosen": [4, 5], "rejected": [4, 5, 6, 7]}
    config = DpoSettings(budget="steps:2", pairs_per_step=1)
    cost = dpo_cost(config, 1, model, [pair], {"step": 2, "train_seconds": 1.5})
    attention = 12 * 1 * 8 * 2 * (7 * 8 // 2 + 9 * 10 // 2)
    assert cost["flops_with_attention"] == 6 * cost["parameters"] * 2 * (7 + 9) + attention
    assert cost["device_seconds"] == 1.5
