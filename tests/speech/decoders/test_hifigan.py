"""The code HiFi-GAN: the published layout, the published arithmetic, and pickles that are refused."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slamray.errors import BadInput
from slamray.speech.decoders.hifigan import CodeGenerator, convert_published, parse_shape
from slamray.speech.decoders.table import load_decoder

# The keys of speech-resynthesis' examples/speech_to_speech_translation/configs/hubert100_dw1.0.json, in small.
CONFIG: dict[str, Any] = {
    "resblock": "1", "num_gpus": 0, "batch_size": 16, "learning_rate": 0.0002, "upsample_rates": [5, 4, 2],
    "upsample_kernel_sizes": [11, 8, 4], "upsample_initial_channel": 16, "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]], "num_embeddings": 20, "embedding_dim": 6, "model_in_dim": 6,
    "segment_size": 8960, "code_hop_size": 40, "f0": False, "dur_prediction_weight": 1.0,
    "dur_predictor_params": {
        "encoder_embed_dim": 6, "var_pred_hidden_dim": 5, "var_pred_kernel_size": 3, "var_pred_dropout": 0.5,
    },
    "sampling_rate": 16000,
}  # fmt: skip


def published_names(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint, written out from textless-lib's hifigan/generator.py, resblock.py."""
    names: dict[str, tuple[int, ...]] = {"dict.weight": (config["num_embeddings"], config["embedding_dim"])}
    if config.get("multispkr"):
        names["spkr.weight"] = (config.get("num_speakers", 200), config["embedding_dim"])

    def normed(name: str, shape: tuple[int, ...], biases: int) -> None:
        names[f"{name}.bias"] = (biases,)
        names[f"{name}.weight_g"] = (shape[0], 1, 1)  # torch.nn.utils.weight_norm, dim=0
        names[f"{name}.weight_v"] = shape

    channels = config["upsample_initial_channel"]
    normed("conv_pre", (channels, config["model_in_dim"], 7), channels)
    block = 0
    for stage, kernel in enumerate(config["upsample_kernel_sizes"]):
        normed(f"ups.{stage}", (channels, channels // 2, kernel), channels // 2)
        channels //= 2
        for width in config["resblock_kernel_sizes"]:
            for place in range(3):
                normed(f"resblocks.{block}.convs1.{place}", (channels, channels, width), channels)
                normed(f"resblocks.{block}.convs2.{place}", (channels, channels, width), channels)
            block += 1
    normed("conv_post", (1, channels, 7), 1)
    hidden, width = (config["dur_predictor_params"][k] for k in ("var_pred_hidden_dim", "encoder_embed_dim"))
    for number, inputs in (("1", width), ("2", hidden)):
        names[f"dur_predictor.conv{number}.0.weight"] = (hidden, inputs, 3)
        names[f"dur_predictor.conv{number}.0.bias"] = (hidden,)
        names[f"dur_predictor.ln{number}.weight"] = names[f"dur_predictor.ln{number}.bias"] = (hidden,)
    return names | {"dur_predictor.proj.weight": (1, hidden), "dur_predictor.proj.bias": (1,)}


def random_weights(config: dict[str, Any]) -> OrderedDict[str, torch.Tensor]:
    torch.manual_seed(0)
    return OrderedDict((name, torch.randn(shape) * 0.3) for name, shape in published_names(config).items())


def reference_audio(w: dict[str, torch.Tensor], config: dict[str, Any], frames: list[int]) -> torch.Tensor:
    """HiFi-GAN spelt out with torch's functions and torch's own weight norm."""

    def weight(name: str) -> torch.Tensor:
        return torch._weight_norm(w[f"{name}.weight_v"], w[f"{name}.weight_g"], 0)

    def conv(x: torch.Tensor, name: str, dilation: int = 1) -> torch.Tensor:
        kernel = weight(name)
        pad = (kernel.shape[2] * dilation - dilation) // 2
        return F.conv1d(x, kernel, w[f"{name}.bias"], padding=pad, dilation=dilation)

    x = w["dict.weight"][frames].T[None]
    if config.get("multispkr"):
        x = torch.cat([x, w["spkr.weight"][0][None, :, None].repeat(1, 1, x.shape[2])], 1)
    x = conv(x, "conv_pre")
    kernels = len(config["resblock_kernel_sizes"])
    for stage, (rate, size) in enumerate(zip(config["upsample_rates"], config["upsample_kernel_sizes"], strict=True)):
        up = f"ups.{stage}"
        x = F.conv_transpose1d(
            F.leaky_relu(x, 0.1), weight(up), w[f"{up}.bias"], stride=rate, padding=(size - rate) // 2
        )
        total = torch.zeros_like(x)
        for j in range(kernels):
            y = x
            for place, dilation in enumerate(config["resblock_dilation_sizes"][j]):
                name = f"resblocks.{stage * kernels + j}.convs"
                inner = conv(F.leaky_relu(y, 0.1), f"{name}1.{place}", dilation)
                y = y + conv(F.leaky_relu(inner, 0.1), f"{name}2.{place}")
            total = total + y
        x = total / kernels
    return torch.tanh(conv(F.leaky_relu(x, 0.01), "conv_post"))[0, 0]


def reference_durations(w: dict[str, torch.Tensor], units: list[int]) -> list[int]:
    x = w["dict.weight"][units].T[None]
    for number in "12":
        name = f"dur_predictor.conv{number}.0"
        x = F.conv1d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1).relu().transpose(1, 2)
        scale, shift = w[f"dur_predictor.ln{number}.weight"], w[f"dur_predictor.ln{number}.bias"]
        x = F.layer_norm(x, x.shape[-1:], scale, shift).transpose(1, 2)
    logs = F.linear(x.transpose(1, 2), w["dur_predictor.proj.weight"], w["dur_predictor.proj.bias"])[0, :, 0]
    return [max(1, round(float(log.exp()) - 1)) for log in logs]


def converted(folder: Path, content: Any, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / "g_00500000")
    (folder / "published.json").write_text(json.dumps(config))
    convert_published(folder / "g_00500000", folder / "published.json", folder / "out")
    return folder / "out"


@pytest.mark.parametrize("speakers", [False, True])
def test_a_published_checkpoint_gives_the_published_waveform(tmp_path: Path, speakers: bool) -> None:
    config = CONFIG | ({"multispkr": True, "num_speakers": 3, "model_in_dim": 12} if speakers else {})
    weights = random_weights(config)
    vocoder = load_decoder(converted(tmp_path, {"generator": weights}, config))
    units, durations = np.array([3, 7, 19, 0], np.uint16), [2, 1, 3, 1]
    audio = vocoder(units, np.array(durations))
    expected = reference_audio(weights, config, np.repeat(units, durations).tolist())
    assert audio.dtype == np.float32 and audio.shape == (7 * 40,) and vocoder.rate_hz == 16000
    np.testing.assert_allclose(audio, expected.numpy(), atol=1e-5)
    assert np.abs(audio).max() > 0.01  # not silence
    predicted = reference_durations(weights, units.tolist())
    assert vocoder.durations(units).tolist() == predicted
    assert len(vocoder(units)) == sum(predicted) * 40


def test_the_parametrised_names_of_newer_torch_load_too(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for name, value in weights.items()
    }
    units = np.array([1, 2, 3])
    old = load_decoder(converted(tmp_path / "old", {"generator": weights}, CONFIG))(units)
    new = load_decoder(converted(tmp_path / "new", {"generator": renamed}, CONFIG))(units)
    np.testing.assert_array_equal(old, new)


def test_parameters_of_the_published_size_are_those_of_the_published_layout() -> None:
    config = CONFIG | {
        "upsample_rates": [5, 4, 4, 2, 2], "upsample_kernel_sizes": [11, 8, 8, 4, 4], "upsample_initial_channel": 512,
        "resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3, "num_embeddings": 100,
        "embedding_dim": 128, "model_in_dim": 128,
        "dur_predictor_params": CONFIG["dur_predictor_params"] | {"encoder_embed_dim": 128, "var_pred_hidden_dim": 128},
    }  # fmt: skip
    found = {name: tuple(v.shape) for name, v in CodeGenerator(parse_shape(config, "c")).state_dict().items()}
    published = {
        name.replace("weight_v", "weight"): shape
        for name, shape in published_names(config).items()
        if not name.endswith("weight_g")
    }
    assert found == published


class _Runs:
    """What a hostile file holds: unpickling it would call os.mkdir."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_that_would_run_code_is_refused_in_one_line_and_runs_nothing(tmp_path: Path) -> None:
    target = tmp_path / "made by the pickle"
    with pytest.raises(BadInput, match="asks for more than tensors, which is refused") as refused:
        converted(tmp_path / "v", {"generator": random_weights(CONFIG), "x": _Runs(target)}, CONFIG)
    assert "\n" not in str(refused.value) and not target.exists()


def test_what_is_no_vocoder_or_another_is_named(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    with pytest.raises(BadInput, match="no weights under `generator`"):
        converted(tmp_path / "a", {"mpd": weights}, CONFIG)
    with pytest.raises(BadInput, match=r"conv_post\.bias is missing"):
        converted(tmp_path / "b", {"generator": {k: v for k, v in weights.items() if k != "conv_post.bias"}}, CONFIG)
    with pytest.raises(BadInput, match=r"dict\.weight is \(20, 6\), not \(21, 6\)"):
        converted(tmp_path / "c", {"generator": weights}, CONFIG | {"num_embeddings": 21})
    with pytest.raises(BadInput, match="f0=True is not supported"):
        parse_shape(CONFIG | {"f0": True}, "config.json")
    with pytest.raises(BadInput, match="no key 'num_embeddings'"):
        parse_shape({"embedding_dim": 6}, "config.json")
    (tmp_path / "torn").write_bytes(b"PK\x03\x04 torn")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(BadInput, match=r"torn: (cannot be read|asks for more)"):
        convert_published(tmp_path / "torn", tmp_path / "config.json", tmp_path / "out")


def test_units_and_durations_that_cannot_be_are_named(tmp_path: Path) -> None:
    vocoder = load_decoder(converted(tmp_path / "v", {"generator": random_weights(CONFIG)}, CONFIG))
    with pytest.raises(BadInput, match="unit 20 is unknown to a vocoder of 20 units"):
        vocoder(np.array([20]))
    assert len(vocoder(np.zeros(0, np.uint16))) == 0
    silent = {k: v for k, v in CONFIG.items() if k != "dur_predictor_params"}
    weights = {k: v for k, v in random_weights(CONFIG).items() if not k.startswith("dur_predictor")}
    without = load_decoder(converted(tmp_path / "w", {"generator": weights}, silent))
    assert len(without(np.array([1, 2]), np.array([1, 1]))) == 80
    with pytest.raises(BadInput, match="predicts no durations"):
        without(np.array([1, 2]))
