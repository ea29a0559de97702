"""The one way to open an encoder: what is known before its weights are loaded, its units, its features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import WavLMConfig

from slamray.config.speech import EncoderSettings
from slamray.errors import BadInput
from slamray.speech.encoders.table import check_encoder, open_encoder, open_features


@pytest.fixture
def settings(tiny_encoder: Path) -> EncoderSettings:
    centroids = f"{tiny_encoder}/centroids.safetensors"
    return EncoderSettings(model=str(tiny_encoder), centroids=centroids, layer=2, pad_samples=40)


def test_units_and_rate_are_known_before_weights_are_loaded(settings: EncoderSettings) -> None:
    facts, encoder = check_encoder(settings), open_encoder(settings, "cpu")
    assert (facts.n_units, facts.rate_hz) == (encoder.n_units, encoder.rate_hz) == (20, 25.0)


def test_units_are_the_nearest_centroids_of_the_features_in_any_batch(settings: EncoderSettings) -> None:
    rng = np.random.default_rng(0)
    audios = [rng.standard_normal(length).astype(np.float32) for length in (16_000, 5_000, 9_000, 1_000)]
    centroids_KD = load_file(settings.centroids)["centroids_KD"]
    feats = [open_features(settings, "cpu")([audio])[0] for audio in audios]
    expected = [np.square(rows[:, None] - centroids_KD).sum(2).argmin(1) for rows in feats]
    encoder = open_encoder(settings, "cpu")
    for batch_seconds in (0, 1, 100):
        for units, nearest in zip(encoder(audios, batch_seconds), expected, strict=True):
            np.testing.assert_array_equal(units, nearest)


def test_an_encoder_of_no_known_kind_is_named(settings: EncoderSettings, tmp_path: Path) -> None:
    WavLMConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    other = settings.model_copy(update={"model": str(tmp_path)})
    with pytest.raises(BadInput, match=r"speech\.encoder\.model=.*model_type=wavlm; known are hubert"):
        check_encoder(other)
