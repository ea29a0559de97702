"""Train a HuBERT: masked prediction of k-means clusters (Hsu et al. 2021), first of MFCCs, then of the last iteration.

One iteration is `targets_from_mfcc` or `targets_from_features`, then `train_hubert`.

Shapes: B crops, L samples of a crop, T frames, H codebooks (targets of one frame), K clusters, D features.
Frame i covers samples [i, i + 1) x HOP: `pad_samples` zeros on both sides centre its receptive field there.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torchaudio
from torch.nn import functional as F
from transformers import HubertConfig, HubertModel

from slamray.config.assets import HubertTrainingSettings
from slamray.speech.encoders.hubert import receptive_field
from slamray.speech.encoders.kmeans import Quantiser, fit_kmeans
from slamray.stage.work import Report

RATE_HZ = 16_000
HOP = 640  # 40 ms: 25 frames a second, as slprl/mhubert-base-25hz
# A small model that sees its data a few times, in few steps, has no need of them.
_DROPOUTS = "hidden_dropout attention_dropout activation_dropout feat_proj_dropout final_dropout layerdrop"
NO_DROPOUT: dict[str, Any] = dict.fromkeys(_DROPOUTS.split(), 0.0)


def nano_config() -> HubertConfig:
    """hubert-nano: 25 Hz, made for CPUs. Layer norm in the convolutions, so padding never changes a frame."""
    return HubertConfig(
        hidden_size=256,
        num_hidden_layers=5,
        num_attention_heads=4,
        do_stable_layer_norm=True,  # norm before each block: masked loss 4.30 after 175 steps, 4.45 with norm after it
        intermediate_size=1024,
        conv_dim=(96, 256, 256, 256),
        conv_kernel=(80, 8, 4, 4),
        conv_stride=(40, 4, 2, 2),
        conv_bias=True,
        feat_extract_norm="layer",
        num_conv_pos_embeddings=15,
        num_conv_pos_embedding_groups=4,
        **NO_DROPOUT,
    )


def pad_samples(config: HubertConfig) -> int:
    """Zeros on both sides that centre frame i on samples [i, i + 1) x hop, and make n // hop frames of n samples."""
    hop = math.prod(config.conv_stride)
    return (receptive_field(config) - hop) // 2


