"""Train a HiFi-GAN code generator on units and the audio they were heard in (Polyak et al. 2021), small.

First by the log-mel distance alone, then, over the last share of the budget, by discriminators too.
Shapes: B crops, T unit frames of a crop, L = T * hop samples, R runs (deduplicated units) of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from slamray.config.assets import HifiganSettings, check_crops
from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.speech.decoders.hifigan import CodeGenerator, DurationShape, GeneratorShape, UnitVocoder, build
from slamray.stage.folder import Root
from slamray.stage.work import Metrics, Report
from slamray.tokens.sampler import sample_hash
from slamray.train.decoder_data import Recording, UnitStream, fit, stream_once
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
from slamray.train.loop import Run, Step, train
from slamray.train.objective import duration_loss
from slamray.train.ranks import rank_and_world
from slamray.train.replicated import Replicated

RATE_HZ = 16_000
DURATION_RUNS = 64  # deduplicated units of a row of the duration loss; chosen, not tuned
BETAS = (0.8, 0.99)  # HiFi-GAN section 3


def shape_of(config: HifiganSettings, n_units: int) -> GeneratorShape:
    """The generator's shape, in the published keys."""
    width = config.embedding_dim
    return GeneratorShape(
        n_units,
        width,
        width,
        config.upsample_rates,
        config.upsample_kernel_sizes,
        config.channels,
        config.resblock_kernel_sizes,
        (config.resblock_dilations,) * len(config.resblock_kernel_sizes),
        DurationShape(width, width),
        sampling_rate=RATE_HZ,
    )


def heard(recordings: Iterable[Recording], hop_samples: int) -> dict[str, np.ndarray]:
    """`units` and `audio` (int16) of recordings end to end, the audio cut or padded to its units."""
    units, audio = [], []
    for units_T, sound in recordings:
        units.append(units_T)
        audio.append(fit(as_int16(sound), len(units_T) * hop_samples))
    return {"units": np.concatenate(units), "audio": np.concatenate(audio)}


@dataclass(frozen=True)
class UnitCrops:
    """Crops of a stream and its audio (int16); those of a step depend on (seed, step) alone."""

    stream: UnitStream
    audio: torch.Tensor
    hop_samples: int
    config: HifiganSettings

    def places(self, step: int) -> torch.Tensor:
        """First units of a batch's crops, (B, 1)."""
        return self._places(step, 0, len(self.stream.units_T) - self.config.crop_frames)

    def at(self, first_B1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Units int64 (B, T) of crops and their audio float32 (B, L)."""
        units_BT = self.stream.units_T[first_B1 + torch.arange(self.config.crop_frames)]
        samples_BL = first_B1 * self.hop_samples + torch.arange(self.config.crop_frames * self.hop_samples)
        return units_BT, self.audio[samples_BL].float() / 32768

    def runs(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Deduplicated units int64 and their durations float32 in frames, both (B, at most DURATION_RUNS)."""
        length = min(DURATION_RUNS, len(self.stream.runs_R))
        index_BR = self._places(step, 1, len(self.stream.runs_R) - length) + torch.arange(length)
        return self.stream.runs_R[index_BR], self.stream.durations(index_BR)

    def _places(self, step: int, kind: int, last: int) -> torch.Tensor:
        draw = np.random.default_rng((self.config.seed, step, kind))
        return torch.from_numpy(draw.integers(last + 1, size=(self.config.batch, 1)))


class HifiganTraining(Replicated):
    """The trainable: the generator and, once they take part, its discriminators."""

    def __init__(self, shape: GeneratorShape, crops: UnitCrops, config: HifiganSettings, compute: Compute) -> None:
        super().__init__(compute)
        self.crops, self.config = crops, config
        self.generator = with_weight_norm(CodeGenerator(shape)).to(compute.device)
        self.judges = Discriminators(config.discriminator_divisor).to(compute.device)
        self.mel = MelLoss(RATE_HZ).to(compute.device)
        for name, network in (("generator", self.generator), ("judges", self.judges)):
            fused = compute.device == "cuda"
            optimiser = torch.optim.AdamW(network.parameters(), config.peak_rate, BETAS, fused=fused)
            self.add_network(name, network, optimiser)

    def step(self, number: int, progress: float) -> Step:
        """One update of the generator, and of the discriminators once they take part."""
        rate = hifigan_rate(progress, self.config)
        for optimiser in self.optimisers.values():
            optimiser.param_groups[0]["lr"] = rate
        places_B1 = self.crops.places(number)
        mine_B1 = places_B1[self.rank :: self.world]
        share = len(mine_B1) / len(places_B1)  # all losses but the durations' are means over crops of one length
        units_BT, real_BL = (part.to(self.compute.device) for part in self.crops.at(mine_B1))
        with self.autocast():
            made_BL = self.generator(units_BT).float()
            losses = {"mel": self.mel(real_BL, made_BL) * share, "duration": self._duration_loss(number)}
            if progress >= 1 - self.config.adversarial_share:
                losses |= self._adversarial(real_BL, made_BL, share)
        total = MEL_WEIGHT * losses["mel"] + losses["duration"]
        total = total + losses.get("generator", 0.0) + FEATURE_WEIGHT * losses.get("feature", 0.0)
        norm = self.update("generator", total, self.config.clip_norm)
        told = {name: loss.item() for name, loss in (losses | {"loss": total}).items()}
        latest = {"learning_rate": rate, "gradient_norm": norm}
        return Step(told, latest, sample_hash(number, mine_B1[:, 0].numpy()))

    def _duration_loss(self, number: int) -> torch.Tensor:
        """This rank's part. Dropout draws for the whole batch, so every rank computes all of it; it costs little."""
        runs_BR, durations_BR = (part.to(self.compute.device) for part in self.crops.runs(number))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed * 1_000_003 + number)  # a prime, so that no two seeds share streams
            logs_BR = self.generator.log_durations(runs_BR).float()
        return duration_loss(logs_BR, 1 + durations_BR) / self.world  # log(1 + frames) as published

    def _adversarial(self, real_BL: torch.Tensor, made_BL: torch.Tensor, share: float) -> dict[str, torch.Tensor]:
        """The discriminators' update, then what they say of the generator; on the middle half of each crop."""
        quarter = real_BL.shape[1] // 4  # 0.5 s is left, as HiFi-GAN's segments; where the context is whole
        real_BL, made_BL = (audio[:, quarter : 3 * quarter] for audio in (real_BL, made_BL))
        judged = discriminator_loss(self.judges(real_BL), self.judges(made_BL.detach())) * share
        self.update("judges", judged, self.config.clip_norm)
        self.judges.requires_grad_(False)  # their own gradients are not wanted below
        with torch.no_grad():
            real = self.judges(real_BL)
        made = self.judges(made_BL)
        self.judges.requires_grad_(True)
        found = {"generator": generator_loss(made) * share, "feature": feature_loss(real, made) * share}
        return {"discriminator": judged.detach(), **found}


