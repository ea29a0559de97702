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
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A gloo group of one, as Ray Train makes it; one for all tests, for DeepSpeed remembers the first it meets."""
    import torch.distributed as dist

    patch = pytest.MonkeyPatch()
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}.items():
        patch.setenv(name, str(value))
    patch.setenv("MASTER_ADDR", "127.0.0.1")
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    patch.undo()


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


@pytest.fixture(scope="session")
def tiny_vocoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained unit decoder for 20 units, as save leaves it."""
    import torch

    from slamray.speech.vocode import Vocoder, VocoderNet, VocoderShape

    folder = tmp_path_factory.mktemp("vocoder")
    torch.manual_seed(0)
    Vocoder(VocoderNet(VocoderShape(n_units=20, frames_per_unit=4, hidden=16, unit_blocks=1, frame_blocks=1))).save(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def tiny_words(tiny_encoder: Path, tiny_lm: Path, tiny_vocoder: Path) -> list[str]:
    """Words that make the demo recipe run in seconds: real stages, tiny models, few rows."""
    return [
        "profile=laptop", "tracking.enabled=false", "compute.cpus_per_worker=1",
        f"speech.encoder.model={tiny_encoder}", f"speech.encoder.centroids={tiny_encoder}/centroids.safetensors",
        "speech.encoder.layer=2", "speech.encoder.pad_samples=40", "speech.train_documents=16",
        "speech.validation_documents=2", "speech.shard_documents=2", f"model.base={tiny_lm}", "pack.context=128",
        "pretrain.budget=steps:4", "pretrain.tokens_per_step=1024", "preferences.max_pairs=8",
        "preferences.heldout_pairs=4", "dpo.budget=steps:2", "dpo.pairs_per_step=4", "evaluate.items.topic_cloze=4",
        "evaluate.items.sentence_order=4", "evaluate.items.words=4",
        "evaluate.items.words_in_sentence=4", "evaluate.items.grammar=10",
        "evaluate.sampling.prompts=2", "evaluate.sampling.max_new_tokens=20", "evaluate.audio_samples=1",
        f"evaluate.vocoder={tiny_vocoder}",
    ]  # fmt: skip
