"""Units to sound by a HiFi-GAN code generator with duration prediction, in the layout of the published vocoders.

Polyak et al. 2021 (speech-resynthesis), durations as Lee et al. 2021 (fairseq's and textless-lib's CodeHiFiGANVocoder).
A folder holds config.json (their keys) and model.safetensors (their names, weight norm folded in).
Shapes: B batch, T unit frames, C channels, L samples (L = T * hop_samples).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from slamray.errors import BadInput
from slamray.given import check_weights, opening, read_mapping
from slamray.speech.audio import RATE_HZ

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SLOPE = 0.1  # of leaky ReLUs; HiFi-GAN
SPEAKERS = 200  # textless-lib's default
# Endings of the two names that weight norm gives to one weight, in old and new torch: magnitude g, direction v.
_NORMED = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))
# Inputs of some published vocoders that this one does not take.
_UNSUPPORTED = ("f0", "f0_quant_num_bin", "multistyle", "num_style_tokens", "embedder_params", "lambda_commit_code")


@dataclass(frozen=True)
class DurationShape:
    """The duration predictor's part of config.json, under `dur_predictor_params`."""

    encoder_embed_dim: int
    var_pred_hidden_dim: int
    var_pred_kernel_size: int = 3
    var_pred_dropout: float = 0.5


@dataclass(frozen=True)
class GeneratorShape:
    """The shape of the net, by the published keys of config.json."""

    num_embeddings: int
    embedding_dim: int
    model_in_dim: int
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    upsample_initial_channel: int
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    dur_predictor_params: DurationShape | None
    multispkr: bool = False
    num_speakers: int = SPEAKERS
    sampling_rate: int = RATE_HZ

    @property
    def hop_samples(self) -> int:
        """Samples of one unit frame."""
        return math.prod(self.upsample_rates)


def parse_shape(tree: Mapping[str, Any], source: str) -> GeneratorShape:
    """The shape that a published config.json describes; its training keys are ignored. BadInput names the key."""
    unsupported = [key for key in _UNSUPPORTED if tree.get(key)]
    if unsupported or str(tree.get("resblock", "1")) != "1":
        what = unsupported[0] if unsupported else "resblock"
        raise BadInput(f"{source}: {what}={tree[what]!r} is not supported; give a vocoder that hears units alone")
    try:
        durations, speakers = tree.get("dur_predictor_params"), bool(tree.get("multispkr"))
        width = int(tree["embedding_dim"])
        shape = GeneratorShape(
            num_embeddings=int(tree["num_embeddings"]),
            embedding_dim=width,
            model_in_dim=int(tree.get("model_in_dim", width * (2 if speakers else 1))),
            upsample_rates=tuple(tree["upsample_rates"]),
            upsample_kernel_sizes=tuple(tree["upsample_kernel_sizes"]),
            upsample_initial_channel=int(tree["upsample_initial_channel"]),
            resblock_kernel_sizes=tuple(tree["resblock_kernel_sizes"]),
            resblock_dilation_sizes=tuple(tuple(row) for row in tree["resblock_dilation_sizes"]),
            dur_predictor_params=DurationShape(**durations) if durations else None,
            multispkr=speakers,
            num_speakers=int(tree.get("num_speakers", SPEAKERS)),
            sampling_rate=int(tree.get("sampling_rate", RATE_HZ)),
        )
        ups = list(zip(shape.upsample_rates, shape.upsample_kernel_sizes, strict=True))
    except KeyError as error:
        raise BadInput(f"{source}: no key {error}; it is no configuration of a code HiFi-GAN") from error
    except (TypeError, ValueError) as error:
        raise BadInput(f"{source}: {error}; it is no configuration of a code HiFi-GAN") from error
    if any(kernel < rate or (kernel - rate) % 2 for rate, kernel in ups):
        raise BadInput(f"{source}: each of upsample_kernel_sizes must be its rate plus an even number")
    return shape


