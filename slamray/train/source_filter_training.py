"""Train the source-filter decoder on units and the audio they were heard in.

Shapes: B batch, T unit frames, F mel frames (F = T * frames_per_unit), M mel bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from slamray.config.assets import VocoderSettings
from slamray.errors import BadInput
from slamray.speech.decoders.source_filter import MAX_DURATION, Vocoder, VocoderNet, VocoderShape
from slamray.speech.decoders.source_filter_dsp import (
    FRAME_HOP,
    RATE_HZ,
    analyse,
    mel_filters,
)

REPORT_STEPS = 50
Recording = tuple[np.ndarray, np.ndarray]  # units of every frame (T,), audio float32 16 kHz (samples,)


@dataclass(frozen=True)
class _Stream:
    """All recordings end to end (they begin and end in silence, so a crop may cross from one to the next)."""

    units: torch.Tensor
    targets: torch.Tensor  # (F, M + 1) log-mel and log F0
    voiced: torch.Tensor
    runs: torch.Tensor
    durations: torch.Tensor


def _stream(recordings: Sequence[Recording], frames_per_unit: int) -> _Stream:
    filters = mel_filters()
    parts = []
    for units, audio in recordings:
        samples = len(units) * frames_per_unit * FRAME_HOP  # an encoder drops or adds part of a frame at the end
        mel, f0, voiced = analyse(np.pad(audio, (0, max(0, samples - len(audio))))[:samples], filters)
        parts.append((torch.cat([mel, f0.log()[:, None]], 1)[:-1], voiced[:-1]))
    all_units = torch.as_tensor(np.concatenate([units for units, _ in recordings]).astype(np.int64))
    runs, durations = torch.unique_consecutive(all_units, return_counts=True)
    return _Stream(all_units, torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), runs, durations)


def _losses(
    net: VocoderNet, data: _Stream, units_BT: torch.Tensor, frames_BF: torch.Tensor, runs_BT: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Losses on crops given by their indices; log-mel and log F0 are normalised."""
    regressed, logits = net(data.units[units_BT])
    error = (regressed - (data.targets[frames_BF] - net.mean) / net.deviation).abs()
    voiced = data.voiced[frames_BF].float()
    durations = data.durations[runs_BT].clamp(max=MAX_DURATION).float()
    return {
        "mel": error[..., :-1].mean(),
        "pitch": (error[..., -1] * voiced).sum() / voiced.sum().clamp(min=1),
        "voicing": nn.functional.binary_cross_entropy_with_logits(logits, voiced),
        # Its minimum is the mean, not the median: the sum of the durations comes out right.
        "duration": nn.functional.poisson_nll_loss(net.log_durations(data.runs[runs_BT]), durations),
    }


def train_vocoder(
    recordings: Sequence[Recording], n_units: int, hop_samples: int, config: VocoderSettings,
    report: Callable[[dict[str, float]], None],
) -> Vocoder:  # fmt: skip
    """Train on pairs of frame-level units and 16 kHz audio of one speaker; reports losses every REPORT_STEPS.

    hop_samples: of the encoder that made the units (640 at 25 Hz). Deterministic in the seed and the thread count.
    """
    if not recordings:
        raise BadInput("vocoder: no recordings to train on; give some minutes of speech of one voice")
    if hop_samples % FRAME_HOP:
        raise BadInput(f"vocoder: the encoder's hop of {hop_samples} samples is no multiple of {FRAME_HOP}")
    per_unit = hop_samples // FRAME_HOP
    data = _stream(recordings, per_unit)
    if int(data.units.max()) >= n_units:
        raise BadInput(f"vocoder: unit {int(data.units.max())} in the recordings, but n_units={n_units}")
    draw = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = VocoderNet(VocoderShape(n_units, per_unit, config.hidden, config.unit_blocks, config.frame_blocks))
    columns = [*data.targets[:, :-1].unbind(1), data.targets[data.voiced, -1]]
    net.mean.copy_(torch.stack([column.mean() for column in columns]))
    net.deviation.copy_(torch.stack([column.std() for column in columns]).clamp(min=1e-3))
    optimiser = torch.optim.AdamW(net.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, config.steps)
    crop = min(round(config.crop_seconds * RATE_HZ / hop_samples), len(data.runs))
    for step in range(1, config.steps + 1):
        unit = torch.randint(len(data.units) - crop + 1, (config.batch, 1), generator=draw)
        run = torch.randint(len(data.runs) - crop + 1, (config.batch, 1), generator=draw)
        frames_BF = unit * per_unit + torch.arange(crop * per_unit)
        losses = _losses(net, data, unit + torch.arange(crop), frames_BF, run + torch.arange(crop))
        optimiser.zero_grad(set_to_none=True)
        # The envelope is what makes speech understood, so it leads; weights chosen, not tuned.
        (losses["mel"] + 0.1 * losses["pitch"] + 0.1 * losses["voicing"] + 0.1 * losses["duration"]).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % REPORT_STEPS == 0 or step == config.steps:
            report({"step": step} | {name: float(loss.detach()) for name, loss in losses.items()})
    return Vocoder(net)


@torch.inference_mode()
def measure_vocoder(vocoder: Vocoder, recordings: Sequence[Recording]) -> dict[str, float]:
    """Errors on held-out recordings: log-mel L1 in dB, beside that of each band's training mean, and others."""
    net = vocoder.net
    data = _stream(recordings, net.shape.frames_per_unit)
    regressed, logits = net(data.units[None])
    decibel = 10 / math.log(10)
    target, mean, deviation = data.targets[:, :-1], net.mean[:-1], net.deviation[:-1]
    return {
        "mel_error_db": float((regressed[0, :, :-1] * deviation + mean - target).abs().mean()) * decibel,
        "mean_predictor_error_db": float((mean - target).abs().mean()) * decibel,
        "voicing_accuracy": float(((logits[0] > 0) == data.voiced).float().mean()),
        "duration_ratio": float(vocoder.durations(data.runs.numpy()).sum() / len(data.units)),
    }
