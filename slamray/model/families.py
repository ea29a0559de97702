"""Shapes of the text LMs the paper compares (its Table 7), known without a download, and of small kin of theirs.

Sources: the config.json of each hub id; the counts in docs/paper.md 1.3 are reproduced exactly by tests/model/.
"""

from __future__ import annotations

from typing import Any

from transformers import GlmConfig, GPTNeoXConfig, LlamaConfig, OPTConfig, PreTrainedConfig, Qwen2Config


def family_config(name: str) -> PreTrainedConfig:
    """The text LM's configuration, text vocabulary included; KeyError for a name that is not in FAMILIES or SHAPES."""
    kind, fields = (FAMILIES | SHAPES)[name]
    return kind(**fields)


def _llama(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
    }


def _neox(hidden: int, layers: int, heads: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }


FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "Qwen/Qwen2.5-0.5B": (Qwen2Config, _llama(896, 24, 14, 2, 4864, 151936)),
    "Qwen/Qwen2.5-1.5B": (Qwen2Config, _llama(1536, 28, 12, 2, 8960, 151936)),
    "HuggingFaceTB/SmolLM2-135M": (LlamaConfig, _llama(576, 30, 9, 3, 1536, 49152)),
    "HuggingFaceTB/SmolLM2-360M": (LlamaConfig, _llama(960, 32, 15, 5, 2560, 49152)),
    "facebook/MobileLLM-125M": (LlamaConfig, _llama(576, 30, 9, 3, 1536, 32000)),
    "facebook/MobileLLM-350M": (LlamaConfig, _llama(960, 32, 15, 5, 2560, 32000)),
    "facebook/opt-125m": (
        OPTConfig,
        {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "ffn_dim": 3072,
            "word_embed_proj_dim": 768,
            "vocab_size": 50272,
        },
    ),
    "facebook/opt-350m": (
        OPTConfig,
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "ffn_dim": 4096,
            "word_embed_proj_dim": 512,  # projected in and out; layer norm after each block and none at the end
            "do_layer_norm_before": False,
            "vocab_size": 50272,
        },
    ),
    # GLM-4-9B, what 2411.17607 starts from, as transformers reads it: half of each head is rotated
    "zai-org/glm-4-9b-hf": (
        GlmConfig,
        {
            "hidden_size": 4096,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "intermediate_size": 13696,
            "attention_bias": True,
            "vocab_size": 151552,
            "pad_token_id": 151329,
            "eos_token_id": [151329, 151336, 151338],
            "tie_word_embeddings": False,
        },
    ),
    "EleutherAI/pythia-160m": (GPTNeoXConfig, _neox(768, 12, 12, 50304)),
    "EleutherAI/pythia-410m": (GPTNeoXConfig, _neox(1024, 24, 16, 50304)),
}

# One of each family, about as deep and as wide as assets/story-lm, for studies on a laptop; no weights exist.
SHAPES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "qwen2-nano": (Qwen2Config, _llama(256, 4, 4, 2, 704, 2048)),
    "qwen2-micro": (Qwen2Config, _llama(384, 6, 6, 2, 1056, 2048)),  # deeper and wider, for slam_large_laptop
    "llama-nano": (LlamaConfig, _llama(256, 4, 4, 2, 704, 2048)),
    "pythia-nano": (GPTNeoXConfig, _neox(256, 4, 4, 2048)),
    "opt-nano": (
        OPTConfig,
        {
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "ffn_dim": 1024,
            "word_embed_proj_dim": 256,
            "vocab_size": 2048,
        },
    ),
    # kin of llama-nano, named by layers and width, for benchmarks/scaling.py
    "llama-2x64": (LlamaConfig, _llama(64, 2, 2, 2, 176, 2048)),
    "llama-2x128": (LlamaConfig, _llama(128, 2, 4, 4, 352, 2048)),
    "llama-3x192": (LlamaConfig, _llama(192, 3, 6, 6, 528, 2048)),
    "llama-5x320": (LlamaConfig, _llama(320, 5, 10, 10, 880, 2048)),
    # Cuervo and Marxer's 85M with a layer less, for predicted_optimal (docs/paper.md 5.2)
    "llama-78m": (LlamaConfig, _llama(768, 11, 12, 12, 2048, 2048)),
}
