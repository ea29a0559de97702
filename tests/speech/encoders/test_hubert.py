"""HuBERT features against transformers' own forward pass, and errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel, WavLMConfig

from slamray.errors import BadInput
from slamray.speech.encoders import hubert_net
from slamray.speech.encoders.hubert_net import HubertFeatures


def tiny(norm: str, stable: bool) -> HubertConfig:
    return HubertConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16, 16, 24),
        conv_kernel=(10, 8, 4),
        conv_stride=(5, 4, 2),
        conv_bias=stable,
        feat_extract_norm=norm,
        do_stable_layer_norm=stable,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )


@pytest.fixture(scope="module", params=[("group", False), ("layer", False), ("layer", True)], ids=str)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    model = HubertModel(tiny(*request.param))
    for name, weights in model.named_parameters():  # norms that do something
        if "layer_norm" in name:
            torch.nn.init.normal_(weights, 1.0 if name.endswith("weight") else 0.0, 0.3)
    model.save_pretrained(path)
    return path


def noise(*seconds: float) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(int(s * 16_000)).astype(np.float32) * (i + 1) for i, s in enumerate(seconds)]


def reference(folder: Path, audio: np.ndarray, layer: int) -> np.ndarray:
    """Transformers' own whole model on one recording alone."""
    model = HubertModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = model(torch.from_numpy(audio)[None], output_hidden_states=True).hidden_states
    return states[layer][0].numpy()


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_features_are_those_of_transformers_at_batch_one(folder: Path, layer: int) -> None:
    (audio,) = noise(0.5)
    (feats,) = HubertFeatures(folder, layer)([audio])
    assert feats.dtype == np.float32
    np.testing.assert_allclose(feats, reference(folder, audio, layer), atol=2e-5)


def test_features_do_not_depend_on_batch_neighbours(folder: Path) -> None:
    audios = noise(0.5, 0.21, 1.0, 0.013)
    together = HubertFeatures(folder, 2)(audios)
    for audio, feats in zip(audios, together, strict=True):
        np.testing.assert_allclose(feats, reference(folder, audio, 2), atol=2e-5)


def test_padding_is_that_of_zeros_around_the_recording(folder: Path) -> None:
    audios = noise(0.3, 0.2)
    padded = HubertFeatures(folder, 2, pad_samples=40)(audios)
    for audio, feats in zip(audios, padded, strict=True):
        np.testing.assert_allclose(feats, reference(folder, np.pad(audio, 40), 2), atol=2e-5)


def test_only_the_layers_up_to_the_one_used_are_kept(folder: Path) -> None:
    assert len(HubertFeatures(folder, 2)._model.encoder.layers) == 2


def test_frames_of_long_audio_are_those_of_the_window_where_they_lie_deepest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubert_net, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(hubert_net, "OVERLAP_SECONDS", 0.2)
    encoder = HubertFeatures(folder, 2)
    hop, per_window = encoder.hop_samples, int(encoder.rate_hz)
    (audio,) = noise(2.5)
    (feats,) = encoder([audio])
    starts = [0, 320, 640]  # frames: windows of 400, overlapping by 80
    windows = [encoder([audio[s * hop : (s + per_window) * hop]])[0] for s in starts]
    assert len(feats) == starts[-1] + len(windows[-1])
    firsts = [0, (320 + len(windows[0])) // 2, (640 + 320 + len(windows[1])) // 2, len(feats)]
    for start, window, first, last in zip(starts, windows, firsts, firsts[1:], strict=False):
        np.testing.assert_allclose(feats[first:last], window[first - start : last - start], atol=2e-5)


def test_audio_shorter_than_a_frame_is_bad_input(folder: Path) -> None:
    with pytest.raises(BadInput, match="shorter than one frame"):
        HubertFeatures(folder, 1)([np.ones(20, np.float32)])


@pytest.mark.parametrize("layer", [0, 4])
def test_a_layer_that_the_model_lacks_is_bad_input(folder: Path, layer: int) -> None:
    with pytest.raises(BadInput, match="layers 1 to 3"):
        HubertFeatures(folder, layer)


def test_a_folder_without_weights_is_bad_input(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(BadInput, match="cannot load the weights") as caught:
        HubertFeatures(tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_bad_input(folder: Path, tmp_path: Path) -> None:
    config = HubertConfig.from_pretrained(folder)
    config.hidden_size = 64
    config.save_pretrained(tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(BadInput, match="weights"):
        HubertFeatures(tmp_path, 1)


def test_a_folder_without_configuration_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no HuBERT configuration"):
        HubertFeatures(tmp_path, 1)


def test_a_model_of_another_type_is_bad_input(tmp_path: Path) -> None:
    WavLMConfig().save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="wavlm"):
        HubertFeatures(tmp_path, 1)


def test_a_hub_id_needs_a_revision() -> None:
    with pytest.raises(BadInput, match=r"encoder\.revision"):
        HubertFeatures("slprl/mhubert-base-25hz", 11)


def test_a_folder_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(BadInput, match="neither a folder nor a hub id"):
        HubertFeatures(Path("nowhere/at/all"), 11)