class _ResBlock(nn.Module):
    """Residual pairs of convolutions, the first of each dilated (HiFi-GAN's ResBlock1)."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Conv1d:
            return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)

    def forward(self, x_BCL: torch.Tensor) -> torch.Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            x_BCL = x_BCL + plain(F.leaky_relu(dilated(F.leaky_relu(x_BCL, SLOPE)), SLOPE))
        return x_BCL


class _DurationPredictor(nn.Module):
    """FastSpeech 2's variance predictor: log(1 + frames) of each deduplicated unit."""

    def __init__(self, shape: DurationShape) -> None:
        super().__init__()
        hidden, kernel = shape.var_pred_hidden_dim, shape.var_pred_kernel_size
        self.conv1 = nn.Sequential(
            nn.Conv1d(shape.encoder_embed_dim, hidden, kernel, padding=(kernel - 1) // 2), nn.ReLU()
        )
        self.ln1 = nn.LayerNorm(hidden)
        self.conv2 = nn.Sequential(nn.Conv1d(hidden, hidden, kernel, padding=1), nn.ReLU())  # 1: as published
        self.ln2 = nn.LayerNorm(hidden)
        self.proj = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(shape.var_pred_dropout)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        hidden_BTC = self.dropout(self.ln1(self.conv1(x_BCT).transpose(1, 2)))
        hidden_BTC = self.dropout(self.ln2(self.conv2(hidden_BTC.transpose(1, 2)).transpose(1, 2)))
        out: torch.Tensor = self.proj(hidden_BTC).squeeze(2)
        return out


class CodeGenerator(nn.Module):
    """Frame-level units to samples; names and shapes of the weights are the published ones."""

    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        self.shape = shape
        self.dict = nn.Embedding(shape.num_embeddings, shape.embedding_dim)
        self.spkr = nn.Embedding(shape.num_speakers, shape.embedding_dim) if shape.multispkr else None
        self.dur_predictor = _DurationPredictor(shape.dur_predictor_params) if shape.dur_predictor_params else None
        self.conv_pre = nn.Conv1d(shape.model_in_dim, shape.upsample_initial_channel, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        channels = shape.upsample_initial_channel
        for rate, kernel in zip(shape.upsample_rates, shape.upsample_kernel_sizes, strict=True):
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2))
            channels //= 2
            for width, dilations in zip(shape.resblock_kernel_sizes, shape.resblock_dilation_sizes, strict=True):
                self.resblocks.append(_ResBlock(channels, width, dilations))
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3)

    def forward(self, units_BT: torch.Tensor, speaker: int = 0) -> torch.Tensor:
        """Samples (B, L) in -1..1 of the units of every frame, int64."""
        x = self.dict(units_BT).transpose(1, 2)
        if self.spkr is not None:
            voice_C1 = self.spkr.weight[speaker][:, None]
            x = torch.cat([x, voice_C1.expand(len(x), -1, x.shape[2])], dim=1)
        x = self.conv_pre(x)
        kernels = len(self.shape.resblock_kernel_sizes)
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            blocks = list(self.resblocks)[stage * kernels : (stage + 1) * kernels]
            x = torch.stack([block(x) for block in blocks]).sum(0) / kernels if kernels > 1 else blocks[0](x)
        out: torch.Tensor = torch.tanh(self.conv_post(F.leaky_relu(x)))  # slope 0.01 here, as published
        return out[:, 0]

    def log_durations(self, units_BT: torch.Tensor) -> torch.Tensor:
        """log(1 + frames), (B, T), of deduplicated units."""
        assert self.dur_predictor is not None
        out: torch.Tensor = self.dur_predictor(self.dict(units_BT).transpose(1, 2))
        return out