def mfcc_39(audio: torch.Tensor) -> torch.Tensor:
    """13 MFCCs with first and second differences, (T, 39) float32, one row for each whole 40 ms; at the frame's middle.

    audio: float32 (samples,) at 16 kHz.
    """
    return mfcc_100hz(audio)[2::4][: len(audio) // HOP]


def mfcc_100hz(audio: torch.Tensor) -> torch.Tensor:
    """(4 T + 1, 39): row j has its window's middle at sample j x 160, so 4 i + 2 is the middle of frame i."""
    settings = {"n_fft": 400, "hop_length": 160, "n_mels": 40, "center": True}  # 25 ms and 10 ms, as Kaldi
    coefficients = torchaudio.transforms.MFCC(RATE_HZ, n_mfcc=13, melkwargs=settings)(audio)
    deltas = torchaudio.functional.compute_deltas(coefficients)
    return torch.cat([coefficients, deltas, torchaudio.functional.compute_deltas(deltas)]).T


def mask_spans(frames: int, share: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """bool (frames,): spans of `length` at random starts, overlaps allowed, until at least `share` is masked."""
    mask = np.zeros(frames, bool)
    for start in rng.permutation(frames - length + 1):
        if mask.mean() < share:
            mask[start : start + length] = True
    return mask


def targets_from_mfcc(audios: Sequence[np.ndarray], k: int, seed: int, fit_seconds: float = 7200) -> list[np.ndarray]:
    """Iteration 1: int64 (T, 3) for each audio, the clusters of the MFCCs 10, 20 and 30 ms into each 40 ms frame."""
    rows = []
    for audio in audios:
        frames = len(audio) // HOP
        quarters = mfcc_100hz(as_float(audio))[: 4 * frames].reshape(frames, 4, 39)
        rows.append(quarters[:, 1:].reshape(frames * 3, 39))
    return _clusters(rows, k, seed, int(fit_seconds * 75), per_frame=3)


def targets_from_features(
    features: Sequence[np.ndarray], ks: Sequence[int], seed: int, fit_seconds: float = 5400
) -> list[np.ndarray]:
    """Later iterations: int64 (T, H) for each recording: the clusters of its features (T, D), one codebook for each k.

    Several codebooks are HuBERT's cluster ensembles (section III-C).
    """
    rows = [torch.as_tensor(f) for f in features]
    books = [_clusters(rows, k, seed, int(fit_seconds * RATE_HZ / HOP), per_frame=1) for k in ks]
    return [np.concatenate(parts, axis=1) for parts in zip(*books, strict=True)]


def _clusters(rows: list[torch.Tensor], k: int, seed: int, fit_rows: int, per_frame: int) -> list[np.ndarray]:
    """k-means on a seeded choice of `fit_rows` rows, each dimension scaled to unit variance; clusters of all rows."""
    everything = torch.cat(rows)
    chosen = np.random.default_rng(seed).permutation(len(everything))[:fit_rows]
    some = everything[np.sort(chosen)].float()
    scale = 1 / some.std(0).clamp(min=1e-6)
    quantiser = Quantiser(fit_kmeans(some * scale, k, seed))
    return [quantiser.assign(r.float() * scale).astype(np.int64).reshape(-1, per_frame) for r in rows]


def as_float(audio: np.ndarray) -> torch.Tensor:
    """Audio as float32 in [-1, 1); int16 is scaled."""
    values = torch.from_numpy(np.asarray(audio, np.float32))
    return values / 32768 if audio.dtype == np.int16 else values


class MaskedPrediction(torch.nn.Module):
    """A HubertModel with one linear head for each codebook; the loss of a batch.

    A linear head in place of HuBERT's cosine similarity to code embeddings: chosen for its simplicity, not compared.
    """

    def __init__(self, config: HubertConfig, clusters: Sequence[int]) -> None:
        super().__init__()
        self.hubert = HubertModel(config)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(config.hidden_size, k) for k in clusters)

    def forward(
        self, audio_BL: torch.Tensor, mask_BT: torch.Tensor, targets_BTH: torch.Tensor, unmasked_weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to minimise, and its part over masked frames: cross-entropy, mean over codebooks and frames."""
        hidden_BTD = self.hubert(audio_BL, mask_time_indices=mask_BT).last_hidden_state
        masked = self._loss(hidden_BTD[mask_BT], targets_BTH[mask_BT])
        if unmasked_weight == 0:
            return masked, masked.detach()
        return masked + unmasked_weight * self._loss(hidden_BTD[~mask_BT], targets_BTH[~mask_BT]), masked.detach()

    def _loss(self, hidden_ND: torch.Tensor, targets_NH: torch.Tensor) -> torch.Tensor:
        parts = zip(self.heads, targets_NH.unbind(1), strict=True)
        return torch.stack([F.cross_entropy(head(hidden_ND).float(), targets_N) for head, targets_N in parts]).mean()


class Crops:
    """The batches: that of step s is a pure function of (seed, s); each rank takes its rows of it."""

    def __init__(
        self,
        audios: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        config: HubertConfig,
        training: HubertTrainingSettings,
    ) -> None:
        assert math.prod(config.conv_stride) == HOP
        self.audios, self.targets, self.training = audios, targets, training
        self.pad = pad_samples(config)
        frames = np.asarray([len(t) for t in targets])
        self.usable = np.flatnonzero(frames >= training.crop_frames)
        assert len(self.usable), "no recording is as long as a crop"
        starts = frames[self.usable] - training.crop_frames + 1
        self.edges = np.cumsum(starts)  # every place where a crop can start is equally likely

    def batch(self, step: int, rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Audio float32 (B, L) with `pad` zeros at both ends, mask bool (B, T), targets int64 (B, T, H)."""
        t = self.training
        rng = np.random.default_rng((t.seed, step))
        places = rng.integers(self.edges[-1], size=t.batch_crops)
        masks = [mask_spans(t.crop_frames, t.mask_share, t.mask_frames, rng) for _ in places]
        audio, targets = [], []
        for place in places[rank::world]:
            number = int(np.searchsorted(self.edges, place, side="right"))
            first = int(place - (self.edges[number - 1] if number else 0))
            recording = self.usable[number]
            crop = as_float(self.audios[recording][first * HOP : (first + t.crop_frames) * HOP])
            audio.append(F.pad(crop, (self.pad, self.pad)))
            targets.append(torch.from_numpy(self.targets[recording][first : first + t.crop_frames]))
        return torch.stack(audio), torch.from_numpy(np.stack(masks[rank::world])), torch.stack(targets)


def rate_at(progress: float, training: HubertTrainingSettings) -> float:
    """Learning rate: linear warm-up, then linear to zero (HuBERT section IV-B). progress: share of the budget."""
    if progress < training.warmup_share:
        return training.peak_rate * progress / training.warmup_share
    return training.peak_rate * (1 - progress) / (1 - training.warmup_share)


def train_hubert(
    audios: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    config: HubertConfig,
    training: HubertTrainingSettings,
    out: Path,
    report: Report,
    device: str = "cpu",
    init: HubertModel | None = None,
) -> HubertModel:
    """Train one iteration and save it in `out` as a transformers checkpoint; a rerun goes on from the last checkpoint.

    audios: int16 or float32 at 16 kHz; targets: int64 (T, H) for each. init: weights to start from, where HuBERT starts
    every iteration afresh.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(training.seed)
    clusters = [int(max(t[:, h].max() for t in targets)) + 1 for h in range(targets[0].shape[1])]
    model = MaskedPrediction(config, clusters).to(device)
    if init is not None:
        model.hubert.load_state_dict(init.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=training.weight_decay, fused=True)
    step, before = _resume(out / "state.pt", model, optimiser, device)
    crops = Crops(audios, targets, config, training)
    wrapped = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    model.train()
    started, reported = time.monotonic(), step
    spent = before
    total = torch.zeros(2, device=device)
    while (progress := _progress(step, spent, training, device)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate_at(progress, training)
        batch = [part.to(device) for part in crops.batch(step, rank, world)]
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=training.bfloat16):
            loss, masked = wrapped(*batch, training.unmasked_weight)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimiser.step()
        total += torch.stack([loss.detach(), masked])
        step += 1
        spent = before + time.monotonic() - started
        if step % training.report_every == 0:
            mean_loss, mean_masked = (total / (step - reported)).tolist()
            losses = {"loss": mean_loss, "masked_loss": mean_masked, "gradient_norm": float(norm)}
            report({"step": step, "progress": progress, "seconds": spent} | losses)
            total, reported = torch.zeros_like(total), step
        if rank == 0 and step % training.checkpoint_every == 0:
            _save(out / "state.pt", step, spent, model, optimiser)
    if rank == 0:
        model.hubert.save_pretrained(out)
    return model.hubert.eval()


def _progress(step: int, seconds: float, training: HubertTrainingSettings, device: str) -> float:
    """Share of the budget that is spent, 0 to 1; rank 0 decides for all."""
    progress = torch.tensor([max(step / training.steps, seconds / training.seconds)], device=device)
    if dist.is_initialized():
        dist.broadcast(progress, 0)
    return min(1.0, float(progress))


def _resume(state: Path, model: MaskedPrediction, optimiser: torch.optim.Optimizer, device: str) -> tuple[int, float]:
    """Steps done and seconds spent according to the checkpoint, which is loaded; zeros without one."""
    if not state.is_file():
        return 0, 0.0
    saved = torch.load(state, map_location=device, weights_only=True)
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    return int(saved["step"]), float(saved["seconds"])


def _save(state: Path, step: int, seconds: float, model: MaskedPrediction, optimiser: torch.optim.Optimizer) -> None:
    """Atomically: a reader sees the last complete checkpoint or this one."""
    state.parent.mkdir(parents=True, exist_ok=True)
    temporary = state.with_suffix(".tmp")
    parts = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save({"step": step, "seconds": seconds} | parts, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, state)
