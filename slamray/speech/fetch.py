"""Published models that are on no hub: fetched by address, compared with their checksum, converted, and kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from slamray import store
from slamray.config.base import PUBLISHED, asset_path, cache_folder
from slamray.config.hub import NotAtHand
from slamray.config.published_files import PublishedFile, PublishedModel, published_files
from slamray.errors import BadInput

DOWNLOADS = "downloads"  # in the cache's folder: the files as they are published


def fetch_published(path: str, key: str) -> Path:
    """Where the converted model of `published:NAME` lies; it is fetched and converted if it is not there yet.

    BadInput says which file to bring, and where to put it, when the address cannot be reached.
    """
    target = Path(asset_path(path))
    if not target.exists():
        model = published_files(path, key)
        downloads = cache_folder() / DOWNLOADS
        try:
            sources = [fetch_file(file, downloads, key) for file in model.files]
        except NotAtHand as error:
            addresses = ", ".join(file.address for file in model.files)
            raise NotAtHand(key, error.__cause__ or error, addresses, downloads) from error
        _convert(model, sources, target)
    return target


def place_of(path: str, key: str) -> Path:
    """Where a recipe's path lies on this machine; a published model is fetched if another machine planned it."""
    return fetch_published(path, key) if path.startswith(PUBLISHED) else Path(asset_path(path))


def fetch_file(file: PublishedFile, folder: Path, key: str) -> Path:
    """The file in this folder, from there or from its address; BadInput when neither has it with its checksum."""
    from torch.hub import download_url_to_file  # writes whole files, and compares their SHA-256

    path = folder / file.name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            download_url_to_file(file.address, str(path), hash_prefix=file.sha256, progress=False)
        except (OSError, RuntimeError) as error:
            raise NotAtHand(key, error, file.address, folder) from error
    found = store.sha256_of(path)
    if found != file.sha256:
        raise BadInput(f"{key}: {path} has the SHA-256 {found}, and {file.sha256} is published; remove it")
    return path


def _convert(model: PublishedModel, sources: list[Path], target: Path) -> None:
    """Pickles to safetensors, nothing in them executed; the target appears whole."""
    partial = target.with_name(f".{os.getpid()}.{target.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if model.kind == "centroids":
        from slamray.speech.encoders.centroids import convert_joblib, save_centroids

        save_centroids(partial, convert_joblib(sources[0]), "", model.layer)
    else:
        from slamray.speech.decoders.hifigan import convert_published

        weights, config = sources
        convert_published(weights, config, partial)
    try:
        os.replace(partial, target)
    except OSError:  # another process was quicker, and a folder that is not empty cannot be replaced
        if not target.exists():
            raise
        shutil.rmtree(partial, ignore_errors=True)
