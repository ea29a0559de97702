"""Tiny models in the published formats, and the words that make the demo recipe run on them in seconds."""

from __future__ import annotations

from pathlib import Path


def make_encoder(folder: Path) -> Path:
    """A randomly initialised HubertModel of 25 Hz, as save_pretrained leaves it, with 20 centroids beside it."""
    import torch
    from safetensors.torch import save_file
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(16, 16, 16),
        conv_stride=(10, 8, 8), conv_kernel=(20, 8, 8), feat_extract_norm="layer", num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    save_file({"centroids_KD": torch.randn(20, 32)}, folder / "centroids.safetensors")
    return folder


def make_lm(folder: Path) -> Path:
    """A randomly initialised Qwen2 text LM, as save_pretrained leaves it."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
        vocab_size=64, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def make_vocoder(folder: Path) -> Path:
    """An untrained unit decoder for 20 units, as save leaves it."""
    import torch

    from slamray.speech.decoders.source_filter import Vocoder, VocoderNet, VocoderShape

    torch.manual_seed(0)
    Vocoder(VocoderNet(VocoderShape(n_units=20, frames_per_unit=4, hidden=16, unit_blocks=1, frame_blocks=1))).save(
        folder
    )
    return folder


def words(encoder: Path, lm: Path, vocoder: Path) -> list[str]:
    """Words that make the demo recipe run in seconds: real stages, tiny models, few rows."""
    return [
        "profile=laptop", "tracking.enabled=false", "compute.cpus_per_worker=1",
        f"speech.encoder.model={encoder}", f"speech.encoder.centroids={encoder}/centroids.safetensors",
        "speech.encoder.layer=2", "speech.encoder.pad_samples=40", "speech.train_documents=16",
        "speech.validation_documents=2", "speech.shard_documents=2", f"model.base={lm}", "pack.context=128",
        "pretrain.budget=steps:4", "pretrain.tokens_per_step=1024", "preferences.max_pairs=8",
        "preferences.heldout_pairs=4", "dpo.budget=steps:2", "dpo.pairs_per_step=4", "evaluate.items.topic_cloze=4",
        "evaluate.items.sentence_order=4", "evaluate.items.words=4",
        "evaluate.items.words_in_sentence=4", "evaluate.items.grammar=10",
        "evaluate.sampling.prompts=2", "evaluate.sampling.max_new_tokens=20", "evaluate.audio_samples=1",
        f"evaluate.vocoder={vocoder}",
    ]  # fmt: skip


def asset_words() -> list[str]:
    """Words that make the job of the offline models run in a minute: every stage, a few steps, few rows."""
    return [
        "tracking.enabled=false", "compute.cpus_per_worker=1", "compute.micro_batch=4", "compute.report_every_steps=1",
        "assets.encoder.train_documents=3", "assets.encoder.evaluation_documents=2", "assets.encoder.mfcc_clusters=8",
        "assets.intelligibility_documents=1",
        "assets.encoder.first.budget=steps:3", "assets.encoder.second.budget=steps:3",
        "assets.encoder.feature_clusters=[8]", "assets.encoder.n_units=16",
        "assets.encoder.kmeans_frames=1000", "assets.source_filter.documents=2", "assets.source_filter.budget=steps:3",
        "assets.source_filter.crop_seconds=1", "assets.text_lm.vocab_size=300", "assets.text_lm.hidden=32",
        "assets.text_lm.layers=1", "assets.text_lm.heads=2", "assets.text_lm.kv_heads=1", "assets.text_lm.ffn=32",
        "assets.text_lm.context=64", "assets.text_lm.pretrain.budget=steps:2",
        "assets.text_lm.pretrain.tokens_per_step=512",
    ]  # fmt: skip
