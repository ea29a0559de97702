"""TWIST: exact sizes, what is kept of the text LM, and attention that stays inside a piece."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.families import SMALL
from transformers import AutoModelForCausalLM, Qwen2Config

from slamray.config.model import ModelSettings
from slamray.errors import BadInput
from slamray.model.attention import BLOCKWISE, inside_pieces, register_attention
from slamray.model.families import FAMILIES, family_config
from slamray.model.unit_lm import (
    attention_flops_per_token,
    build_unit_lm,
    count_parameters,
    count_unit_lm_parameters,
    load_unit_lm,
    save_unit_lm,
    unit_lm_config,
)
from slamray.tokens.vocabulary import BOS, PAD, Vocabulary

# The paper's Table 7, by hand in docs/paper.md 1.3; Slam large (1.5B) is arithmetic by the same formula. GLM-4-9B: 40
# layers of 203,960,832 (attention 18,874,368 + 4,608 + 16,777,216, MLP 168,296,448, norms 8,192), a last norm of 4,096,
# and twice 502 rows of 4,096.
TABLE_7 = {
    "Qwen/Qwen2.5-0.5B": 358_347_904,
    "HuggingFaceTB/SmolLM2-135M": 106_492_608,
    "facebook/MobileLLM-125M": 106_492_608,
    "HuggingFaceTB/SmolLM2-360M": 315_117_120,
    "facebook/MobileLLM-350M": 315_117_120,
    "facebook/opt-125m": 87_015_936,
    "facebook/opt-350m": 305_714_176,
    "EleutherAI/pythia-160m": 85_827_072,
    "EleutherAI/pythia-410m": 303_339_520,
    "Qwen/Qwen2.5-1.5B": 1_311_111_680,
    "zai-org/glm-4-9b-hf": 8_162_549_760,
}

N_UNITS = 20
UNITS = Vocabulary.of_units(N_UNITS)


@pytest.fixture(params=SMALL)
def text_lm(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SMALL[request.param])
    model.save_pretrained(tmp_path / "text")
    return tmp_path / "text", model


@pytest.mark.parametrize("name", TABLE_7)
def test_parameter_counts_are_exact(name: str) -> None:
    assert count_unit_lm_parameters(family_config(name), Vocabulary.of_units(500)) == TABLE_7[name]


def test_every_family_has_a_count() -> None:
    assert set(FAMILIES) == set(TABLE_7)


def test_twist_keeps_the_body_and_the_first_rows_of_embedding_and_head(text_lm: tuple[Path, torch.nn.Module]) -> None:
    folder, text = text_lm
    model = build_unit_lm(ModelSettings(base=str(folder)), UNITS, seed=0)
    before = dict(text.named_parameters(remove_duplicate=False))
    for name, weight in model.named_parameters(remove_duplicate=False):
        assert torch.equal(weight, before[name][: len(weight)]), name
    embedding = model.get_input_embeddings()
    assert embedding.weight.shape[0] == N_UNITS + 2
    tied = model.get_output_embeddings().weight is embedding.weight
    assert tied == text.config.tie_word_embeddings


def test_no_trace_of_dropout_or_of_the_text_lms_specials_is_left(text_lm: tuple[Path, torch.nn.Module]) -> None:
    model = build_unit_lm(ModelSettings(base=str(text_lm[0])), UNITS, seed=0)
    assert all(module.p == 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert not [key for key, value in model.config.to_dict().items() if "dropout" in key and value]
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (PAD, BOS, BOS)
    # torch never trains the row of an embedding's padding index, so this must be <PAD> and no other
    assert model.get_input_embeddings().padding_idx in (None, PAD)


def test_a_fresh_start_shares_nothing_but_the_shape(text_lm: tuple[Path, torch.nn.Module]) -> None:
    folder, text = text_lm
    fresh = build_unit_lm(ModelSettings(base=str(folder), twist=False), UNITS, seed=1)
    again = build_unit_lm(ModelSettings(base=str(folder), twist=False), UNITS, seed=1)
    other = build_unit_lm(ModelSettings(base=str(folder), twist=False), UNITS, seed=2)
    before = dict(text.named_parameters(remove_duplicate=False))
    matrices = [name for name, weight in fresh.named_parameters() if weight.ndim == 2]
    for name in matrices:
        weight = fresh.get_parameter(name)
        assert torch.equal(weight, again.get_parameter(name))
        assert not torch.equal(weight, other.get_parameter(name))
        assert not torch.equal(weight, before[name][: len(weight)])
    assert count_parameters(fresh) == count_unit_lm_parameters(text.config, UNITS)


@pytest.mark.parametrize("embedding", ["mean", "normal"])
def test_other_starts_of_the_embedding_keep_the_body(text_lm: tuple[Path, torch.nn.Module], embedding: str) -> None:
    folder, text = text_lm
    config = ModelSettings.model_validate({"base": str(folder), "embedding": embedding})
    model = build_unit_lm(config, UNITS, seed=0)
    rows = model.get_input_embeddings().weight
    text_rows = text.get_input_embeddings().weight
    centre = (rows - text_rows.mean(dim=0)).pow(2).mean().sqrt() / text_rows.std()
    assert centre < 0.05 if embedding == "mean" else 0.8 < centre < 1.2
    assert len(torch.unique(rows, dim=0)) == len(rows)
    body = [n for n, w in model.named_parameters() if len(w) != N_UNITS + 2]
    assert all(torch.equal(model.get_parameter(name), text.get_parameter(name)) for name in body)


def test_a_saved_unit_lm_is_a_plain_transformers_folder(text_lm: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    model = build_unit_lm(ModelSettings(base=str(text_lm[0])), UNITS, seed=0)
    save_unit_lm(model, tmp_path / "units")
    tokens = torch.randint(2, 22, (2, 9), generator=torch.Generator().manual_seed(0))
    expected = model.eval()(tokens).logits
    for loaded in (AutoModelForCausalLM.from_pretrained(tmp_path / "units"), load_unit_lm(tmp_path / "units")):
        assert type(loaded) is type(model)
        assert torch.equal(loaded.eval()(tokens).logits, expected)


def test_rope_base_is_the_recipes_unless_kept() -> None:
    text = Qwen2Config(rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0})
    assert unit_lm_config(text, Vocabulary.of_units(500), 10_000.0).rope_parameters["rope_theta"] == 10_000.0
    assert unit_lm_config(text, Vocabulary.of_units(500), None).rope_parameters["rope_theta"] == 1_000_000.0
    assert text.rope_parameters["rope_theta"] == 1_000_000.0


def test_bad_bases_are_one_line_errors(tmp_path: Path, text_lm: tuple[Path, torch.nn.Module]) -> None:
    with pytest.raises(BadInput, match=r"^model\.base="):
        build_unit_lm(ModelSettings(base=str(tmp_path / "nothing")), UNITS, seed=0)
    with pytest.raises(BadInput, match="64 embedding rows, fewer than 502"):
        build_unit_lm(ModelSettings(base=str(text_lm[0])), Vocabulary.of_units(500), seed=0)
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        load_unit_lm(tmp_path)


def _packed(pieces: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    positions = torch.cat([torch.arange(len(piece)) for piece in pieces])
    return torch.cat(pieces)[None], positions[None]


@pytest.mark.parametrize("attention", ["sdpa", BLOCKWISE])
def test_logits_of_a_piece_do_not_depend_on_its_neighbours_in_the_row(
    text_lm: tuple[Path, torch.nn.Module], attention: str
) -> None:
    register_attention(BLOCKWISE)
    model = build_unit_lm(ModelSettings(base=str(text_lm[0])), UNITS, seed=0, attention=attention).eval()
    generator = torch.Generator().manual_seed(1)
    piece, before, after, other = (torch.randint(2, 22, (n,), generator=generator) for n in (300, 11, 7, 30))
    with torch.no_grad():
        tokens, positions = _packed([piece])
        inside = inside_pieces(positions, torch.tensor([0]), 300, attention)
        alone = model(input_ids=tokens, position_ids=positions, use_cache=False, **inside).logits[0]
        for neighbours in ([before, piece, after], [other, piece], [piece, other]):
            tokens, positions = _packed(neighbours)
            start = sum(len(p) for p in neighbours[: [p is piece for p in neighbours].index(True)])
            inside = inside_pieces(positions, torch.tensor([0]), 300, attention)
            logits = model(input_ids=tokens, position_ids=positions, use_cache=False, **inside).logits[0]
            torch.testing.assert_close(logits[start : start + 300], alone, atol=2e-6, rtol=1e-4)


def test_blockwise_attention_has_the_gradients_of_torchs_own(tmp_path: Path) -> None:
    register_attention(BLOCKWISE)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(SMALL["qwen2"]).save_pretrained(tmp_path)
    pieces = [torch.randint(2, 22, (n,)) for n in (290, 200, 90)]
    tokens, positions = _packed(pieces)
    gradients = []
    for attention in ("sdpa", BLOCKWISE):
        model = build_unit_lm(ModelSettings(base=str(tmp_path)), UNITS, seed=0, attention=attention)
        inside = inside_pieces(positions, torch.tensor([0]), 290, attention)
        output = model(input_ids=tokens, position_ids=positions, use_cache=False, **inside)
        output.logits.logsumexp(-1).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_attention_flops_agree_with_counting_by_hand() -> None:
    # One layer, one head of 4 channels, a piece of 3 tokens: 1 + 2 + 3 keys met, each 2 products of 4 multiply-adds.
    config = Qwen2Config(num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, hidden_size=4)
    forward_and_backward = 3 * (1 + 2 + 3) * 2 * 4 * 2
    assert attention_flops_per_token(config, 3) * 3 == forward_and_backward
