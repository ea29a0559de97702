"""What every group of settings has in common, and how it enters a stage's identity.

A field is identity unless it is marked where it is declared:

    execution(...)           says where and how fast, or when to refuse: never part of an identity
    Annotated[..., Content]  names something outside the run, which enters by its content
    Annotated[..., Chosen]   a group that counts only where another field chooses it
    Annotated[..., Within]   part of what a Content field names, such as a model's revision
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

ASSETS = "assets:"  # prefix of a path inside slamray/assets/, so that recipes name no place on one machine
SHAPE = "shape:"  # prefix of a shape in model/families.py, in place of a text LM: to be trained from nothing
PUBLISHED = "published:"  # prefix of a file of config/published_files.py, which is fetched by its address and converted
UNKNOWN = "not known yet"  # in an identity that something outside belongs to which has not been fetched
_EXECUTION: Any = {"execution": True}
Mark = TypeVar("Mark")
Part = TypeVar("Part", bound="Settings")


class Settings(BaseModel):
    """Frozen; a misspelt key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def execution(default: Any, **field: Any) -> Any:
    """A field that changes no result: pydantic's Field with the mark."""
    return Field(default, json_schema_extra=_EXECUTION, **field)


@dataclass(frozen=True)
class Content:
    """The field names something outside the run; `of(settings, key)` is what it enters an identity by.

    key: the dotted key of the field, for messages.
    """

    of: Callable[[Any, str], Any]
    key: str


@dataclass(frozen=True)
class Chosen:
    """The field is a group of settings that counts only where the field `by`, beside it, has its name."""

    by: str


@dataclass(frozen=True)
class Within:
    """The field says more about what a Content field names, and enters by that one's content."""


@dataclass(frozen=True)
class Located:
    """Something outside the run: who it is, and where it is at present, which is no part of its identity.

    content: BadInput where it is not there; a function, as finding out may take long or not be possible yet.
    """

    content: Callable[[], Any]
    place: Any


def part_of(settings: Settings, kind: type[Part]) -> Part:
    """The fields of `kind` alone, of settings that have these and more."""
    return kind(**{name: getattr(settings, name) for name in kind.model_fields})


def is_execution(field: FieldInfo) -> bool:
    """Whether a field is marked as execution."""
    return field.json_schema_extra == _EXECUTION


def identity(value: Any) -> Any:
    """Settings, a record, or a value made of them, as plain JSON values: everything but what is marked.

    Raises BadInput where something outside the run that a field names is not there.
    """
    if isinstance(value, Settings):
        fields = type(value).model_fields
        return {name: _enters(value, name, field) for name, field in fields.items() if counts(value, name, field)}
    if isinstance(value, Located):
        return value.content()
    if is_dataclass(value) and not isinstance(value, type):
        return identity(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): identity(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [identity(one) for one in value]
    assert value is None or isinstance(value, str | int | float | bool), f"{value!r} is no value of an identity"
    return value


def counts(settings: Settings, name: str, field: FieldInfo) -> bool:
    """Whether a field enters the identity of these settings by its own value."""
    chosen = mark_of(field, Chosen)
    unchosen = chosen is not None and getattr(settings, chosen.by) != name
    return not (is_execution(field) or unchosen or mark_of(field, Within))


def _enters(settings: Settings, name: str, field: FieldInfo) -> Any:
    content = mark_of(field, Content)
    return content.of(settings, content.key) if content else identity(getattr(settings, name))


def mark_of(field: FieldInfo, kind: type[Mark]) -> Mark | None:
    """The mark of this kind that a field was declared with, if any."""
    return next((mark for mark in field.metadata if isinstance(mark, kind)), None)


def asset_path(path: str) -> str:
    """Where a path of a recipe lies on this machine.

    `assets:x` is the file or folder x shipped with the package, `published:x` what was fetched and converted under that
    name, below SLAMRAY_CACHE; `~` at its start is the home, as a shell knows it; every other path stands for itself.
    """
    if path.startswith(PUBLISHED):
        return str(cache_folder() / path.removeprefix(PUBLISHED))
    if not path.startswith(ASSETS):
        return home_path(path)
    return str(resources.files("slamray") / "assets" / path.removeprefix(ASSETS))


def home_path(path: str) -> str:
    """The path with `~` or `~name` at its start as that home. ValueError where there is no such home."""
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError(f"no home is known of {path.partition('/')[0]}; give the whole path") from error


def absolute(place: str) -> str:
    """A folder by its whole path; an address of an object store as it is. ValueError for none."""
    if not place.strip():
        raise ValueError(
            "names no folder; is the variable set that it comes from? give a folder, as in root=/data/runs"
        )
    if "://" in place and not place.startswith("file://"):
        return place.rstrip("/")
    return str(Path(home_path(place.removeprefix("file://"))).resolve())


def cache_folder() -> Path:
    """Where published files are kept; one for all runs of a machine, as the hub's cache is (HF_HOME)."""
    return Path(os.environ.get("SLAMRAY_CACHE") or "~/.cache/slamray").expanduser()