class UnitVocoder:
    """A generator ready to speak; the same units give the same samples."""

    def __init__(self, generator: CodeGenerator, device: str = "cpu") -> None:
        self.generator = generator.eval().to(device)
        self.rate_hz, self.hop_samples = generator.shape.sampling_rate, generator.shape.hop_samples
        self._device = device

    @torch.inference_mode()
    def durations(self, units: np.ndarray) -> np.ndarray:
        """Predicted durations in frames, int64 (T,), at least 1; each is rounded by itself, as published."""
        if self.generator.dur_predictor is None:
            raise BadInput("this vocoder predicts no durations, and units without repeats need them; give durations")
        frames_T = torch.round(self.generator.log_durations(self._batch(units)).exp() - 1)[0]
        return frames_T.long().clamp(min=1).cpu().numpy()

    @torch.inference_mode()
    def __call__(self, units: np.ndarray, durations: np.ndarray | None = None, speaker: int = 0) -> np.ndarray:
        """Audio float32 (samples,) at rate_hz, sum(durations) * hop_samples long.

        units: deduplicated, or of every frame with durations of 1. durations: in frames; predicted if None.
        """
        if len(units) == 0:
            return np.zeros(0, np.float32)
        known = self.generator.shape.num_embeddings
        if int(np.max(units)) >= known:
            unit = f"unit {int(np.max(units))} is unknown to a vocoder of {known} units"
            raise BadInput(f"{unit}; train one for this encoder's units")
        frames = np.repeat(units, self.durations(units) if durations is None else durations)
        return self.generator(self._batch(frames), speaker)[0].float().cpu().numpy()

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write model.safetensors and config.json. float16 halves the size with no audible loss."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.to("cpu", dtype).contiguous() for name, value in self.generator.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(asdict(self.generator.shape), indent=1) + "\n")

    def _batch(self, units: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(units).astype(np.int64), device=self._device)[None]


def load(folder: Path, device: str) -> UnitVocoder:
    """The inverse of `UnitVocoder.save`; also reads published weights that `convert_published` wrote."""
    shape = parse_shape(read_mapping(folder / CONFIG), str(folder / CONFIG))
    with opening(str(folder / WEIGHTS), "fetch it again", folder / WEIGHTS):
        weights = load_file(folder / WEIGHTS)
    return UnitVocoder(build(shape, weights, str(folder / WEIGHTS)), device)


def convert_published(checkpoint: Path, config: Path, out: Path) -> None:
    """A published checkpoint (a pickle `{"generator": weights}`) and its config.json to a folder, in float32.

    The pickle is read as tensors and plain containers only, so nothing in it runs; BadInput if it asks for more.
    """
    try:
        tree = read_mapping(config)
        check_weights(checkpoint)
        with opening(str(checkpoint), "get it from its source"):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except BadInput as error:
        if not isinstance(error.__cause__, UnpicklingError):
            raise
        raise BadInput(f"{checkpoint}: asks for more than tensors, which is refused; get it from its source") from error
    if not isinstance(content, dict) or not isinstance(content.get("generator"), dict):
        raise BadInput(f"{checkpoint}: holds no weights under `generator`; it is no checkpoint of a HiFi-GAN")
    weights = {name: value.float() for name, value in content["generator"].items()}
    UnitVocoder(build(parse_shape(tree, str(config)), weights, str(checkpoint))).save(out, torch.float32)


def build(shape: GeneratorShape, weights: Mapping[str, torch.Tensor], source: str) -> CodeGenerator:
    """A generator with these weights, weight norm folded in. BadInput when names or shapes are others."""
    generator = CodeGenerator(shape)
    folded = {name: value.float() for name, value in fold_weight_norm(weights).items()}
    expected = {name: value.shape for name, value in generator.state_dict().items()}
    for name in sorted(expected.keys() | folded.keys()):
        if name not in folded or name not in expected:
            raise BadInput(f"{source}: {name} is {'missing' if name in expected else 'unknown'}; is it of this config?")
        if folded[name].shape != expected[name]:
            shapes = f"{tuple(folded[name].shape)}, not {tuple(expected[name])}"
            raise BadInput(f"{source}: {name} is {shapes}; is it of this config?")
    generator.load_state_dict(folded)
    return generator


def fold_weight_norm(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Plain weights: g * v / |v|, the norm over all but the first dimension (Salimans and Kingma 2016)."""
    folded = dict(weights)
    for magnitude, direction in _NORMED:
        for name in [name for name in folded if name.endswith(magnitude)]:
            stem = name.removesuffix(magnitude)
            if stem + direction in folded:
                g, v = folded.pop(name), folded.pop(stem + direction)
                norm = v.flatten(1).norm(dim=1).reshape(-1, *[1] * (v.ndim - 1))
                folded[stem + ".weight"] = v * (g / norm)
    return folded
