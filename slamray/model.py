"""A text LM turned unit LM (TWIST): build, re-embed, load, save, count parameters and FLOPs.

Legend: V text vocabulary, N rows of the unit vocabulary, H width of the embedding.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

from slamray.config import ModelConfig, asset_path
from slamray.errors import BadInput
from slamray.units import BOS, PAD, vocab_size

_MEAN_NOISE = 0.02  # of the embedding's own spread: tells rows apart and no more (chosen, not tuned)


def build_unit_lm(config: ModelConfig, n_units: int, seed: int, attention: str = "sdpa") -> PreTrainedModel:
    """A float32 causal LM over units: the body of the text LM `config.base`, or without TWIST its shape alone.

    Unit embeddings start as the first rows of the text embedding (what slamkit does, recipe.md 1.3), as its mean plus
    small noise, or as fresh normal rows; an untied head is treated like the embedding. rope_theta is the base of
    rotary positions (section 4.1) and means nothing to a model with learned positions. No dropout (section 4).
    BadInput when the base cannot be read or has fewer rows than there are units.
    """
    base = asset_path(config.base)
    try:
        text_config = AutoConfig.from_pretrained(base, revision=config.revision)
        text_lm = AutoModelForCausalLM.from_pretrained(base, revision=config.revision, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"model.base={config.base}: {_first_line(error)}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            unit_lm_config(text_config, vocab_size(n_units), config.rope_theta),
            dtype=torch.float32,
            attn_implementation=attention,
        )
        assert isinstance(model, PreTrainedModel)
        if config.twist:
            _take_weights(model, text_lm, config)
    return model


def unit_lm_config(text_config: PreTrainedConfig, rows: int, rope_theta: float | None = None) -> PreTrainedConfig:
    """The text LM's configuration with the unit vocabulary, no dropout, and the given RoPE base."""
    config = copy.deepcopy(text_config)
    config.vocab_size = rows
    # The text LM's own pad id may be a unit here, and torch never trains the row of an embedding's padding index.
    config.pad_token_id, config.bos_token_id, config.eos_token_id = PAD, BOS, BOS
    for name, value in text_config.to_dict().items():
        if isinstance(value, float) and (name.endswith(("dropout", "dropout_prob", "pdrop")) or name == "layerdrop"):
            setattr(config, name, 0.0)
    rope = text_config.to_dict().get("rope_parameters")
    if rope_theta is not None and rope is not None:
        config.rope_parameters = {**rope, "rope_theta": rope_theta}
    return config


def load_unit_lm(folder: Path, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A saved unit LM; needs nothing but its folder."""
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} holds no model: config.json is missing")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder}: {_first_line(error)}") from error
    assert isinstance(model, PreTrainedModel)
    return model


def save_unit_lm(model: PreTrainedModel, folder: Path) -> None:
    """Plain transformers format: AutoModelForCausalLM loads it with no code of ours."""
    model.generation_config = GenerationConfig(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=BOS)
    model.save_pretrained(folder)


def count_parameters(model: PreTrainedModel) -> int:
    """All parameters, tied weights once, embeddings included: how the paper counts (recipe.md 1.3)."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_unit_lm_parameters(text_config: PreTrainedConfig, n_units: int) -> int:
    """The same for the unit LM of a text LM's shape, without making it."""
    with torch.device("meta"):
        return count_parameters(AutoModelForCausalLM.from_config(unit_lm_config(text_config, vocab_size(n_units))))


def flops_per_token(parameters: int) -> float:
    """Training FLOPs of a token, forward and backward: 6 N, embeddings in N (recipe.md 1.9)."""
    return 6.0 * parameters


def attention_flops_per_token(config: PreTrainedConfig, piece: int) -> float:
    """What 6 N leaves out: scores and weighted sums of causal attention over a piece of that many tokens, both passes.

    A token at place t meets t + 1 keys; each key costs 2 multiply-adds per channel forward and twice that backward.
    """
    heads = config.num_attention_heads
    head_width = config.to_dict().get("head_dim") or config.hidden_size // heads
    return 3 * 2 * 2 * config.num_hidden_layers * heads * head_width * (piece + 1) / 2


def _take_weights(model: PreTrainedModel, text_lm: PreTrainedModel, config: ModelConfig) -> None:
    """Copy the body as it is and re-embed the vocabulary; the head too where it is not tied."""
    vocabulary = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    source = dict(text_lm.named_parameters(remove_duplicate=False))
    for name, weight_NH in model.named_parameters():
        with torch.no_grad():
            if id(weight_NH) not in vocabulary:
                weight_NH.copy_(source[name])
                continue
            text_VH = source[name]
            if len(text_VH) < len(weight_NH):
                raise BadInput(
                    f"model.base={config.base}: {len(text_VH)} embedding rows, fewer than {len(weight_NH)} units"
                )
            if config.embedding == "first_rows":
                weight_NH.copy_(text_VH[: len(weight_NH)])
            elif config.embedding == "mean":
                noise_NH = torch.randn(weight_NH.shape) * text_VH.std(dim=0) * _MEAN_NOISE
                weight_NH.copy_(text_VH.mean(dim=0) + noise_NH)
            else:
                weight_NH.normal_(std=text_VH.std().item())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
