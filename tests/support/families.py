"""Small text LMs of every family that the project trains, two of them with grouped heads."""

from __future__ import annotations

from transformers import GlmConfig, GPTNeoXConfig, LlamaConfig, OPTConfig, PreTrainedConfig, Qwen2Config

SMALL: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        tie_word_embeddings=True,
        attention_dropout=0.1,
    ),
    "llama": LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    ),
    "glm": GlmConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        attention_bias=True,
        attention_dropout=0.1,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=[2, 3],
    ),
    "pythia": GPTNeoXConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        hidden_dropout=0.1,
        tie_word_embeddings=False,
    ),
    "opt": OPTConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=16
    ),
}
