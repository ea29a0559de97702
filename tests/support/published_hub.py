"""What the recipe slam names, small and in the published formats: a hub's folders, and the cache of the rest."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from slamray.config.base import asset_path
from slamray.data.text import read_documents

RATE_HZ = 16_000
CENTROIDS, VOCODER = "mhubert-base-25hz-L11-km500.safetensors", "hifigan-lj-mhubert-base-25hz"

TEXTS = {
    "prompt": "A dog of the {} set ran {} miles.",
    "chosen": "It came home happy.",
    "rejected": "Soup fell on stars.",
}


def publish(hub: Path, cache: Path) -> None:
    """Models with as many layers and units as the real ones, a few stories, recordings and pairs."""
    _models(hub / "models", cache)
    data = hub / "datasets"
    texts = [
        row.text
        for row, _ in zip(read_documents(asset_path("assets:stories.jsonl.gz"), "text"), range(300), strict=False)
    ]
    _write(data / "roneneldan/TinyStories/data/train-00000-of-00001.parquet", {"text": texts})
    for split, count in (("train.clean.100", 4), ("validation.clean", 2)):
        columns = {"audio": _audio(count), "text": ["A SENTENCE"] * count}
        _write(data / f"openslr/librispeech_asr/all/{split}/0000.parquet", columns)
    words = [[{"word": "a", "start_time": 0.0, "end_time": 0.5}]] * 4
    columns = {"audio": _audio(4), "text": texts[:4], "aligned_text": words}
    _write(data / "slprl/sTinyStories/data/train-00000-of-00001.parquet", columns)
    for split, count in (("train", 6), ("validation", 3)):
        columns = {part: _audio(count, place) for place, part in enumerate(TEXTS)}
        columns |= {f"{part}_text": [text.format(split, i) for i in range(count)] for part, text in TEXTS.items()}
        columns |= {"speaker": ["af_heart"] * count, "auto_bleu2": [0.0] * count}
        _write(data / f"slprl/SpokenSwag/data/{split}-00000-of-00001.parquet", columns)


def _models(folder: Path, cache: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, HubertConfig, HubertModel, Qwen2Config

    from slamray.speech.decoders.source_filter import Vocoder, VocoderNet, VocoderShape
    from slamray.speech.encoders.centroids import save_centroids

    torch.manual_seed(0)
    HubertModel(
        HubertConfig(
            hidden_size=32,
            num_hidden_layers=12,
            num_attention_heads=2,
            intermediate_size=64,
            conv_dim=(16, 16, 16),
            conv_stride=(10, 8, 8),
            conv_kernel=(20, 8, 8),
            feat_extract_norm="layer",
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
    ).save_pretrained(folder / "slprl/mhubert-base-25hz")
    shape = Qwen2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        vocab_size=600,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder / "Qwen/Qwen2.5-0.5B")
    cache.mkdir(parents=True, exist_ok=True)
    save_centroids(cache / CENTROIDS, torch.randn(500, 32), "", 11)
    net = VocoderNet(VocoderShape(n_units=500, frames_per_unit=8, hidden=16, unit_blocks=1, frame_blocks=1))
    Vocoder(net).save(cache / VOCODER)


def _audio(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Noise of a second and a half, as the hub's audio columns hold it."""
    found = []
    for i in range(count):
        sound = io.BytesIO()
        noise = 0.1 * np.random.default_rng([seed, i]).standard_normal(RATE_HZ * 3 // 2)
        soundfile.write(sound, noise.astype(np.float32), RATE_HZ, format="WAV")
        found.append({"bytes": sound.getvalue(), "path": f"{seed}-{i}.wav"})
    return found


def _write(path: Path, columns: dict[str, Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
