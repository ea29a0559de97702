"""Features of one layer of any transformers HubertModel, the same whatever else is in the batch.

Shapes: B recordings of a batch, L samples, T frames, C channels, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import HubertConfig, HubertModel

from slamray.errors import BadInput
from slamray.given import check_weights, reason_of
from slamray.speech.audio import RATE_HZ, cut_windows
from slamray.speech.encoders.base import KEY

WINDOW_SECONDS = 60.0  # longer audio is cut, as attention grows with the square of the length; chosen, not tuned
OVERLAP_SECONDS = 4.0  # neighbouring windows share it; every frame has at least half of it as context; chosen


def receptive_field(config: HubertConfig) -> int:
    """Samples that one frame of the convolutions sees."""
    field, stride = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return field


class HubertFeatures:
    """Audio to the features of one layer: `hidden_states[layer]` of the model run on the recording alone.

    model: folder, or hub id whose commit is `revision`. layer: 1 to the model's number of layers.
    pad_samples: zeros on both sides of a recording before the convolutions: 40 for slprl/mhubert-base-25hz
    (slamkit hubert_feature_extractor.py:42), `train.masked_prediction.pad_samples(config)` for a model trained here.
    The attributes are those of Features (base.py).
    """

    def __init__(
        self,
        model: str | Path,
        layer: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        pad_samples: int = 0,
        revision: str | None = None,
    ) -> None:
        config = _load_config(model, revision)
        layers = config.num_hidden_layers
        if not 1 <= layer <= layers:
            raise BadInput(f"{KEY}.layer: {model} has layers 1 to {layers}, not {layer}")
        self._model: Any = _load_model(model, revision, config).to(device, dtype).eval()
        self._model.encoder.layers = self._model.encoder.layers[:layer]
        if config.do_stable_layer_norm:  # the norm that follows the last layer is no part of hidden_states
            self._model.encoder.layer_norm = torch.nn.Identity()
        self._device, self._dtype, self._pad = device, dtype, pad_samples
        self.config = config
        self.hop_samples = math.prod(config.conv_stride)
        self.min_samples = receptive_field(config) - 2 * pad_samples
        self.rate_hz = RATE_HZ / self.hop_samples
        self.width = config.hidden_size
        self._overlap = int(OVERLAP_SECONDS * self.rate_hz) // 2 * 2 * self.hop_samples
        self._window = int(WINDOW_SECONDS * self.rate_hz) * self.hop_samples

    def __call__(self, audios: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features float32 (T, D) of each recording; audio float32 at 16 kHz.

        BadInput for audio shorter than one frame. All the recordings form one batch: the caller bounds its size.
        """
        windows = [cut_windows(len(audio), self._window, self._overlap) for audio in audios]
        pieces = [audio[a:b] for audio, cuts in zip(audios, windows, strict=True) for a, b in cuts]
        feats = iter(self._encode(pieces))
        return [self._join([next(feats) for _ in cuts], cuts) for cuts in windows]

    def _join(self, feats: list[np.ndarray], windows: list[tuple[int, int]]) -> np.ndarray:
        """The features of all windows; in an overlap a frame comes from the window whose edge is further away."""
        if len(feats) == 1:
            return feats[0]
        parts, taken = [], 0
        for number, (feats_TD, (start, _)) in enumerate(zip(feats, windows, strict=True)):
            first = start // self.hop_samples
            last = first + len(feats_TD)
            if number + 1 < len(feats):
                following = windows[number + 1][0] // self.hop_samples
                last = (following + last) // 2
            parts.append(feats_TD[taken - first : last - first])
            taken = last
        return np.concatenate(parts)

    @torch.inference_mode()
    def _encode(self, pieces: list[np.ndarray]) -> list[np.ndarray]:
        """One forward pass over all the pieces, padded to the longest."""
        lengths = [len(piece) + 2 * self._pad for piece in pieces]
        frames = [int(self._model._get_feat_extract_output_lengths(length)) for length in lengths]
        if min(frames) < 1:
            raise BadInput(f"audio of {min(map(len, pieces))} samples is shorter than one frame; leave it out")
        audio_BL = torch.zeros(len(pieces), max(lengths))
        for row, piece in zip(audio_BL, pieces, strict=True):
            row[self._pad : self._pad + len(piece)] = torch.from_numpy(piece)
        audio_BL = audio_BL.to(self._device, self._dtype)
        feats_BCT = self._convolve(audio_BL, lengths)
        hidden_BTD = self._model.feature_projection(feats_BCT.transpose(1, 2))
        mask_BT = None
        if len(set(frames)) > 1:
            mask_BT = (torch.arange(hidden_BTD.shape[1]) < torch.tensor(frames)[:, None]).to(self._device)
        out_BTD = self._model.encoder(hidden_BTD, attention_mask=mask_BT).last_hidden_state.float().cpu()
        return [out[:count].numpy() for out, count in zip(out_BTD, frames, strict=True)]

    def _convolve(self, audio_BL: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """The convolutions. HuBERT base normalises the first one's channels over time, here over valid frames."""
        first, *others = self._model.feature_extractor.conv_layers
        x_BCT = audio_BL[:, None]
        if self.config.feat_extract_norm == "group":
            kernel, step = self.config.conv_kernel[0], self.config.conv_stride[0]
            frames = [(length - kernel) // step + 1 for length in lengths]
            x_BCT = first.activation(masked_group_norm(first.conv(x_BCT), frames, first.layer_norm))
        else:
            x_BCT = first(x_BCT)
        for layer in others:
            x_BCT = layer(x_BCT)
        return x_BCT


def masked_group_norm(x_BCT: torch.Tensor, frames: Sequence[int], norm: torch.nn.GroupNorm) -> torch.Tensor:
    """Group norm with one channel to a group, its mean and variance over the first `frames` frames of each row."""
    assert norm.num_groups == norm.num_channels == x_BCT.shape[1]
    out = torch.zeros_like(x_BCT)
    for row, count in enumerate(frames):
        out[row : row + 1, :, :count] = F.group_norm(
            x_BCT[row : row + 1, :, :count], norm.num_groups, norm.weight, norm.bias, norm.eps
        )
    return out


def _load_config(model: str | Path, revision: str | None) -> HubertConfig:
    folder = Path(model)
    if not folder.is_dir() and revision is None and (isinstance(model, Path) or model.count("/") != 1):
        raise BadInput(f"{KEY}.model: {model} is neither a folder nor a hub id (owner/name)")
    if not folder.is_dir() and revision is None:
        raise BadInput(f"{KEY}.revision: pin the commit of {model}, so that the same recipe gives the same units")
    try:
        found, _ = HubertConfig.get_config_dict(model, revision=revision or "main")
    except Exception as error:  # transformers raises many kinds over a file that is not as it expects
        raise BadInput(f"{KEY}.model: no HuBERT configuration in {model} ({reason_of(error)})") from error
    if "model_type" not in found:
        raise BadInput(f"{KEY}.model: no HuBERT configuration in {model}; give a folder with config.json")
    if found["model_type"] != "hubert":
        raise BadInput(f"{KEY}.model: {model} is of type {found['model_type']!r}, not a HubertModel")
    return HubertConfig.from_dict(found)


def _load_model(model: str | Path, revision: str | None, config: HubertConfig) -> Any:
    try:
        loaded: Any = HubertModel.from_pretrained(
            model, revision=revision or "main", config=config, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # as above, and its readers of weights
        if Path(model).is_dir():
            check_weights(Path(model))
        raise BadInput(f"{KEY}.model: cannot load the weights of {model} ({reason_of(error)})") from error
    found, facts = loaded
    missing = sorted(facts["missing_keys"])
    if missing:
        raise BadInput(f"{KEY}.model: {model} lacks {len(missing)} weights of a HubertModel, {missing[0]} among them")
    return found
