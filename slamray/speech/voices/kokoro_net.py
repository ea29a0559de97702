"""The network of Kokoro-82M: StyleTTS 2 without diffusion (Li et al. 2023); the decoder is in kokoro_decoder.py.

Names and shapes are those of the published checkpoint (hexgrad/kokoro 0.9.4, Apache-2.0), weight norm folded away.
One utterance at a time, so there is no padding and no mask. Widths that config.json does not tell are read off the
weights.
Legend: B = 1, T phonemes, F frames of 25 ms, L samples, H hidden, S style.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AlbertConfig, AlbertModel

from slamray.errors import BadInput
from slamray.given import opening
from slamray.speech.voices.kokoro_decoder import RATE_HZ, AdaptiveNorm, KokoroDecoder, StyledBlock, conv

Weights = Mapping[str, torch.Tensor]


def _lstm(width_in: int, width_out: int) -> nn.LSTM:
    return nn.LSTM(width_in, width_out // 2, batch_first=True, bidirectional=True)


class ChannelNorm(nn.Module):
    """Layer norm over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x_BHT: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x_BHT.mT, self.gamma.shape, self.gamma, self.beta, 1e-5).mT


class TextEncoder(nn.Module):
    """Phonemes to what is said, (B, H, T)."""

    def __init__(self, width: int, kernel: int, layers: int, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.cnn = nn.ModuleList(
            nn.Sequential(conv(width, width, kernel), ChannelNorm(width), nn.LeakyReLU(0.2)) for _ in range(layers)
        )
        self.lstm = _lstm(width, width)

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        x_BHT = self.embedding(ids_BT).mT
        for block in self.cnn:
            x_BHT = block(x_BHT)
        return self.lstm(x_BHT.mT)[0].mT


class DurationEncoder(nn.Module):
    """LSTMs and adaptive norms in turn, the style beside every input."""

    def __init__(self, style: int, width: int, layers: int) -> None:
        super().__init__()
        pairs = ((_lstm(width + style, width), AdaptiveNorm(style, width, over_time=False)) for _ in range(layers))
        self.lstms = nn.ModuleList(module for pair in pairs for module in pair)

    def forward(self, x_BHT: torch.Tensor, style_BS: torch.Tensor) -> torch.Tensor:
        beside = style_BS[..., None].expand(-1, -1, x_BHT.shape[2])
        x = torch.cat([x_BHT, beside], 1)
        for lstm, norm in zip(self.lstms[::2], self.lstms[1::2], strict=True):
            x = torch.cat([norm(lstm(x.mT)[0].mT, style_BS), beside], 1)
        return x


class ProsodyPredictor(nn.Module):
    """Durations of phonemes; pitch and energy of half frames."""

    def __init__(self, style: int, width: int, layers: int, max_duration: int) -> None:
        super().__init__()
        self.text_encoder = DurationEncoder(style, width, layers)
        self.lstm, self.shared = _lstm(width + style, width), _lstm(width + style, width)
        self.duration_proj = nn.ModuleDict({"linear_layer": nn.Linear(width, max_duration)})
        half = width // 2
        self.F0, self.N = (
            nn.ModuleList(
                [
                    StyledBlock(width, width, style),
                    StyledBlock(width, half, style, True),
                    StyledBlock(half, half, style),
                ]
            )
            for _ in range(2)
        )
        self.F0_proj, self.N_proj = nn.Conv1d(half, 1, 1), nn.Conv1d(half, 1, 1)

    def durations(self, encoded_BHT: torch.Tensor) -> torch.Tensor:
        """int64 (T,) frames, at least one each."""
        logits_BTM = self.duration_proj["linear_layer"](self.lstm(encoded_BHT.mT)[0])
        return torch.round(torch.sigmoid(logits_BTM).sum(-1)).clamp(min=1).long()[0]

    def curves(self, spread_BHF: torch.Tensor, style: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pitch (Hz) and energy, each (B, 2 F)."""
        shared = self.shared(spread_BHF.mT)[0].mT
        curves = []
        for blocks, project in ((self.F0, self.F0_proj), (self.N, self.N_proj)):
            x = shared
            for block in blocks:
                x = block(x, style)
            curves.append(project(x)[:, 0])
        return curves[0], curves[1]


class KokoroNet(nn.Module):
    """Phoneme ids and a voice's style to samples and durations."""

    def __init__(self, config: Mapping[str, Any], inner: int, beside: int) -> None:
        super().__init__()
        width, self.style, net = config["hidden_dim"], config["style_dim"], config["istftnet"]
        self.rate_hz = RATE_HZ
        self.samples_per_frame = 2 * math.prod(net["upsample_rates"]) * net["gen_istft_hop_size"]
        self.bert = AlbertModel(AlbertConfig(vocab_size=config["n_token"], **config["plbert"]))
        self.bert_encoder = nn.Linear(self.bert.config.hidden_size, width)
        self.predictor = ProsodyPredictor(self.style, width, config["n_layer"], config["max_dur"])
        kernel = config["text_encoder_kernel_size"]
        self.text_encoder = TextEncoder(width, kernel, config["n_layer"], config["n_token"])
        self.decoder = KokoroDecoder(width, inner, beside, self.style, net)

    @torch.no_grad()
    def forward(
        self, ids_BT: torch.Tensor, voice_BS: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples (L,), durations (T,) in frames. A voice is how it sounds, first half, and how it speaks."""
        sound, manner = voice_BS[:, : self.style], voice_BS[:, self.style :]
        encoded = self.predictor.text_encoder(self.bert_encoder(self.bert(ids_BT).last_hidden_state).mT, manner)
        durations = self.predictor.durations(encoded)
        curves = self.predictor.curves(encoded.repeat_interleave(durations, 2), manner)
        said = self.text_encoder(ids_BT).repeat_interleave(durations, 2)
        return self.decoder(said, curves, sound, rng)[0], durations

    def speak(self, ids: Sequence[int], voice_BS: torch.Tensor, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Audio float32 (L,) and durations int64 (T,) in frames of phonemes by their ids; the seed is the noise's."""
        audio, durations = self(torch.tensor([ids]), voice_BS, torch.Generator().manual_seed(seed))
        return audio.numpy(), durations.numpy()

    def load_styles(self, path: Path) -> torch.Tensor:
        """A voice: styles float32 (longest text, 1, 2 S). BadInput when the file holds something else."""
        styles, width = load_tensors(path), 2 * self.style
        if not isinstance(styles, torch.Tensor) or styles.shape[1:] != (1, width):
            raise BadInput(f"{path}: not the styles of a voice, (length, 1, {width})")
        return styles.float()


def load_tensors(path: Path) -> Any:
    """The content of a file of torch.save, if it is tensors and dicts; nothing in the file is executed."""
    with opening(str(path), "fetch it again", path, "cannot be read as tensors"):
        return torch.load(path, map_location="cpu", weights_only=True)


def load_net(config: Mapping[str, Any], parts: Mapping[str, Weights]) -> KokoroNet:
    """The network with the published weights: {part: state dict}. KeyError or RuntimeError when they do not fit.

    The checkpoint may lack the instance norms' scale and shift, which are then 1 and 0, and may hold what is not used;
    hexgrad/kokoro loads it so too.
    """
    weights = {f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in _folded(own).items()}
    inner, beside = weights["decoder.encode.conv1.weight"].shape[0], weights["decoder.asr_res.0.weight"].shape[0]
    net = KokoroNet(config, inner, beside)
    missing = net.load_state_dict(weights, strict=False).missing_keys
    missing = [name for name in missing if not name.endswith((".norm.weight", ".norm.bias"))]
    if missing:
        raise KeyError(f"{len(missing)} tensors, the first {missing[0]}")
    return net.eval()


def _folded(weights: Weights) -> dict[str, torch.Tensor]:
    """Without the `module.` of a data-parallel save, and with weight norm's direction and length multiplied."""
    own = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    folded = {name: tensor for name, tensor in own.items() if not name.endswith(("weight_g", "weight_v"))}
    for name, length in own.items():
        if name.endswith("weight_g"):
            stem = name.removesuffix("_g")
            folded[stem] = torch._weight_norm(own[f"{stem}_v"], length, 0)
    return folded
