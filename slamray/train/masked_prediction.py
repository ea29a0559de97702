"""Train a HuBERT: masked prediction of k-means clusters (Hsu et al. 2021), first of MFCCs, then of the last iteration.

One iteration is `cluster_targets.targets_from_mfcc` or `targets_from_features`, then `train_hubert`.

Shapes: B crops, L samples of a crop, T frames, H codebooks (targets of one frame), D features, N frames of all crops.
Frame i covers samples [i, i + 1) x HOP: `pad_samples` zeros on both sides centre its receptive field there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import HubertConfig, HubertModel

from slamray.config.assets import HubertTrainingSettings, check_crops
from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.speech.encoders.hubert_net import receptive_field
from slamray.stage.folder import Root
from slamray.stage.work import Metrics, Report
from slamray.tokens.sampler import sample_hash
from slamray.train.cluster_targets import HOP, as_float
from slamray.train.loop import Run, Step, train
from slamray.train.objective import cluster_loss
from slamray.train.ranks import rank_and_world
from slamray.train.replicated import Replicated

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


def mask_spans(frames: int, share: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """bool (frames,): spans of `length` at random starts, overlaps allowed, until at least `share` is masked."""
    mask = np.zeros(frames, bool)
    for start in rng.permutation(frames - length + 1):
        if mask.mean() < share:
            mask[start : start + length] = True
    return mask


@dataclass(frozen=True)
class CropBatch:
    """One rank's crops of a step, and the counts of frames of the whole batch, which its losses are divided by."""

    audio_BL: torch.Tensor  # float32, with `pad_samples` zeros at both ends
    mask_BT: torch.Tensor  # bool
    targets_BTH: torch.Tensor  # int64
    masked_frames: int
    unmasked_frames: int
    samples: int = 0  # hash of this rank's crops

    def to(self, device: str) -> CropBatch:
        """The same with its tensors on a device."""
        tensors = {name: getattr(self, name).to(device) for name in ("audio_BL", "mask_BT", "targets_BTH")}
        return replace(self, **tensors)


class MaskedPrediction(torch.nn.Module):
    """A HubertModel with one linear head for each codebook; the loss of a batch.

    A linear head in place of HuBERT's cosine similarity to code embeddings: chosen for its simplicity, not compared.
    """

    def __init__(self, config: HubertConfig, clusters: Sequence[int]) -> None:
        super().__init__()
        self.hubert = HubertModel(config)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(config.hidden_size, k) for k in clusters)

    def forward(self, batch: CropBatch, unmasked_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to minimise, and its part over masked frames: this rank's parts of those of the whole batch."""
        hidden_BTD = self.hubert(batch.audio_BL, mask_time_indices=batch.mask_BT).last_hidden_state
        mask_BT, targets_BTH = batch.mask_BT, batch.targets_BTH
        masked = self._loss(hidden_BTD[mask_BT], targets_BTH[mask_BT], batch.masked_frames)
        if unmasked_weight == 0:
            return masked, masked.detach()
        unmasked = self._loss(hidden_BTD[~mask_BT], targets_BTH[~mask_BT], batch.unmasked_frames)
        return masked + unmasked_weight * unmasked, masked.detach()

    def _loss(self, hidden_ND: torch.Tensor, targets_NH: torch.Tensor, frames: int) -> torch.Tensor:
        return cluster_loss([head(hidden_ND) for head in self.heads], targets_NH.unbind(1), frames)


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

    def batch(self, step: int, rank: int, world: int) -> CropBatch:
        """The crops of a rank: every `world`-th of the batch."""
        t = self.training
        rng = np.random.default_rng((t.seed, step))
        places = rng.integers(self.edges[-1], size=t.batch_crops)
        mask_BT = np.stack([mask_spans(t.crop_frames, t.mask_share, t.mask_frames, rng) for _ in places])
        audio, targets = [], []
        for place in places[rank::world]:
            number = int(np.searchsorted(self.edges, place, side="right"))
            first = int(place - (self.edges[number - 1] if number else 0))
            recording = self.usable[number]
            crop = as_float(self.audios[recording][first * HOP : (first + t.crop_frames) * HOP])
            audio.append(F.pad(crop, (self.pad, self.pad)))
            targets.append(torch.from_numpy(self.targets[recording][first : first + t.crop_frames]))
        masked = int(mask_BT.sum())
        return CropBatch(
            torch.stack(audio),
            torch.from_numpy(mask_BT[rank::world]),
            torch.stack(targets),
            masked,
            mask_BT.size - masked,
            sample_hash(step, places[rank::world]),
        )


def rate_at(progress: float, training: HubertTrainingSettings) -> float:
    """Learning rate: linear warm-up, then linear to zero (HuBERT section IV-B). progress: share of the budget."""
    if progress < training.warmup_share:
        return training.peak_rate * progress / training.warmup_share
    return training.peak_rate * (1 - progress) / (1 - training.warmup_share)


class HubertTraining(Replicated):
    """The trainable: one iteration of masked prediction."""

    def __init__(self, model: MaskedPrediction, crops: Crops, compute: Compute) -> None:
        super().__init__(compute)
        self.model, self.crops, self.training = model.train(), crops, crops.training
        decay = self.training.weight_decay
        optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=decay, fused=True)
        self.add_network("model", model, optimiser)

    def step(self, number: int, progress: float) -> Step:
        """One update on the crops of step `number`."""
        rate = rate_at(progress, self.training)
        self.optimisers["model"].param_groups[0]["lr"] = rate
        batch = self.crops.batch(number, self.rank, self.world).to(self.compute.device)
        with self.autocast():
            loss, masked = self.model(batch, self.training.unmasked_weight)
        norm = self.update("model", loss, self.training.clip_norm)
        losses = {"loss": loss.item(), "masked_loss": masked.item()}
        return Step(losses, {"learning_rate": rate, "gradient_norm": norm}, batch.samples)


def train_hubert(
    audios: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    config: HubertConfig,
    training: HubertTrainingSettings,
    compute: Compute,
    out: Root,
    report: Report,
    init: HubertModel | None = None,
) -> Metrics:
    """Train one iteration and leave `out/model`, in transformers' format, and `out/history.json`; returns facts.

    audios: int16 or float32 at 16 kHz; targets: int64 (T, H) for each. init: weights to start from, where HuBERT starts
    every iteration afresh. Every rank calls this; a restart goes on from the newest checkpoint (see loop.Run).
    """
    check_crops(training.batch_crops, rank_and_world()[1], "assets.encoder: batch_crops")
    run = Run(parse_budget(training.budget, "assets.encoder: budget"), compute, out, report, counts_tokens=False)
    clusters = [int(max(t[:, h].max() for t in targets)) + 1 for h in range(targets[0].shape[1])]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = MaskedPrediction(config, clusters)
    if init is not None:
        model.hubert.load_state_dict(init.state_dict())
    crops = Crops(audios, targets, config, training)
    train(HubertTraining(model.to(compute.device), crops, compute), run)
    if run.rank == 0:
        run.out.write_tree("model", model.hubert.save_pretrained)
    return run.finish()
