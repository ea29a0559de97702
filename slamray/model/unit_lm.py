"""A text LM turned unit LM (TWIST): build, re-embed, load, save, count parameters and FLOPs.

Legend: V text vocabulary, N rows of the unit vocabulary, M of them new, H width of the embedding.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from slamray.config.base import SHAPE, asset_path
from slamray.config.model import ModelSettings
from slamray.errors import BadInput
from slamray.given import check_weights, reason_of
from slamray.model.families import SHAPES, family_config
from slamray.model.saved_vocabulary import SLAMKIT_TYPE, model_vocabulary, set_vocabulary, stated_vocabulary
from slamray.tokens.vocabulary import Vocabulary, reconcile

MOBILELLM_TYPE = "mobilellm"
SLAMKIT_PREFIX = "lm."  # under which the weights of slamkit's layout lie
_MEAN_NOISE = 0.02  # of the embedding's own spread: tells rows apart and no more (chosen, not tuned)


def build_unit_lm(config: ModelSettings, vocabulary: Vocabulary, seed: int, attention: str = "sdpa") -> PreTrainedModel:
    """A float32 causal LM over units: the body of the text LM `config.base`, or without TWIST its shape alone.

    Unit embeddings start as the first rows of the text embedding (as slamkit does, docs/paper.md 1.3), as its mean
    plus small noise, or as fresh normal rows; an untied head is treated like the embedding. In a joint vocabulary the
    rows of text tokens stay, and units and tags start as the mean or fresh. rope_theta is the base of
    rotary positions and means nothing to a model with learned positions. There is no dropout (docs/paper.md 1.4).
    A base that is a unit LM already, ours or a published one, goes on as it is: embeddings and rope_theta are its own.
    BadInput when the base cannot be read, has fewer rows than the vocabulary, or is a unit LM of other units.
    """
    base = asset_path(config.base)
    try:
        text_config = read_lm_config(base, config.revision, vocabulary)
        text_lm = _load_lm(base, config.revision, text_config, dtype=torch.float32) if config.twist else None
    except BadInput as error:
        raise BadInput(f"model.base={error}") from error
    known = unit_vocabulary_of_base(text_config, vocabulary, base)
    kept = vocabulary.size if config.embedding == "first_rows" else vocabulary.n_text  # rows that the base has given
    if known is not None:
        vocabulary = reconcile(known, vocabulary, f"model.base={config.base}", "speech.encoder")
        config, kept = config.model_copy(update={"rope_theta": None}), vocabulary.size
    elif vocabulary.is_joint and config.embedding == "first_rows":
        raise BadInput(
            "model.embedding=first_rows: units beside text cannot start as rows of text tokens; say mean or normal"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            unit_lm_config(text_config, vocabulary, config.rope_theta),
            dtype=torch.float32,
            attn_implementation=attention,
        )
        assert isinstance(model, PreTrainedModel)
        if text_lm is not None:
            _take_weights(model, text_lm, config, kept)
    return model


def unit_lm_config(
    text_config: PreTrainedConfig, vocabulary: Vocabulary, rope_theta: float | None = None
) -> PreTrainedConfig:
    """The text LM's configuration with the given vocabulary, no dropout, and the given RoPE base."""
    config = copy.deepcopy(text_config)
    config.vocab_size = vocabulary.size
    set_vocabulary(config, vocabulary)
    _set_specials(config, vocabulary)
    for name, value in text_config.to_dict().items():
        if isinstance(value, float) and (name.endswith(("dropout", "dropout_prob", "pdrop")) or name == "layerdrop"):
            setattr(config, name, 0.0)
    rope = text_config.to_dict().get("rope_parameters")
    if rope_theta is not None and rope is not None:
        config.rope_parameters = {**rope, "rope_theta": rope_theta}
    return config


def _set_specials(config: PreTrainedConfig, vocabulary: Vocabulary) -> None:
    # The text LM's own pad id may be a unit here, and torch never trains the row of an embedding's padding index.
    # Where padding has no id of its own (Qwen2.5, GPT-NeoX) it is that of <S>, which is to be trained.
    config.pad_token_id = vocabulary.pad if vocabulary.pad != vocabulary.bos else None
    config.bos_token_id = config.eos_token_id = vocabulary.bos


