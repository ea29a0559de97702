"""The table of encoders, and the one way to open one: its kind is the `model_type` of the model's config.json."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slamray.config.base import asset_path
from slamray.config.outside import is_hub_id, require_hub_id
from slamray.config.speech import EncoderSettings
from slamray.errors import BadInput
from slamray.given import check_weights, files_below, read_mapping
from slamray.speech.encoders.base import KEY, Encoder, EncoderFacts, Features
from slamray.speech.hub_models import cached_file, model_folder


@dataclass(frozen=True)
class EncoderKind:
    """How an encoder is checked and opened. Functions go by name, so that nothing is imported before they are called.

    check: `(EncoderSettings, config.json) -> EncoderFacts`. BadInput when the settings do not fit; loads no weights.
    encoder: `(EncoderSettings, device) -> Encoder`. features: the same for Features, where units come of a k-means.
    """

    check: str
    encoder: str
    features: str = ""


ENCODERS = {
    "hubert": EncoderKind(
        check="slamray.speech.encoders.hubert:check",
        encoder="slamray.speech.encoders.hubert:open_encoder",
        features="slamray.speech.encoders.hubert:open_features",
    ),
}


# What check_encoder needs, so that a run is planned before anything is fetched (docs/paper.md 1.2; a HuBERT base).
KNOWN_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "slprl/mhubert-base-25hz": {
        "model_type": "hubert",
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],  # whose product is the hop of 640 samples
    }
}


def check_encoder(settings: EncoderSettings) -> EncoderFacts:
    """Units and frame rate. BadInput for whatever can be known to be wrong before weights are loaded."""
    config = _config(settings)
    facts: EncoderFacts = pkgutil.resolve_name(_kind(settings, config).check)(settings, config)
    return facts


def open_encoder(settings: EncoderSettings, device: str) -> Encoder:
    """Audio to units, with its weights. BadInput when these cannot be had."""
    encoder: Encoder = pkgutil.resolve_name(_kind(settings, _config(settings)).encoder)(settings, device)
    return encoder


def open_features(settings: EncoderSettings, device: str) -> Features:
    """Audio to the features that are quantised; the centroids are not read. BadInput when weights cannot be had."""
    name = _kind(settings, _config(settings)).features
    assert name, f"{settings.model} gives units alone"
    features: Features = pkgutil.resolve_name(name)(settings, device)
    return features


def _kind(settings: EncoderSettings, config: Mapping[str, Any]) -> EncoderKind:
    found = config.get("model_type")
    if found not in ENCODERS:
        raise BadInput(
            f"{KEY}.model={settings.model}: its config.json says model_type={found}; known are {' '.join(ENCODERS)}"
        )
    local = Path(asset_path(settings.model))
    if local.is_dir():
        check_weights(local)
    return ENCODERS[found]


def _config(settings: EncoderSettings) -> Mapping[str, Any]:
    """The model's config.json: from the folder, from the hub's cache, or as it is known."""
    key, folder = f"{KEY}.model", Path(asset_path(settings.model))
    if not folder.is_dir():
        if not is_hub_id(settings.model):
            require_hub_id(settings.model, settings.revision, key)
        found = cached_file(settings.model, settings.revision, "config.json") if settings.revision else None
        if found is None and settings.model in KNOWN_CONFIGS:
            return KNOWN_CONFIGS[settings.model]
        folder = found.parent if found else model_folder(settings.model, settings.revision, ["config.json"], key)
    elif not (folder / "config.json").is_file() or not files_below(folder, (".safetensors", ".bin")):
        raise BadInput(f"{key}={settings.model}: the folder lacks config.json or weights (model.safetensors)")
    return read_mapping(folder / "config.json")
