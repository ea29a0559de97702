"""HuBERT and its k-means: what is known of them before weights are loaded, and how they are opened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slamray.config.base import asset_path
from slamray.config.speech import EncoderSettings
from slamray.errors import BadInput
from slamray.speech.audio import RATE_HZ
from slamray.speech.encoders.base import KEY, EncoderFacts, read_centroids

if TYPE_CHECKING:  # torch takes seconds to import, and a check of settings needs none of it
    from slamray.speech.encoders.hubert_net import HubertFeatures
    from slamray.speech.encoders.kmeans import KMeansEncoder


def check(settings: EncoderSettings, config: Mapping[str, Any]) -> EncoderFacts:
    """Units and frame rate, by the model's config.json. BadInput for a layer that it lacks, or unfit centroids."""
    try:
        layers, width = config["num_hidden_layers"], config["hidden_size"]
        hop_samples = math.prod(config["conv_stride"])
    except KeyError as error:
        no_model = f"{KEY}.model={settings.model}: its config.json has no {error}; it is no HubertModel"
        raise BadInput(no_model) from error
    if settings.layer > layers:
        raise BadInput(f"{KEY}.layer={settings.layer}: {settings.model} has {layers} layers")
    n_units, centroids = read_centroids(settings, width)
    return EncoderFacts(n_units, RATE_HZ / hop_samples, centroids)


def open_features(settings: EncoderSettings, device: str) -> HubertFeatures:
    """The features that are quantised. BadInput when they cannot be had."""
    import torch

    from slamray.speech.encoders.hubert_net import HubertFeatures

    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    model, revision = asset_path(settings.model), settings.revision
    return HubertFeatures(model, settings.layer, device, dtype, settings.pad_samples, revision)


def open_encoder(settings: EncoderSettings, device: str) -> KMeansEncoder:
    """Features and their k-means. BadInput when either cannot be had."""
    from slamray.speech.encoders.kmeans import KMeansEncoder, open_quantiser

    return KMeansEncoder(open_features(settings, device), open_quantiser(settings, device))
