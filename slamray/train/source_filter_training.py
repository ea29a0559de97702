"""Train the source-filter decoder on units and the audio they were heard in.

Shapes: B crops, T unit frames, F mel frames (F = T * frames_per_unit), M mel bands, R runs (deduplicated units).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from slamray.config.assets import SourceFilterSettings, check_crops
from slamray.config.budget import Budget, parse_budget
from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.speech.decoders.source_filter import Vocoder, VocoderNet, VocoderShape
from slamray.speech.decoders.source_filter_dsp import FRAME_HOP, RATE_HZ, analyse, mel_filters
from slamray.stage.folder import Root
from slamray.stage.work import Metrics, Report
from slamray.tokens.sampler import add_hashes, sample_hash
from slamray.train.decoder_data import Recording, UnitStream, fit, stream_once
from slamray.train.loop import Run, Step, train
from slamray.train.objective import duration_loss
from slamray.train.ranks import rank_and_world
from slamray.train.replicated import Replicated

# The envelope is what makes speech understood, so it leads; chosen, not tuned.
WEIGHTS = {"mel": 1.0, "pitch": 0.1, "voicing": 0.1, "duration": 0.1}
CLIP_NORM = 1.0
FINE = 1_000_000  # steps that the schedule of a budget of time is cut into


@dataclass(frozen=True)
class SpeechFrames:
    """What the decoder is to predict of all recordings end to end."""

    stream: UnitStream
    targets_FM: torch.Tensor  # float32, M + 1 columns: log-mel and log F0
    voiced_F: torch.Tensor  # bool

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], n_units: int) -> SpeechFrames:
        """From what `analysed` gives."""
        stream = UnitStream.of(arrays["units"], n_units, "vocoder")
        return cls(stream, torch.from_numpy(arrays["targets"]), torch.from_numpy(arrays["voiced"]))


def analysed(recordings: Iterable[Recording], frames_per_unit: int) -> dict[str, np.ndarray]:
    """`units`, `targets` and `voiced` of recordings (audio float32), end to end."""
    filters = mel_filters()
    parts = []
    for units, audio in recordings:
        mel, f0, voiced = analyse(fit(audio, len(units) * frames_per_unit * FRAME_HOP), filters)
        targets = torch.cat([mel, f0.log()[:, None]], 1)[:-1]
        parts.append((units, targets.numpy(), voiced[:-1].numpy()))
    columns = zip(*parts, strict=True)
    return dict(zip(("units", "targets", "voiced"), map(np.concatenate, columns), strict=True))


class SourceFilterTraining(Replicated):
    """The trainable."""

    def __init__(
        self, net: VocoderNet, data: SpeechFrames, config: SourceFilterSettings, budget: Budget, compute: Compute
    ) -> None:
        super().__init__(compute)
        self.net, self.data, self.config = net, data, config
        self.steps = int(budget.amount) if budget.kind == "steps" else None
        hop_samples = net.shape.frames_per_unit * FRAME_HOP
        self.crop = min(round(config.crop_seconds * RATE_HZ / hop_samples), len(data.stream.runs_R))
        self._draw, self._drawn = torch.Generator().manual_seed(config.seed), 0
        fused = compute.device == "cuda"
        self.add_network("net", net, torch.optim.AdamW(net.parameters(), config.learning_rate, fused=fused))

    def step(self, number: int, progress: float) -> Step:
        """One update on the crops of step `number`."""
        rate, beta1 = one_cycle(self.config.learning_rate, *self._place(number, progress))
        group = self.optimisers["net"].param_groups[0]
        group["lr"], group["betas"] = rate, (beta1, 0.999)
        first_B1, first_run_B1 = self._crops(number)
        with self.autocast():
            losses = self._losses(first_B1, first_run_B1)
        total = torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
        norm = self.update("net", total, CLIP_NORM)
        mine = [draw_B1[self.rank :: self.world, 0].numpy() for draw_B1 in (first_B1, first_run_B1)]
        samples = add_hashes(sample_hash(2 * number, mine[0]), sample_hash(2 * number + 1, mine[1]))
        told = {"loss": total.item(), **{name: loss.item() for name, loss in losses.items()}}
        return Step(told, {"learning_rate": rate, "gradient_norm": norm}, samples)

    def _place(self, number: int, progress: float) -> tuple[float, int]:
        return (number, self.steps) if self.steps else (progress * FINE, FINE)

    def _crops(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """First units, and first runs, of the whole batch, both (B, 1).

        One generator draws for all steps: after a restart it draws for the steps that are behind once more.
        """
        stream, batch = self.data.stream, (self.config.batch, 1)
        while self._drawn <= number:
            first_B1 = torch.randint(len(stream.units_T) - self.crop + 1, batch, generator=self._draw)
            first_run_B1 = torch.randint(len(stream.runs_R) - self.crop + 1, batch, generator=self._draw)
            self._drawn += 1
        return first_B1, first_run_B1

    def _losses(self, first_B1: torch.Tensor, first_run_B1: torch.Tensor) -> dict[str, torch.Tensor]:
        """This rank's parts of the losses of the whole batch; log-mel and log F0 are normalised."""
        data, net, device = self.data, self.net, self.compute.device
        within_F = torch.arange(self.crop * net.shape.frames_per_unit)
        frames_BF = first_B1 * net.shape.frames_per_unit + within_F
        voiced_frames = data.voiced_F[frames_BF].sum().clamp(min=1).item()
        mine = slice(self.rank, None, self.world)
        share = len(first_B1[mine]) / len(first_B1)
        frames_BF, units_BT = frames_BF[mine], (first_B1 + torch.arange(self.crop))[mine]
        runs_BR = (first_run_B1 + torch.arange(self.crop))[mine]
        targets_BFM, voiced_BF = data.targets_FM[frames_BF].to(device), data.voiced_F[frames_BF].float().to(device)
        regressed_BFM, logits_BF = net(data.stream.units_T[units_BT].to(device))
        error_BFM = (regressed_BFM.float() - (targets_BFM - net.mean) / net.deviation).abs()
        log_durations_BR = net.log_durations(data.stream.runs_R[runs_BR].to(device)).float()
        return {
            "mel": error_BFM[..., :-1].mean() * share,
            "pitch": (error_BFM[..., -1] * voiced_BF).sum() / voiced_frames,
            "voicing": binary_cross_entropy_with_logits(logits_BF.float(), voiced_BF) * share,
            "duration": duration_loss(log_durations_BR, data.stream.durations(runs_BR).to(device)) * share,
        }


