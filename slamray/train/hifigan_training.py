"""Train a HiFi-GAN code generator on units and the audio they were heard in (Polyak et al. 2021), small and resumable.

First by the log-mel distance alone, then, over the last share of the budget, by discriminators too. The batch of step s
is a pure function of (seed, s). Shapes: B crops, T unit frames of a crop, L = T * hop samples.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from slamray.config.assets import UnitVocoderSettings
from slamray.errors import BadInput
from slamray.speech.decoders.hifigan import CodeGenerator, DurationShape, GeneratorShape, UnitVocoder, build
from slamray.stage.work import Report
from slamray.train.hifigan_losses import (
    FEATURE_WEIGHT,
    MEL_WEIGHT,
    Discriminators,
    LogMel,
    MelLoss,
    discriminator_loss,
    feature_loss,
    generator_loss,
)

RATE_HZ = 16_000
MAX_DURATION = 50  # frames, 2 s at 25 Hz: longer runs are silence; chosen, not tuned
DURATION_RUNS = 64  # deduplicated units of a row of the duration loss; chosen, not tuned
BETAS = (0.8, 0.99)  # HiFi-GAN section 3
Recording = tuple[np.ndarray, np.ndarray]  # units of every frame (T,), audio (samples,) int16 or float32 at 16 kHz


def shape_of(config: UnitVocoderSettings, n_units: int) -> GeneratorShape:
    """The generator's shape, in the published keys."""
    width = config.embedding_dim
    return GeneratorShape(
        n_units, width, width, config.upsample_rates, config.upsample_kernel_sizes, config.channels,
        config.resblock_kernel_sizes, (config.resblock_dilations,) * len(config.resblock_kernel_sizes),
        DurationShape(width, width), sampling_rate=RATE_HZ,
    )  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """All recordings end to end: they begin and end in silence, so a crop may cross from one to the next."""

    units: torch.Tensor  # int64 (T,)
    audio: torch.Tensor  # int16 (T * hop,)
    runs: torch.Tensor  # deduplicated units
    durations: torch.Tensor  # of them, in frames

    @classmethod
    def of(cls, recordings: Sequence[Recording], hop: int) -> Stream:
        """The audio cut or padded to its units: an encoder drops or adds part of a frame at the end."""
        audio = np.concatenate([_fit(as_int16(audio), len(units) * hop) for units, audio in recordings])
        units = torch.as_tensor(np.concatenate([units for units, _ in recordings]).astype(np.int64))
        runs, durations = torch.unique_consecutive(units, return_counts=True)
        return cls(units, torch.from_numpy(audio), runs, durations)