def train_hifigan(
    recordings: Iterable[Recording],
    n_units: int,
    hop_samples: int,
    config: HifiganSettings,
    compute: Compute,
    out: Root,
    report: Report,
) -> tuple[UnitVocoder, Metrics]:
    """Train on frame-level units and 16 kHz audio of one speaker; the decoder, and facts.

    hop_samples: of the encoder that made the units (640 at 25 Hz). BadInput when the generator's rates do not multiply
    to it. Every rank calls this; a restart goes on from the newest checkpoint in `out` (see loop.Run) and reads no
    recording again.
    """
    shape = shape_of(config, n_units)
    if shape.hop_samples != hop_samples:
        raise BadInput(
            f"assets.hifigan.upsample_rates={list(config.upsample_rates)} multiply to {shape.hop_samples}, but a "
            f"unit is {hop_samples} samples; choose rates that multiply to it"
        )
    check_crops(config.batch, rank_and_world()[1], "assets.hifigan.batch")
    budget = parse_budget(config.budget, "assets.hifigan.budget")
    arrays = stream_once(out, recordings, lambda some: heard(some, hop_samples), "hifigan")
    stream = UnitStream.of(arrays["units"], n_units, "hifigan")
    if len(stream.units_T) < config.crop_frames:
        raise BadInput(f"hifigan: {len(stream.units_T)} frames of audio are less than a crop; give more speech")
    crops = UnitCrops(stream, torch.from_numpy(arrays["audio"]), hop_samples, config)
    run = Run(budget, compute, out, report, counts_tokens=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        training = HifiganTraining(shape, crops, config, compute)
    train(training, run)
    weights = {name: value.detach().cpu() for name, value in training.generator.state_dict().items()}
    return UnitVocoder(build(shape, weights, "trained"), compute.device), run.finish()


def hifigan_rate(progress: float, config: HifiganSettings) -> float:
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


@torch.inference_mode()
def measure_audio(speak: Callable[..., np.ndarray], recordings: Sequence[Recording], hop: int) -> dict[str, float]:
    """Log-mel distance in dB of what a vocoder says, true durations given, to the recordings (HiFi-GAN's 80 bands)."""
    mel, errors, frames = LogMel(RATE_HZ), 0.0, 0
    for units, audio in recordings:
        real = torch.from_numpy(fit(as_int16(audio), len(units) * hop)).float()[None] / 32768
        made = torch.from_numpy(speak(units, np.ones(len(units), np.int64)))[None]
        distance_MF = (mel(real) - mel(made)).abs()[0].mean(0)
        errors, frames = errors + float(distance_MF.sum()), frames + len(distance_MF)
    return {"audio_mel_error_db": errors / frames * 20 / math.log(10)}