def one_cycle(peak: float, place: float, steps: int) -> tuple[float, float]:
    """Learning rate and AdamW's first beta at a place of 0 .. steps - 1: torch's OneCycleLR with its defaults.

    From a 25th of the peak to the peak over 30 %, then to a 250,000th, by cosines; beta from 0.95 to 0.85 and back.
    """
    low, lowest, turn, end = peak / 25.0, peak / 25.0 / 1e4, 0.3 * steps - 1, steps - 1

    def between(first: float, last: float, share: float) -> float:
        return last + (first - last) / 2.0 * (math.cos(math.pi * share) + 1)

    if place <= turn:
        return between(low, peak, place / turn), between(0.95, 0.85, place / turn)
    share = (place - turn) / (end - turn)
    return between(peak, lowest, share), between(0.85, 0.95, share)


def train_source_filter(
    recordings: Iterable[Recording],
    n_units: int,
    hop_samples: int,
    config: SourceFilterSettings,
    compute: Compute,
    out: Root,
    report: Report,
) -> tuple[Vocoder, Metrics]:
    """Train on pairs of frame-level units and 16 kHz audio of one speaker; the decoder, and facts.

    hop_samples: of the encoder that made the units (640 at 25 Hz). Every rank calls this; a restart goes on from the
    newest checkpoint in `out` (see loop.Run) and reads no recording again.
    """
    if hop_samples % FRAME_HOP:
        raise BadInput(f"vocoder: the encoder's hop of {hop_samples} samples is no multiple of {FRAME_HOP}")
    check_crops(config.batch, rank_and_world()[1], "assets.source_filter.batch")
    budget = parse_budget(config.budget, "assets.source_filter.budget")
    per_unit = hop_samples // FRAME_HOP
    data = SpeechFrames.of(stream_once(out, recordings, lambda some: analysed(some, per_unit), "vocoder"), n_units)
    run = Run(budget, compute, out, report, counts_tokens=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = VocoderNet(VocoderShape(n_units, per_unit, config.hidden, config.unit_blocks, config.frame_blocks))
    columns = [*data.targets_FM[:, :-1].unbind(1), data.targets_FM[data.voiced_F, -1]]
    net.mean.copy_(torch.stack([column.mean() for column in columns]))
    net.deviation.copy_(torch.stack([column.std() for column in columns]).clamp(min=1e-3))
    train(SourceFilterTraining(net.to(compute.device), data, config, budget, compute), run)
    return Vocoder(net.cpu()), run.finish()


@torch.inference_mode()
def measure_vocoder(vocoder: Vocoder, recordings: Sequence[Recording]) -> dict[str, float]:
    """Errors on held-out recordings: log-mel L1 in dB, beside that of each band's training mean, and others."""
    net = vocoder.net
    data = SpeechFrames.of(analysed(recordings, net.shape.frames_per_unit), net.shape.n_units)
    regressed, logits = net(data.stream.units_T[None])
    decibel = 10 / math.log(10)
    target, mean, deviation = data.targets_FM[:, :-1], net.mean[:-1], net.deviation[:-1]
    return {
        "mel_error_db": float((regressed[0, :, :-1] * deviation + mean - target).abs().mean()) * decibel,
        "mean_predictor_error_db": float((mean - target).abs().mean()) * decibel,
        "voicing_accuracy": float(((logits[0] > 0) == data.voiced_F).float().mean()),
        "duration_ratio": float(vocoder.durations(data.stream.runs_R.numpy()).sum() / len(data.stream.units_T)),
    }