def load_unit_lm(
    folder: Path,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    wanted: Vocabulary | None = None,
) -> PreTrainedModel:
    """A saved unit LM, in transformers' or in slamkit's layout; needs nothing but its folder.

    wanted: the vocabulary of a published model of text and speech, which says nothing of it (saved_vocabulary.py).
    """
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} holds no model: config.json is missing")
    config = read_lm_config(str(folder), wanted=wanted)
    return _load_lm(str(folder), None, config, dtype=dtype, attn_implementation=attention, local_files_only=True)


def load_text_lm(base: str, revision: str | None) -> PreTrainedModel:
    """The text LM of a folder or hub id as it is, in float32."""
    place = asset_path(base)
    return _load_lm(place, revision, read_lm_config(place, revision), dtype=torch.float32)


def read_lm_config(base: str, revision: str | None = None, wanted: Vocabulary | None = None) -> PreTrainedConfig:
    """The causal LM's configuration in a folder or hub id, or of a shape; of a published unit LM, the LM's inside it.

    wanted: see `load_unit_lm`. MobileLLM's folders ask to execute code of their own; its weights and their names are
    Llama's, with a tied head.
    """
    if base.startswith(SHAPE):
        return shape_config(base)
    try:
        tree, _ = PreTrainedConfig.get_config_dict(base, revision=revision)
        if tree.get("model_type") == MOBILELLM_TYPE:
            tied = {"tie_word_embeddings": tree.pop("share_embedding", True)}
            return LlamaConfig.from_dict({k: v for k, v in tree.items() if k not in ("auto_map", "model_type")} | tied)
        if tree.get("model_type") != SLAMKIT_TYPE:
            return AutoConfig.from_pretrained(base, revision=revision)
        config = AutoConfig.for_model(**tree["base_config"])
        config.vocab_size = tree["vocab_size"]  # slamkit resizes the LM and may leave the text LM's number inside
    except Exception as error:  # transformers and its readers raise many kinds over a file that is not as they expect
        raise _not_read(base, error) from error
    found = model_vocabulary(tree, base, wanted)
    set_vocabulary(config, found)
    if found.is_joint:  # slamkit writes ids 0, 1 and 1 there, which are text tokens like others
        _set_specials(config, found)
    return config


def shape_config(base: str) -> PreTrainedConfig:
    """The configuration of `shape:NAME`; BadInput where there is none of that name."""
    name = base.removeprefix(SHAPE)
    if name not in SHAPES:
        raise BadInput(f"{base}: no such shape; there are {' '.join(SHAPES)}")
    return family_config(name)


def unit_vocabulary_of_base(config: PreTrainedConfig, wanted: Vocabulary, base: str) -> Vocabulary | None:
    """The vocabulary of a base that is a unit LM already; None for a text LM.

    A unit LM saved before models stated their vocabulary is known by its specials and its number of rows.
    """
    stated = stated_vocabulary(config.to_dict(), base)
    if stated is not None:
        return stated if stated.n_units else None
    found = (config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id)
    return wanted if found == (wanted.size, wanted.pad, wanted.bos, wanted.bos) else None


