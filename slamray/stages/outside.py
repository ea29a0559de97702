"""What comes from outside the run (models, centroids): who it is, by content, and what it says of itself.

Read before any stage runs, so it loads no weights: a config and the header of a file are enough.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from slamray.config.base import SHAPE, asset_path, identity
from slamray.config.model import ModelSettings
from slamray.config.speech import DEFAULT_VOICE, EncoderSettings, SpeechSettings, TtsSettings
from slamray.errors import BadInput
from slamray.speech.hub import model_folder
from slamray.stage import store
from slamray.tokens.vocabulary import Vocabulary

CENTROIDS = "centroids_KD"
AUDIO_RATE_HZ = 16_000


@dataclass(frozen=True)
class EncoderFacts:
    """What the stages after it need to know of an encoder and its k-means."""

    n_units: int
    rate_hz: float  # frames per second
    centroids: str  # SHA-256 of the matrix: a unit is a centroid, so this is who the units are

    @property
    def vocabulary(self) -> Vocabulary:
        """The unit-only vocabulary of this encoder's units."""
        return Vocabulary.of_units(self.n_units, self.centroids)


def content_of(path: str, revision: str | None, key: str) -> dict[str, str]:
    """Identity of a model: a local folder by checksum, a hub id by its pinned revision."""
    local = Path(asset_path(path))
    if local.is_dir():
        return {"sha256": store.checksum_folder(local)}
    _require_hub_id(path, revision, key)
    return {"hub": path, "revision": str(revision)}


def model_identity(config: ModelSettings) -> dict[str, Any]:
    """Identity of the text LM and of what is made of it; of a shape, all its numbers."""
    tree = identity(config)
    if config.base.startswith(SHAPE):
        if config.twist:
            raise BadInput(f"model.base={config.base}: a shape has no weights to start from; say model.twist=false")
        from slamray.model.unit_lm import shape_config  # a second that other bases do not need

        shape = shape_config(config.base).to_dict()
        del shape["transformers_version"]
        return tree | {"base": shape}
    return {k: v for k, v in tree.items() if k not in ("base", "revision")} | {
        "base": content_of(config.base, config.revision, "model.base")
    }


def speech_identity(config: SpeechSettings) -> dict[str, Any]:
    """Identity of all that turns text into units; the size of shards is part of it, for files are compared whole."""
    return {
        "tts": tts_identity(config.tts),
        "encoder": encoder_identity(config.encoder),
        "shard_documents": config.shard_documents,
    }


def encoder_identity(config: EncoderSettings) -> dict[str, Any]:
    """Identity of what hears: weights and centroids by content."""
    kept = {k: v for k, v in identity(config).items() if k not in ("model", "revision", "centroids")}
    model = content_of(config.model, config.revision, "speech.encoder.model")
    return kept | {"model": model, "centroids": store.sha256_of(_centroids(config))}


def tts_identity(config: TtsSettings) -> dict[str, Any]:
    """Identity of the voice that speaks: its back end alone, so that another's settings change nothing."""
    tree: dict[str, Any] = {"backend": config.backend, "seed": config.seed}
    if config.backend == "kokoro":
        tree["model"] = content_of(config.kokoro.model, config.kokoro.revision, "speech.tts.kokoro.model")
        tree["voice"] = config.kokoro.voice
    elif config.backend == "fastspeech2":
        model = config.fastspeech2
        tree["model"] = content_of(model.model, model.revision, "speech.tts.fastspeech2.model")
    return tree


def check_voices(config: TtsSettings, voices: Sequence[str]) -> None:
    """BadInput when the back end has no such voices; of a hub id their names alone can be checked here."""
    if config.backend != "kokoro":
        if tuple(voices) != (DEFAULT_VOICE,):
            raise BadInput(f"preferences.voices: {config.backend} has one voice; leave it at [{DEFAULT_VOICE}]")
        return
    folder = Path(asset_path(config.kokoro.model))
    keys = [("speech.tts.kokoro.voice", config.kokoro.voice)]
    for key, voice in keys + [("preferences.voices", voice) for voice in voices if voice != DEFAULT_VOICE]:
        if not re.fullmatch("[ab][fm]_[a-z]+", voice):
            raise BadInput(f"{key}: {voice} is no English voice of Kokoro; they are called like af_heart, bm_george")
        if folder.is_dir() and not (folder / "voices" / f"{voice}.pt").is_file():
            raise BadInput(f"{key}: {config.kokoro.model} has no voices/{voice}.pt")


def check_encoder(config: EncoderSettings) -> EncoderFacts:
    """Units and frame rate; BadInput for a folder without weights, a layer it lacks, centroids of another width."""
    key = "speech.encoder.model"
    local = Path(asset_path(config.model))
    if local.is_dir():
        if not (local / "config.json").is_file() or not list(local.glob("*.safetensors")) + list(local.glob("*.bin")):
            raise BadInput(f"{key}={config.model}: the folder lacks config.json or weights (model.safetensors)")
        tree = store.read_json(local / "config.json")
    else:
        _require_hub_id(config.model, config.revision, key)
        tree = _hub_config(config.model, str(config.revision), key)
    try:
        layers, width = tree["num_hidden_layers"], tree["hidden_size"]
        hop_samples = math.prod(tree["conv_stride"])
    except KeyError as error:
        raise BadInput(f"{key}={config.model}: its config.json has no {error}; it is no HubertModel") from error
    if config.layer > layers:
        raise BadInput(f"speech.encoder.layer={config.layer}: {config.model} has {layers} layers")
    path = _centroids(config)
    try:
        with safe_open(path, "np") as file:
            n_units, found = file.get_slice(CENTROIDS).get_shape()
            checksum = (file.metadata() or {}).get("sha256")
    except (SafetensorError, ValueError) as error:
        raise BadInput(f"speech.encoder.centroids={config.centroids}: no matrix {CENTROIDS} ({error})") from error
    if found != width:
        raise BadInput(f"speech.encoder.centroids={config.centroids}: {found} wide, but {config.model} gives {width}")
    return EncoderFacts(n_units, AUDIO_RATE_HZ / hop_samples, checksum or _checksum_of(path))


def _checksum_of(path: Path) -> str:
    """The checksum of centroids whose file does not say it."""
    from slamray.speech.encoders.kmeans import checksum, load_centroids  # torch, which other files do not need

    return checksum(load_centroids(path))


def _centroids(config: EncoderSettings) -> Path:
    path = Path(asset_path(config.centroids))
    if not path.is_file():
        raise BadInput(f"speech.encoder.centroids={config.centroids}: no such file")
    return path


def _require_hub_id(path: str, revision: str | None, key: str) -> None:
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise BadInput(f"{key}={path}: no such folder, and no hub id of the form owner/name")
    if revision is None:
        raise BadInput(f"{key}={path}: pin a hub id with its revision (a commit), or the name could change its meaning")


def _hub_config(name: str, revision: str, key: str) -> dict[str, Any]:
    path = model_folder(name, revision, ["config.json"], key) / "config.json"
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree
