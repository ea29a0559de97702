"""A tiny text LM in llama2.c's format, written as that project's export.py writes one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

# By rank: longer pieces first, as they were merged, then single characters, as in SentencePiece's models.
PIECES = [" t", "he", " the", "ca", " c", "at", " ca", " cat", "s.", " s", " sa", " sat", "xy", "xyz", " ", "t", "h",
          "e", "c", "a", "s", ".", "x", "y", "z"]  # fmt: skip
SHAPE = {"width": 16, "ffn": 24, "layers": 3, "heads": 2, "kv_heads": 1, "vocabulary": 259 + len(PIECES), "context": 8}


@dataclass(frozen=True)
class Written:
    """A file, and the model that it was written from."""

    path: Path
    model: LlamaForCausalLM


def write_teacher(path: Path) -> Written:
    """A model with random weights; pairs that rotate together are neighbours in the file."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SHAPE["vocabulary"], hidden_size=16, intermediate_size=24, num_hidden_layers=3,
            num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip
    state = model.state_dict()

    def each(name: str) -> list[torch.Tensor]:
        return [state[f"model.layers.{layer}.{name}.weight"] for layer in range(3)]

    def neighbours(
        weight: torch.Tensor,
    ) -> torch.Tensor:  # row i of a head's first half stands before row i of its second
        order = [
            head * 8 + half * 4 + pair for head in range(len(weight) // 8) for pair in range(4) for half in range(2)
        ]
        return weight[order]

    tensors = [state["model.embed_tokens.weight"], *each("input_layernorm")]
    tensors += [neighbours(weight) for name in ("q_proj", "k_proj") for weight in each(f"self_attn.{name}")]
    for name in ("self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
                 "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"):  # fmt: skip
        tensors += each(name)
    tensors += [state["model.norm.weight"], torch.zeros(8, 4), torch.zeros(8, 4)]
    data = struct.pack("<7i", *SHAPE.values()) + b"".join(tensor.numpy().astype("<f4").tobytes() for tensor in tensors)
    names = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(bytes([byte]) for byte in range(256)), *(p.encode() for p in PIECES)]
    data += struct.pack("<i", max(map(len, names)))
    for number, name in enumerate(names):
        data += struct.pack("<fi", -float(max(0, number - 259)), len(name)) + name
    path.write_bytes(data)
    return Written(path, model)
