"""Weights from a local folder or from the hub, at a pinned revision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from slamray.config.base import asset_path
from slamray.errors import BadInput


def model_folder(model: str, revision: str | None, patterns: Sequence[str], key: str) -> Path:
    """The folder itself, or that of a hub id's files that match the patterns. BadInput names the recipe's key."""
    local = Path(asset_path(model))
    if local.is_dir():
        return local
    if revision is None or model.count("/") != 1:
        raise BadInput(f"{key}={model}: no such folder; a hub id has the form owner/name and needs its revision")
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client raises many kinds; each means that the model cannot be had
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{key}={model}: cannot be fetched ({reason}); give a local folder") from error
