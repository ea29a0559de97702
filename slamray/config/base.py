"""What every group of settings has in common, and who it is: its identity in a stage's fingerprint."""

from __future__ import annotations

from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict

ASSETS = "assets:"  # prefix of a path inside slamray/assets/, so that recipes name no place on one machine
SHAPE = "shape:"  # prefix of a shape in families.py, in place of a text LM: to be trained from nothing


class Settings(BaseModel):
    """Frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def identity(config: BaseModel) -> dict[str, Any]:
    """A config as plain JSON values, for a stage's fingerprint."""
    return config.model_dump(mode="json")


def asset_path(path: str) -> str:
    """`assets:x` is the file or folder x shipped with the package; every other path stands for itself."""
    if not path.startswith(ASSETS):
        return path
    return str(resources.files("slamray") / "assets" / path.removeprefix(ASSETS))
