"""The table of decoders, and the one way to load one: the keys of its config.json say which kind it is."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from pathlib import Path

from slamray.config.base import PUBLISHED, asset_path
from slamray.config.published_files import published_files
from slamray.errors import BadInput
from slamray.given import check_weights, read_mapping
from slamray.speech.decoders.base import Decoder

FILES = ("config.json", "model.safetensors")  # in the folder of every decoder


@dataclass(frozen=True)
class DecoderKind:
    """How a decoder is recognised and loaded.

    key: in its config.json, and in that of no other kind. load: `(folder, device) -> Decoder`, by name, so that nothing
    is imported before it is called.
    """

    key: str
    load: str


DECODERS = {
    "source_filter": DecoderKind("frames_per_unit", "slamray.speech.decoders.source_filter:load"),
    "hifigan": DecoderKind("upsample_rates", "slamray.speech.decoders.hifigan:load"),
}


def load_decoder(folder: Path, device: str = "cpu") -> Decoder:
    """A saved decoder of any kind, with its weights. BadInput if the folder holds none."""
    decoder: Decoder = pkgutil.resolve_name(_kind(folder, str(folder)).load)(folder, device)
    return decoder


def check_decoder(path: str, key: str) -> None:
    """BadInput, which names the recipe's `key`, if the folder holds no decoder; loads no weights.

    A published decoder that was not fetched yet is known by its name.
    """
    if path.startswith(PUBLISHED) and published_files(path, key) and not Path(asset_path(path)).exists():
        return
    _kind(Path(asset_path(path)), f"{key}={path}")


def _kind(folder: Path, named: str) -> DecoderKind:
    for name in FILES:
        if not (folder / name).is_file():
            raise BadInput(f"{named}: no {name}, so it is no vocoder's folder; check the path")
    check_weights(folder)
    config = read_mapping(folder / "config.json")
    for kind in DECODERS.values():
        if kind.key in config:
            return kind
    keys = ", ".join(f"{kind.key} ({name})" for name, kind in DECODERS.items())
    raise BadInput(f"{named}: its config.json is of no known decoder, for it has none of the keys {keys}")
