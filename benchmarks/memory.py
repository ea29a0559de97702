"""What models that no device holds are planned to need of each GPU, under ZeRO 3: a table in Markdown.

    python benchmarks/memory.py [context=8192] [pair=2048] [device_gb=80]

Nothing is measured: slamray/train/memory.py plans, which tests/train/test_memory.py holds within a tenth of what
torch's allocator says of small models. The models keep the vocabulary of their text, as one of speech and text does.
"""

from __future__ import annotations

import sys
from typing import Any

from pydantic import Field
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config

from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings
from slamray.config.compute import Compute
from slamray.config.training import DpoSettings, OptimSettings
from slamray.errors import BadInput
from slamray.model.families import family_config
from slamray.model.unit_lm import count_config_parameters
from slamray.train.memory import GIB, Memory, planned_dpo_memory, planned_memory

GPUS = (2, 8, 64)
HEADER = (
    "model", "GPUs", "weights", "gradients", "AdamW", "buffers", "activations", "recomputed", "total", "recomputed",
    "DPO, recomputed",
)  # fmt: skip


class Words(Settings):
    """Words of this command."""

    context: int = Field(8192, ge=16, description="tokens of a row, one of which a GPU holds at once")
    pair: int = Field(
        2048, ge=16, description="tokens of either side of a pair of DPO, one of which a GPU holds at once"
    )
    device_gb: float = Field(80, gt=0, description="memory of a GPU; what needs more is marked")


def models() -> dict[str, PreTrainedConfig]:
    """The shapes of three published text LMs: the config.json of each hub id."""
    seven: dict[str, Any] = {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "intermediate_size": 18944,
    }
    nine: dict[str, Any] = {
        "hidden_size": 4096,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
    }
    untied: dict[str, Any] = {"num_key_value_heads": 4, "tie_word_embeddings": False}
    return {
        "Qwen/Qwen2.5-1.5B": family_config("Qwen/Qwen2.5-1.5B"),
        "Qwen/Qwen2.5-7B": Qwen2Config(vocab_size=152064, **seven, **untied),
        "01-ai/Yi-1.5-9B": LlamaConfig(vocab_size=64000, **nine, **untied),
    }


def row(name: str, config: PreTrainedConfig, gpus: int, words: Words) -> list[str]:
    """Of one model on so many GPUs, in GB."""
    kept, recomputed = (
        Compute(
            workers=gpus,
            device="cuda",
            dtype="bfloat16",
            zero_stage=3,
            micro_batch=1,
            dpo_micro_batch=1,
            recompute=again,
        )
        for again in (False, True)
    )
    plans = [planned_memory(config, OptimSettings(), compute, words.context) for compute in (kept, recomputed)]
    dpo = planned_dpo_memory(config, DpoSettings(context=words.pair), recomputed)
    parts = (plans[0].weights, plans[0].gradients, plans[0].optimiser, plans[0].buffers, *map(_activations, plans))
    totals = [_total(plan, words.device_gb) for plan in (*plans, dpo)]
    label = f"{name}, {count_config_parameters(config) / 1e9:.2f}B"
    return [label, str(gpus), *(f"{part / GIB:.1f}" for part in parts), *totals]


def _activations(plan: Memory) -> int:
    return plan.activations + plan.logits


def _total(plan: Memory, device_gb: float) -> str:
    total = plan.total / GIB
    return f"{total:.1f}" if total <= device_gb else f"({total:.1f})"


def run() -> int:
    """Print the table, in brackets what a GPU has not."""
    words, others = split_words(sys.argv[1:], Words)
    if others:
        raise BadInput(f"{others[0]}: no such word; there are {' '.join(Words.model_fields)}")
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for name, config in models().items():
        for gpus in GPUS:
            print("| " + " | ".join(row(name, config, gpus, words)) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(as_command(run))
