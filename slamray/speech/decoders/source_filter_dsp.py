"""A source-filter model in the STFT: speech to envelope, pitch and voicing, and these to speech.

Every 10 ms have the log power in 80 mel bands of the smoothed spectrum, F0, and whether they are voiced. Pulses and
noise, each of power density 1, are mixed and shaped by the envelope. Their phase is known, so no Griffin-Lim is needed.
Shapes: F mel frames, M mel bands, K bins of the spectrum.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torchaudio.functional import melscale_fbanks

from slamray.speech import audio as sound

RATE_HZ = sound.RATE_HZ  # the net speaks at the rate that encoders hear
FRAME_HOP = 160  # samples, 10 ms
WINDOW = 640  # samples, 40 ms: two periods of a 50 Hz voice; chosen, not tuned
FFT = 1024  # 15.6 Hz a bin, zero-padded: no mel band is empty, and the envelope's filter does not wrap round
BINS = FFT // 2 + 1
SMOOTH_BINS = 13  # 203 Hz, one harmonic of a woman's voice: the envelope must not hold the harmonics; chosen, not tuned
MEL_BANDS = 80
FLOOR = 1e-8  # power taken for silence, -80 dB
F0_RANGE_HZ = (70.0, 420.0)  # speaking voices of adults
VOICED = 0.5  # least normalised autocorrelation at the pitch lag of a voiced frame; chosen, not tuned
NOISE_FROM_HZ = (3000.0, 6000.0)  # over this range even voiced sound turns into noise; chosen, not tuned


def mel_filters() -> torch.Tensor:
    """Triangular mel filters (K, M), each of area 1: a band holds the mean power density over its width."""
    filters = melscale_fbanks(BINS, 0.0, RATE_HZ / 2, MEL_BANDS, RATE_HZ, mel_scale="htk")
    return filters / filters.sum(0)


def _stft(audio: torch.Tensor) -> torch.Tensor:
    """(K, 1 + samples // FRAME_HOP) complex, scaled so that white noise of variance 1 has the mean power 1."""
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(audio, FFT, FRAME_HOP, WINDOW, window, pad_mode="constant", return_complex=True)
    return spectrum / window.square().sum().sqrt()


def analyse(audio: np.ndarray, filters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Natural log of mel power (F, M), F0 in Hz (F,), and whether voiced (F,), with F = 1 + samples // FRAME_HOP.

    F0 is the peak of the window-corrected autocorrelation (Boersma 1993), a little biased to short lags.
    """
    power = _stft(torch.as_tensor(audio, dtype=torch.float32)).abs().square()
    smooth = nn.functional.avg_pool1d(power.T[:, None], SMOOTH_BINS, 1, SMOOTH_BINS // 2, count_include_pad=False)[:, 0]
    mel = (smooth @ filters).clamp(min=FLOOR).log()
    shortest, longest = round(RATE_HZ / F0_RANGE_HZ[1]), round(RATE_HZ / F0_RANGE_HZ[0])
    window = torch.fft.irfft(torch.fft.rfft(torch.hann_window(WINDOW), FFT).abs().square())[: longest + 1]
    correlation = torch.fft.irfft(power.T, dim=1)[:, : longest + 1] / window * window[0]
    correlation = (correlation / correlation[:, :1].clamp(min=FLOOR))[:, shortest:]
    bias = torch.linspace(0.0, 0.1, correlation.shape[1])  # against octaves below; chosen, not tuned
    lag = (correlation - bias).argmax(1)
    voiced = (correlation.gather(1, lag[:, None])[:, 0] > VOICED) & (power.mean(0) > 100 * FLOOR)
    return mel, RATE_HZ / (lag + shortest).float(), voiced


def synthesise(
    mel_FM: torch.Tensor, f0_hz_F: torch.Tensor, voicing_F: torch.Tensor, filters: torch.Tensor, seed: int
) -> np.ndarray:
    """Audio float32 (F * FRAME_HOP,) of an envelope (log power), a pitch and a share of voice 0..1.

    Pulses and noise both have a power density of 1, so the envelope alone sets the spectrum.
    """
    samples = len(mel_FM) * FRAME_HOP
    f0 = nn.functional.interpolate(f0_hz_F[None, None].double(), samples, mode="linear")[0, 0]
    half_phase = math.pi * torch.cumsum(f0, 0) / RATE_HZ
    harmonics = torch.floor(RATE_HZ / 2 / f0)
    # 2 * sum of cos(k * phase) for k = 1 .. harmonics, in closed form (Dirichlet's kernel)
    kernel = torch.sin((2 * harmonics + 1) * half_phase) / torch.sin(half_phase)
    pulses = (torch.where(torch.sin(half_phase).abs() < 1e-6, 2 * harmonics + 1, kernel) - 1) * (f0 / RATE_HZ).sqrt()
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    first, last = NOISE_FROM_HZ
    harmonic_K = ((last - torch.linspace(0, RATE_HZ / 2, BINS)) / (last - first)).clamp(0, 1)
    voiced_KF = harmonic_K[:, None] * _one_more(voicing_F[:, None])[:, 0]
    source_KF = _stft(pulses.float()) * voiced_KF.sqrt() + _stft(noise) * (1 - voiced_KF).sqrt()
    to_bins_KM = filters / filters.sum(1, keepdim=True).clamp(min=1e-9)  # triangles interpolate between bands
    to_bins_KM[0, 0] = to_bins_KM[-1, -1] = 1.0  # the two edges lie in no triangle
    envelope_KF = (to_bins_KM @ _one_more(mel_FM).T / 2).exp()
    window = torch.hann_window(WINDOW)
    spectrum = source_KF * envelope_KF * window.square().sum().sqrt()
    return torch.istft(spectrum, FFT, FRAME_HOP, WINDOW, window, length=samples).clamp(-1, 1).numpy()


def _one_more(frames: torch.Tensor) -> torch.Tensor:
    """The last frame twice: a centred transform of F hops has F + 1 frames."""
    return torch.cat([frames, frames[-1:]])