def save_unit_lm(model: PreTrainedModel, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Plain transformers format: AutoModelForCausalLM loads it with no code of ours.

    weights: by parameter name, tied ones once; the model's own unless given.
    """
    vocabulary = model_vocabulary(model.config.to_dict(), str(folder))
    pad, bos = vocabulary.pad, vocabulary.bos
    model.generation_config = GenerationConfig(pad_token_id=pad, bos_token_id=bos, eos_token_id=bos)
    model.save_pretrained(folder, state_dict=None if weights is None else dict(weights))


def recompute_layers(model: PreTrainedModel) -> None:
    """Keep of each layer its input alone, and compute the rest again in the backward pass (activation checkpointing).

    There is no dropout, so no random state is kept (docs/paper.md 1.4).
    """
    model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})


def count_parameters(model: PreTrainedModel) -> int:
    """All parameters, tied weights once, embeddings included: how the paper counts (docs/paper.md 1.3)."""
    return sum(whole_shape(parameter).numel() for parameter in model.parameters())


def whole_shape(parameter: torch.Tensor) -> torch.Size:
    """A parameter's shape; DeepSpeed's ZeRO 3 empties what it spreads over workers, and keeps the shape beside it."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def count_config_parameters(config: PreTrainedConfig) -> int:
    """The same for the causal LM of a configuration, without making it."""
    with torch.device("meta"):
        return count_parameters(AutoModelForCausalLM.from_config(config))


def count_unit_lm_parameters(text_config: PreTrainedConfig, vocabulary: Vocabulary) -> int:
    """The same for the unit LM of a text LM's shape, without making it."""
    return count_config_parameters(unit_lm_config(text_config, vocabulary))


def flops_per_token(parameters: int) -> float:
    """Training FLOPs of a token, forward and backward: 6 N, embeddings in N (docs/paper.md 1.9)."""
    return 6.0 * parameters


def attention_flops_per_token(config: PreTrainedConfig, piece: int) -> float:
    """What 6 N leaves out: scores and weighted sums of causal attention over a piece of that many tokens, both passes.

    A token at place t meets t + 1 keys, on average (piece + 1) / 2.
    """
    return _attention_flops_per_pair(config) * (piece + 1) / 2


def training_flops(config: PreTrainedConfig, parameters: int, tokens: int, pairs: int) -> float:
    """Training FLOPs with attention, forward and backward: 6 N tokens + 12 x layers x heads x head width x pairs.

    pairs: of a query and a key that meet, T (T + 1) / 2 in a piece of T tokens. Kernels that compute masked pairs too
    (sdpa with a mask) do more; this counts what the model asks for. N holds embeddings and norms (docs/paper.md 1.9).
    """
    return flops_per_token(parameters) * tokens + _attention_flops_per_pair(config) * pairs


def _attention_flops_per_pair(config: PreTrainedConfig) -> float:
    """A query that meets a key: 2 multiply-adds per channel forward (score, weighted sum), twice that backward."""
    heads = config.num_attention_heads
    head_width = config.to_dict().get("head_dim") or config.hidden_size // heads
    return 3 * 2 * 2 * config.num_hidden_layers * heads * head_width


def _load_lm(base: str, revision: str | None, config: PreTrainedConfig, **settings: Any) -> PreTrainedModel:
    """The causal LM with these weights; BadInput where some are missing, for transformers would draw them at random.

    A .bin file is read with weights_only: transformers' default, said here because it matters.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base,
            revision=revision,
            config=config,
            key_mapping={f"^{re.escape(SLAMKIT_PREFIX)}": ""},
            weights_only=True,
            output_loading_info=True,
            **settings,
        )
    except UnpicklingError as error:
        raise BadInput(f"{base}: its .bin file holds more than weights and is not opened; find safetensors") from error
    except Exception as error:  # as above
        raise _not_read(base, error) from error
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise BadInput(f"{base}: {len(missing)} weights are missing, the first is {missing[0]}; fetch it again")
    assert isinstance(model, PreTrainedModel)
    return model


def _not_read(base: str, error: Exception) -> BadInput:
    """Why a model cannot be read: what is wrong with its files where that can be told, else what the library says."""
    if isinstance(error, BadInput):
        return error
    if Path(base).is_dir():
        check_weights(Path(base))
    return BadInput(f"{base}: {reason_of(error)}")


def _take_weights(model: PreTrainedModel, text_lm: PreTrainedModel, config: ModelSettings, kept: int) -> None:
    """Copy the body as it is and re-embed the vocabulary; the head too where it is not tied.

    kept: how many rows stay what they are; the others are new.
    """
    vocabulary = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    source = dict(text_lm.named_parameters(remove_duplicate=False))
    for name, weight_NH in model.named_parameters():
        with torch.no_grad():
            if id(weight_NH) not in vocabulary:
                weight_NH.copy_(source[name])
                continue
            text_VH = source[name]
            if len(text_VH) < kept:
                raise BadInput(f"model.base={config.base}: {len(text_VH)} embedding rows, fewer than {kept} ids")
            weight_NH[:kept] = text_VH[:kept]
            new_MH = weight_NH[kept:]
            if config.embedding == "mean":
                noise_MH = torch.randn(new_MH.shape) * text_VH.std(dim=0) * _MEAN_NOISE
                new_MH.copy_(text_VH.mean(dim=0) + noise_MH)
            elif len(new_MH):
                new_MH.normal_(std=text_VH.std().item())
