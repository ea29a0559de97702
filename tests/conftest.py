"""What several tests share: one Ray cluster for the session, tiny models in the published formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slamray.config import Compute
from slamray.runtime.engine import Engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An engine on a real local Ray cluster, one for all tests."""
    engine = Engine(Compute(cpus_per_worker=1))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised HubertModel of 25 Hz, as save_pretrained leaves it, with 20 centroids beside it."""
    import torch
    from safetensors.torch import save_file
    from transformers import HubertConfig, HubertModel

    folder = tmp_path_factory.mktemp("hubert")
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(16, 16, 16),
        conv_stride=(10, 8, 8), conv_kernel=(20, 8, 8), feat_extract_norm="layer", num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    save_file({"centroids_KD": torch.randn(20, 32)}, folder / "centroids.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised Qwen2 text LM, as save_pretrained leaves it."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    folder = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
        vocab_size=64, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
