"""Weights of models from a local folder, or from the hub at a commit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from huggingface_hub import snapshot_download, try_to_load_from_cache

from slamray.config.base import asset_path
from slamray.config.hub import not_at_hand
from slamray.config.outside import require_hub_id
from slamray.errors import BadInput
from slamray.given import check_weights

MODEL_FILES = ("*.json", "*.txt", "*.safetensors")
PICKLES = ("*.bin", "*.pth", "voices/*.pt")  # transformers reads them as tensors alone


def model_folder(model: str, revision: str | None, patterns: Sequence[str], key: str) -> Path:
    """The folder itself, or that of a hub id's files that match the patterns. BadInput names the recipe's key."""
    local = Path(asset_path(model))
    if local.is_dir():
        check_weights(local)
        return local
    require_hub_id(model, revision, key)
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client raises many kinds; each means that the model cannot be had
        raise not_at_hand(key, model, revision, error) from error


@lru_cache(maxsize=64)  # the members of a study name the same models
def fetch_model(model: str, revision: str | None, key: str) -> None:
    """Fetch a hub id's configuration, tokeniser and weights; these as pickles where there is no safetensors."""
    if cached_file(model, revision, "model.safetensors"):
        return  # the hub need not be asked
    folder = model_folder(model, revision, MODEL_FILES, key)
    if not [*folder.glob("*.safetensors")]:
        folder = model_folder(model, revision, (*MODEL_FILES, *PICKLES), key)
        if not [found for pattern in PICKLES for found in folder.glob(pattern)]:
            at = f"{model} --revision {revision}"
            raise BadInput(
                f"{key}={model}: {folder} lacks its weights; run `hf download {at}` where there is a network"
            )


def cached_file(model: str, revision: str | None, name: str) -> Path | None:
    """A file of a hub id as an earlier download left it; the hub is not asked."""
    found = try_to_load_from_cache(model, name, revision=revision)
    return Path(found) if isinstance(found, str) else None