class Batches:
    """Crops of a stream; those of step s depend on (seed, s) alone."""

    def __init__(self, stream: Stream, hop: int, config: UnitVocoderSettings) -> None:
        if len(stream.units) < config.crop_frames:
            raise BadInput(f"unit_vocoder: {len(stream.units)} frames of audio are less than a crop; give more speech")
        self._stream, self._hop, self._config = stream, hop, config

    def crops(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Units int64 (B, T) and their audio float32 (B, L)."""
        first = self._places(step, 0, len(self._stream.units) - self._config.crop_frames)
        units_BT = self._stream.units[first + torch.arange(self._config.crop_frames)]
        samples_BL = first * self._hop + torch.arange(self._config.crop_frames * self._hop)
        return units_BT, self._stream.audio[samples_BL].float() / 32768

    def runs(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Deduplicated units int64 and their durations float32 in frames, both (B, at most DURATION_RUNS)."""
        length = min(DURATION_RUNS, len(self._stream.runs))
        index = self._places(step, 1, len(self._stream.runs) - length) + torch.arange(length)
        return self._stream.runs[index], self._stream.durations[index].clamp(max=MAX_DURATION).float()

    def _places(self, step: int, kind: int, last: int) -> torch.Tensor:
        draw = np.random.default_rng((self._config.seed, step, kind))
        return torch.from_numpy(draw.integers(last + 1, size=(self._config.batch, 1)))


class _Training:
    """Nets and optimisers, what a checkpoint holds, and one step."""

    def __init__(self, shape: GeneratorShape, config: UnitVocoderSettings, device: str) -> None:
        self.config, self.device = config, device
        self.generator = with_weight_norm(CodeGenerator(shape)).to(device)
        self.judges = Discriminators(config.discriminator_divisor).to(device)
        self.mel = MelLoss(RATE_HZ).to(device)
        self.optimisers = [
            torch.optim.AdamW(net.parameters(), config.peak_rate, BETAS) for net in (self.generator, self.judges)
        ]

    def step(self, batches: Batches, step: int, progress: float) -> dict[str, torch.Tensor]:
        """One update of the generator, and of the discriminators once they take part; the losses."""
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = rate_at(progress, self.config)
        torch.manual_seed(self.config.seed * 1_000_003 + step)  # dropout; a prime, so that no two seeds share streams
        units_BT, real_BL = (part.to(self.device) for part in batches.crops(step))
        runs_BT, durations_BT = (part.to(self.device) for part in batches.runs(step))
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.config.bfloat16):
            made_BL = self.generator(units_BT).float()
            logs_BT = self.generator.log_durations(runs_BT).float()
            losses = {"mel": self.mel(real_BL, made_BL)}
            # log(1 + frames) as published; this loss's minimum is the mean, so the durations add up right.
            losses["duration"] = F.poisson_nll_loss(logs_BT, 1 + durations_BT)
            if progress >= 1 - self.config.adversarial_share:
                losses |= self._adversarial(real_BL, made_BL)
        total = MEL_WEIGHT * losses["mel"] + losses["duration"]
        total = total + losses.get("generator", 0.0) + FEATURE_WEIGHT * losses.get("feature", 0.0)
        self._update(0, self.generator, total)
        return losses | {"loss": total.detach()}

    def _adversarial(self, real_BL: torch.Tensor, made_BL: torch.Tensor) -> dict[str, torch.Tensor]:
        """The discriminators' update, then what they say of the generator; on the middle half of each crop."""
        quarter = real_BL.shape[1] // 4  # 0.5 s is left, as HiFi-GAN's segments; where the context is whole
        real_BL, made_BL = (audio[:, quarter : 3 * quarter] for audio in (real_BL, made_BL))
        judged = discriminator_loss(self.judges(real_BL), self.judges(made_BL.detach()))
        self._update(1, self.judges, judged)
        self.judges.requires_grad_(False)  # their own gradients are not wanted below
        with torch.no_grad():
            real = self.judges(real_BL)
        made = self.judges(made_BL)
        self.judges.requires_grad_(True)
        return {
            "discriminator": judged.detach(), "generator": generator_loss(made), "feature": feature_loss(real, made),
        }  # fmt: skip

    def _update(self, number: int, net: nn.Module, loss: torch.Tensor) -> None:
        self.optimisers[number].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), self.config.clip_norm)
        self.optimisers[number].step()

    def state(self) -> dict[str, Any]:
        return {
            "generator": self.generator.state_dict(), "judges": self.judges.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.judges.load_state_dict(state["judges"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def train_unit_vocoder(
    recordings: Sequence[Recording], n_units: int, hop_samples: int, config: UnitVocoderSettings, out: Path,
    report: Report, device: str = "cpu",
) -> UnitVocoder:  # fmt: skip
    """Train on frame-level units and 16 kHz audio of one speaker; a rerun goes on from the checkpoint in `out`.

    hop_samples: of the encoder that made the units (640 at 25 Hz). BadInput when the generator's rates do not multiply
    to it. Deterministic in the seed and the thread count where steps, not seconds, end it.
    """
    shape = shape_of(config, n_units)
    if shape.hop_samples != hop_samples:
        raise BadInput(
            f"assets.unit_vocoder.upsample_rates={list(config.upsample_rates)} multiply to {shape.hop_samples}, but a "
            f"unit is {hop_samples} samples; choose rates that multiply to it"
        )
    if not recordings:
        raise BadInput("unit_vocoder: no recordings to train on; give some minutes of speech of one voice")
    stream = Stream.of(recordings, hop_samples)
    if int(stream.units.max()) >= n_units:
        raise BadInput(f"unit_vocoder: unit {int(stream.units.max())} in the recordings, but n_units={n_units}")
    batches = Batches(stream, hop_samples, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        training = _Training(shape, config, device)
        _run(training, batches, config, out / "state.pt", report)
    weights = {name: value.detach().cpu() for name, value in training.generator.state_dict().items()}
    return UnitVocoder(build(shape, weights, "trained"), device)


def _run(training: _Training, batches: Batches, config: UnitVocoderSettings, state: Path, report: Report) -> None:
    step, before = _resume(state, training)
    started = time.monotonic()
    seen: dict[str, list[float]] = {}
    while (progress := max(step / config.steps, (spent := before + time.monotonic() - started) / config.seconds)) < 1:
        losses = training.step(batches, step, progress)
        step += 1
        for name, value in losses.items():
            seen.setdefault(name, []).append(float(value.detach()))
        if step % config.report_every == 0:
            means = {name: sum(values) / len(values) for name, values in seen.items()}
            report({"step": step, "progress": progress, "seconds": spent} | means)
            seen = {}
        if step % config.checkpoint_every == 0:
            _save(state, {"step": step, "seconds": spent} | training.state())


def _resume(state: Path, training: _Training) -> tuple[int, float]:
    """Steps done and seconds spent according to the checkpoint, which is loaded; zeros without one."""
    if not state.is_file():
        return 0, 0.0
    saved = torch.load(state, map_location=training.device, weights_only=True)
    training.load(saved)
    return int(saved["step"]), float(saved["seconds"])


def _save(path: Path, state: dict[str, Any]) -> None:
    """Atomically: a reader sees the last complete checkpoint or this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def rate_at(progress: float, config: UnitVocoderSettings) -> float:
    """Learning rate: linear warm-up, then half a cosine down to a tenth. progress: share of the budget."""
    if progress < config.warmup_share:
        return config.peak_rate * progress / config.warmup_share
    place = (progress - config.warmup_share) / (1 - config.warmup_share)
    return config.peak_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * place)))


def with_weight_norm(generator: CodeGenerator) -> CodeGenerator:
    """Weight norm on the convolutions that have it in HiFi-GAN: all but the duration predictor's."""
    for name, module in generator.named_modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) and not name.startswith("dur_predictor"):
            weight_norm(module)
    return generator


def as_int16(audio: np.ndarray) -> np.ndarray:
    """int16 as it is; float32 in [-1, 1] scaled and clipped."""
    return audio if audio.dtype == np.int16 else (np.clip(audio, -1, 1) * 32767).astype(np.int16)


def _fit(audio: np.ndarray, samples: int) -> np.ndarray:
    return np.pad(audio, (0, max(0, samples - len(audio))))[:samples]


@torch.inference_mode()
def measure_audio(speak: Callable[..., np.ndarray], recordings: Sequence[Recording], hop: int) -> dict[str, float]:
    """Log-mel distance in dB of what a vocoder says, true durations given, to the recordings (HiFi-GAN's 80 bands)."""
    mel, errors, frames = LogMel(RATE_HZ), 0.0, 0
    for units, audio in recordings:
        real = torch.from_numpy(_fit(as_int16(audio), len(units) * hop)).float()[None] / 32768
        made = torch.from_numpy(speak(units, np.ones(len(units), np.int64)))[None]
        distance_MF = (mel(real) - mel(made)).abs()[0].mean(0)
        errors, frames = errors + float(distance_MF.sum()), frames + len(distance_MF)
    return {"audio_mel_error_db": errors / frames * 20 / math.log(10)}
