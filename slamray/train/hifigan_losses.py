"""What a HiFi-GAN is trained by (Kong et al. 2020): log-mel distance, and discriminators over periods and scales.

Shapes: B crops, L samples, C channels, F frames, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torchaudio.functional import melscale_fbanks

from slamray.speech.decoders.hifigan import SLOPE

PERIODS = (2, 3, 5, 7, 11)  # HiFi-GAN section 2.3
SCALES = 3  # the audio, and averaged over 2 and 4 samples; HiFi-GAN section 2.3
MEL_WEIGHT, FEATURE_WEIGHT = 45.0, 2.0  # HiFi-GAN section 2.4
Features = list[torch.Tensor]
Judged = tuple[torch.Tensor, Features]  # a discriminator's scores, and its layers' outputs


class LogMel(nn.Module):
    """log of mel magnitudes (B, M, F), HiFi-GAN's, at any window; a frame every quarter of a window."""

    window: torch.Tensor
    filters_KM: torch.Tensor

    def __init__(self, rate_hz: int, window: int = 1024, bands: int = 80) -> None:
        super().__init__()
        self.size, self.hop = window, window // 4
        self.register_buffer("window", torch.hann_window(window))
        filters = melscale_fbanks(window // 2 + 1, 0.0, rate_hz / 2, bands, rate_hz, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters_KM", filters)

    def forward(self, audio_BL: torch.Tensor) -> torch.Tensor:
        pad = (self.size - self.hop) // 2
        padded = F.pad(audio_BL[:, None].float(), (pad, pad), mode="reflect")[:, 0]
        spectrum = torch.stft(padded, self.size, self.hop, self.size, self.window, center=False, return_complex=True)
        magnitude_BKF = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        return (magnitude_BKF.transpose(1, 2) @ self.filters_KM).transpose(1, 2).clamp(min=1e-5).log()


class MelLoss(nn.Module):
    """L1 distance of log-mels, the mean over windows.

    HiFi-GAN has one window, 1024; shorter and longer ones beside it teach attacks and pitch while no discriminator
    does (as in multi-resolution STFT losses, Yamamoto et al. 2020).
    """

    def __init__(self, rate_hz: int, windows: Sequence[int] = (512, 1024, 2048)) -> None:
        super().__init__()
        self.mels = nn.ModuleList(LogMel(rate_hz, window, min(80, window // 12)) for window in windows)  # none is empty

    def forward(self, real_BL: torch.Tensor, made_BL: torch.Tensor) -> torch.Tensor:
        return torch.stack([(mel(real_BL) - mel(made_BL)).abs().mean() for mel in self.mels]).mean()


class _Period(nn.Module):
    """Looks at every p-th sample: the audio as rows of p (HiFi-GAN's DiscriminatorP)."""

    def __init__(self, period: int, divisor: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, *(width // divisor for width in (32, 128, 512, 1024, 1024))]
        strides = (3, 3, 3, 3, 1)
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, (5, 1), (stride, 1), (2, 0)))
            for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.conv_post = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), 1, (1, 0)))

    def forward(self, audio_BL: torch.Tensor) -> Judged:
        x = F.pad(audio_BL[:, None], (0, -audio_BL.shape[1] % self.period), mode="reflect")
        return _judge(x.unflatten(2, (-1, self.period)), self.convs, self.conv_post)


class _Scale(nn.Module):
    """Looks at the audio as it is (HiFi-GAN's DiscriminatorS)."""

    def __init__(self, divisor: int) -> None:
        super().__init__()
        widths = [1, *(width // divisor for width in (128, 128, 256, 512, 1024, 1024, 1024))]
        kernels, strides = (15, 41, 41, 41, 41, 41, 5), (1, 2, 2, 4, 4, 1, 1)
        groups = [max(1, paper // divisor) for paper in (1, 4, 16, 16, 16, 16, 1)]  # many small groups are slow
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv1d(widths[i], widths[i + 1], kernels[i], strides[i], kernels[i] // 2, groups=groups[i]))
            for i in range(len(kernels))
        )
        self.conv_post = weight_norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, audio_BL: torch.Tensor) -> Judged:
        return _judge(audio_BL[:, None], self.convs, self.conv_post)


def _judge(x: torch.Tensor, convs: nn.ModuleList, last: nn.Module) -> Judged:
    features: Features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), SLOPE)
        features.append(x)
    features.append(last(x))
    return features[-1].flatten(1), features


class Discriminators(nn.Module):
    """All of HiFi-GAN's, their widths divided by `divisor`; 1 is the paper's.

    Weight norm throughout: the paper has spectral norm in the first scale's, which a small one has no need of.
    """

    def __init__(self, divisor: int) -> None:
        super().__init__()
        self.periods = nn.ModuleList(_Period(period, divisor) for period in PERIODS)
        self.scales = nn.ModuleList(_Scale(divisor) for _ in range(SCALES))

    def forward(self, audio_BL: torch.Tensor) -> list[Judged]:
        judged: list[Judged] = [period(audio_BL) for period in self.periods]
        for number, scale in enumerate(self.scales):
            if number:
                audio_BL = F.avg_pool1d(audio_BL[:, None], 4, 2, padding=2)[:, 0]
            judged.append(scale(audio_BL))
        return judged


def discriminator_loss(real: Sequence[Judged], made: Sequence[Judged]) -> torch.Tensor:
    """Least squares: real to 1, made to 0, the sum over discriminators."""
    parts = [(1 - r).square().mean() + m.square().mean() for (r, _), (m, _) in zip(real, made, strict=True)]
    return torch.stack(parts).sum()


def generator_loss(made: Sequence[Judged]) -> torch.Tensor:
    """Least squares: made to 1, the sum over discriminators."""
    return torch.stack([(1 - scores).square().mean() for scores, _ in made]).sum()


def feature_loss(real: Sequence[Judged], made: Sequence[Judged]) -> torch.Tensor:
    """L1 distance of every layer's output, the sum over layers and discriminators."""
    pairs = [(r, m) for (_, rs), (_, ms) in zip(real, made, strict=True) for r, m in zip(rs, ms, strict=True)]
    return torch.stack([(r.detach() - m).abs().mean() for r, m in pairs]).sum()
