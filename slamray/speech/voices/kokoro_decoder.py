"""The decoder of Kokoro-82M, an iSTFTNet driven by a sine source, and the blocks that the rest shares with it.

Names and shapes are those of the published checkpoint (hexgrad/kokoro 0.9.4, Apache-2.0), weight norm folded away.
Legend: B = 1, T time, F frames of 25 ms, L samples, H width, S style.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

HARMONICS = 8  # above the fundamental; this, the rate and the levels are constants of hexgrad/kokoro's istftnet.py
RATE_HZ = 24_000
SINE_LEVEL, VOICED_NOISE, VOICED_HZ = 0.1, 0.003, 10.0


def conv(width_in: int, width_out: int, kernel: int, dilation: int = 1, bias: bool = True) -> nn.Conv1d:
    """A convolution that keeps the length of an odd kernel's input."""
    return nn.Conv1d(width_in, width_out, kernel, padding=dilation * (kernel - 1) // 2, dilation=dilation, bias=bias)


class AdaptiveNorm(nn.Module):
    """Instance norm over time, or layer norm over channels, whose scale and shift come from the style."""

    def __init__(self, style: int, width: int, over_time: bool = True) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.InstanceNorm1d(width, affine=True) if over_time else None
        self.fc = nn.Linear(style, 2 * width)

    def forward(self, x_BHT: torch.Tensor, style_BS: torch.Tensor) -> torch.Tensor:
        scale, shift = self.fc(style_BS)[..., None].chunk(2, 1)
        if self.norm is not None:
            return (1 + scale) * self.norm(x_BHT) + shift
        return (1 + scale) * functional.layer_norm(x_BHT.mT, (self.width,), eps=1e-5).mT + shift


class StyledBlock(nn.Module):
    """Residual block of two convolutions; may double the rate (`pool` on the way, nearest neighbour beside it)."""

    def __init__(self, width_in: int, width_out: int, style: int, doubles: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width_in, width_out, 3), conv(width_out, width_out, 3)
        self.norm1, self.norm2 = AdaptiveNorm(style, width_in), AdaptiveNorm(style, width_out)
        self.conv1x1 = conv(width_in, width_out, 1, bias=False) if width_in != width_out else nn.Identity()
        self.doubles = doubles
        pool = nn.ConvTranspose1d(width_in, width_in, 3, 2, groups=width_in, padding=1, output_padding=1)
        self.pool = pool if doubles else nn.Identity()

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        y = self.pool(functional.leaky_relu(self.norm1(x, style), 0.2))
        y = self.conv2(functional.leaky_relu(self.norm2(self.conv1(y), style), 0.2))
        beside = self.conv1x1(functional.interpolate(x, scale_factor=2, mode="nearest") if self.doubles else x)
        return (y + beside) * torch.rsqrt(torch.tensor(2.0))


class SnakeBlock(nn.Module):
    """Residual block of dilated convolutions with Snake activations x + sin(a x)^2 / a."""

    def __init__(self, width: int, kernel: int, dilations: list[int], style: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(conv(width, width, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(width, width, kernel) for _ in dilations)
        self.adain1 = nn.ModuleList(AdaptiveNorm(style, width) for _ in dilations)
        self.adain2 = nn.ModuleList(AdaptiveNorm(style, width) for _ in dilations)
        self.alpha1 = nn.ParameterList(nn.Parameter(torch.ones(1, width, 1)) for _ in dilations)
        self.alpha2 = nn.ParameterList(nn.Parameter(torch.ones(1, width, 1)) for _ in dilations)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        first = zip(self.adain1, self.alpha1, self.convs1, strict=True)
        for (norm1, a1, conv1), norm2, a2, conv2 in zip(first, self.adain2, self.alpha2, self.convs2, strict=True):
            y = norm1(x, style)
            y = norm2(conv1(y + (1 / a1) * torch.sin(a1 * y) ** 2), style)
            x = conv2(y + (1 / a2) * torch.sin(a2 * y) ** 2) + x
        return x


class SineSource(nn.Module):
    """Harmonics of the pitch, noise where there is none: (B, half frames) to (B, L)."""

    def __init__(self, samples_per_half_frame: int) -> None:
        super().__init__()
        self.scale = samples_per_half_frame
        self.l_linear = nn.Linear(HARMONICS + 1, 1)

    def forward(self, pitch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        pitch_BL1 = functional.interpolate(pitch[:, None], scale_factor=self.scale).mT
        turns = (pitch_BL1 * torch.arange(1.0, HARMONICS + 2) / RATE_HZ) % 1
        start = torch.rand(turns.shape[0], HARMONICS + 1, generator=rng)
        start[:, 0] = 0
        turns[:, 0] += start
        turns = functional.interpolate(turns.mT, scale_factor=1 / self.scale, mode="linear").mT
        phase = (torch.cumsum(turns, 1) * 2 * torch.pi).mT * self.scale
        sines = torch.sin(functional.interpolate(phase, scale_factor=self.scale, mode="linear").mT) * SINE_LEVEL
        voiced = (pitch_BL1 > VOICED_HZ).float()
        noise = torch.empty_like(sines).normal_(generator=rng)
        level = voiced * VOICED_NOISE + (1 - voiced) * SINE_LEVEL / 3
        return torch.tanh(self.l_linear(sines * voiced + level * noise))[..., 0]


class Generator(nn.Module):
    """iSTFTNet: raises the rate, adds the source's spectrum at each step, ends in an inverse STFT."""

    def __init__(self, style: int, net: Mapping[str, Any]) -> None:
        super().__init__()
        rates, kernels, width = net["upsample_rates"], net["upsample_kernel_sizes"], net["upsample_initial_channel"]
        self.n_fft, self.hop = net["gen_istft_n_fft"], net["gen_istft_hop_size"]
        self.m_source = SineSource(math.prod(rates) * self.hop)
        self.ups, self.resblocks, self.noise_convs, self.noise_res = (nn.ModuleList() for _ in range(4))
        for i, (rate, kernel) in enumerate(zip(rates, kernels, strict=True)):
            half = width // 2
            self.ups.append(nn.ConvTranspose1d(width, half, kernel, rate, padding=(kernel - rate) // 2))
            for size, dilations in zip(net["resblock_kernel_sizes"], net["resblock_dilation_sizes"], strict=True):
                self.resblocks.append(SnakeBlock(half, size, dilations, style))
            step, last = math.prod(rates[i + 1 :]), i + 1 == len(rates)
            kernel_stride_padding = (1, 1, 0) if last else (2 * step, step, (step + 1) // 2)
            self.noise_convs.append(nn.Conv1d(self.n_fft + 2, half, *kernel_stride_padding))
            self.noise_res.append(SnakeBlock(half, 11 if last else 7, [1, 3, 5], style))
            width = half
        self.blocks_per_rate = len(net["resblock_kernel_sizes"])
        self.conv_post = conv(width, self.n_fft + 2, 7)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def forward(self, x: torch.Tensor, style: torch.Tensor, pitch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        window = self.get_buffer("window")
        spectrum = torch.stft(self.m_source(pitch, rng), self.n_fft, self.hop, window=window, return_complex=True)
        source = torch.cat([spectrum.abs(), spectrum.angle()], 1)
        for i, up in enumerate(self.ups):
            x = up(functional.leaky_relu(x, 0.1))
            if i + 1 == len(self.ups):
                x = functional.pad(x, (1, 0), mode="reflect")
            x = x + self.noise_res[i](self.noise_convs[i](source), style)
            blocks = self.resblocks[i * self.blocks_per_rate : (i + 1) * self.blocks_per_rate]
            x = torch.stack([block(x, style) for block in blocks]).sum(0) / self.blocks_per_rate
        x = self.conv_post(functional.leaky_relu(x))
        bins = self.n_fft // 2 + 1
        spectrum = torch.exp(x[:, :bins]) * torch.exp(torch.sin(x[:, bins:]) * 1j)
        return torch.istft(spectrum, self.n_fft, self.hop, window=window)


class KokoroDecoder(nn.Module):
    """What is said, pitch and energy to samples."""

    def __init__(self, width: int, inner: int, beside: int, style: int, net: Mapping[str, Any]) -> None:
        super().__init__()
        last = net["upsample_initial_channel"]
        self.encode = StyledBlock(width + 2, inner, style)
        self.decode = nn.ModuleList(StyledBlock(inner + 2 + beside, inner, style) for _ in range(3))
        self.decode.append(StyledBlock(inner + 2 + beside, last, style, doubles=True))
        self.F0_conv, self.N_conv = nn.Conv1d(1, 1, 3, 2, 1), nn.Conv1d(1, 1, 3, 2, 1)
        self.asr_res = nn.Sequential(nn.Conv1d(width, beside, 1))
        self.generator = Generator(style, net)

    def forward(
        self,
        said_BHF: torch.Tensor,
        curves: tuple[torch.Tensor, torch.Tensor],
        style: torch.Tensor,
        rng: torch.Generator,
    ) -> torch.Tensor:
        pitch, energy = self.F0_conv(curves[0][:, None]), self.N_conv(curves[1][:, None])
        beside = torch.cat([self.asr_res(said_BHF), pitch, energy], 1)
        x = self.encode(torch.cat([said_BHF, pitch, energy], 1), style)
        for block in self.decode:
            x = block(torch.cat([x, beside], 1), style)
        return self.generator(x, style, curves[0], rng)
