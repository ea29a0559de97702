"""Units to sound by a small net that predicts the parameters of a source-filter model (source_filter_dsp.py).

From units (deduplicated, with durations or without) the net predicts the envelope, F0 and the probability of voice of
every 10 ms, from which the model makes audio. It serves to check units, and sounds blurred, as its loss is L1.
Shapes: B batch, T unit frames, F mel frames (F = T * frames_per_unit), M mel bands, H channels.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from slamray.errors import BadInput
from slamray.given import opening, read_mapping
from slamray.speech.decoders.source_filter_dsp import (
    F0_RANGE_HZ,
    FRAME_HOP,
    MEL_BANDS,
    RATE_HZ,
    mel_filters,
    synthesise,
)

MAX_DURATION = 50  # frames, 2 s at 25 Hz: longer runs are silence; chosen, not tuned


@dataclass(frozen=True)
class VocoderShape:
    """The shape of the net, saved beside the weights as config.json."""

    n_units: int
    frames_per_unit: int
    hidden: int
    unit_blocks: int
    frame_blocks: int


class _Block(nn.Module):
    """A ConvNeXt block (Liu et al. 2022) over time: depth-wise convolution, norm, two linear maps, residual."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(hidden, hidden, 7, padding=3, groups=hidden)
        self.norm = nn.LayerNorm(hidden)
        self.up, self.down = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden)

    def forward(self, x_BTH: torch.Tensor) -> torch.Tensor:
        mixed = self.mix(x_BTH.transpose(1, 2)).transpose(1, 2)
        out: torch.Tensor = x_BTH + self.down(nn.functional.gelu(self.up(self.norm(mixed))))
        return out


class VocoderNet(nn.Module):
    """Units to frames. Buffers: mean and deviation of the M + 1 regressed columns (log-mel, log F0)."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, shape: VocoderShape) -> None:
        super().__init__()
        hidden = shape.hidden
        self.shape = shape
        self.embed = nn.Embedding(shape.n_units, hidden)
        self.unit_blocks = nn.Sequential(*[_Block(hidden) for _ in range(shape.unit_blocks)])
        self.spread = nn.Linear(hidden, hidden * shape.frames_per_unit)
        self.frame_blocks = nn.Sequential(*[_Block(hidden) for _ in range(shape.frame_blocks)])
        self.out = nn.Linear(hidden, MEL_BANDS + 2)
        self.duration_embed = nn.Embedding(shape.n_units, 32)
        self.duration_blocks = nn.Sequential(_Block(32), _Block(32))
        self.duration_out = nn.Linear(32, 1)
        self.register_buffer("mean", torch.zeros(MEL_BANDS + 1))
        self.register_buffer("deviation", torch.ones(MEL_BANDS + 1))

    def forward(self, units_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised log-mel and log F0 (B, F, M + 1), and voicing logits (B, F), of frame-level units int64."""
        hidden = self.unit_blocks(self.embed(units_BT))
        hidden = self.spread(hidden).reshape(len(units_BT), -1, self.shape.hidden)
        out = self.out(self.frame_blocks(hidden))
        return out[..., :-1], out[..., -1]

    def log_durations(self, units_BT: torch.Tensor) -> torch.Tensor:
        """Log of the expected duration in frames (B, T) of deduplicated units."""
        out: torch.Tensor = self.duration_out(self.duration_blocks(self.duration_embed(units_BT)))[..., 0]
        return out


class Vocoder:
    """A trained net and the synthesis; the same units give the same samples."""

    rate_hz = RATE_HZ

    def __init__(self, net: VocoderNet) -> None:
        self.net = net.eval()
        self.filters = mel_filters()

    @property
    def hop_samples(self) -> int:
        """Samples of one unit frame."""
        return self.net.shape.frames_per_unit * FRAME_HOP

    @torch.inference_mode()
    def durations(self, units: np.ndarray) -> np.ndarray:
        """Predicted durations in frames, int64 (T,), at least 1; the rounding error is carried on to the next."""
        expected = self.net.log_durations(_as_batch(units)).exp().clamp(1, MAX_DURATION)[0].double().numpy()
        return np.maximum(np.diff(np.round(np.cumsum(expected)), prepend=0.0), 1).astype(np.int64)

    @torch.inference_mode()
    def __call__(self, units: np.ndarray, durations: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
        """Audio float32 (samples,) at 16 kHz, sum(durations) * hop_samples long; the seed is that of the noise.

        units: deduplicated, or of every frame with durations of 1. durations: in frames; predicted if None.
        """
        if len(units) == 0:
            return np.zeros(0, np.float32)
        if int(np.max(units)) >= self.net.shape.n_units:
            known = f"a vocoder of {self.net.shape.n_units} units"
            raise BadInput(f"unit {int(np.max(units))} is unknown to {known}; train one for this encoder's units")
        frames = np.repeat(units, self.durations(units) if durations is None else durations)
        regressed, voicing = self.net(_as_batch(frames))
        regressed = regressed[0] * self.net.deviation + self.net.mean
        f0_hz = regressed[:, -1].exp().clamp(*F0_RANGE_HZ)
        return synthesise(regressed[:, :-1], f0_hz, voicing[0].sigmoid(), self.filters, seed)

    def save(self, folder: Path) -> None:
        """Write model.safetensors (float16, half the size and no audible loss) and config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.half().contiguous() for name, value in self.net.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(asdict(self.net.shape), indent=1) + "\n")


def load(folder: Path, device: str) -> Vocoder:
    """A saved vocoder; it runs on the CPU, whatever the device. BadInput when its files do not fit each other."""
    with opening(str(folder), "fetch or train it again", folder, "cannot be read as a vocoder"):
        net = VocoderNet(VocoderShape(**read_mapping(folder / "config.json")))
        weights = load_file(folder / "model.safetensors")
        net.load_state_dict({name: value.float() for name, value in weights.items()})
    return Vocoder(net)


def _as_batch(units: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(units).astype(np.int64))[None]
