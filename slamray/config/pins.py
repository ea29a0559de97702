"""Names of things outside the run, and commits of those on the hub: asked for once, and kept in {root}/pins.json.

A name on the hub can change its meaning, and a commit cannot. So the recipe that runs has a commit for each name: its
own where it says one, else the one that the first run under this root was told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from slamray.config.base import Content, Settings, counts, mark_of
from slamray.config.hub import HubData, hub_data
from slamray.config.outside import ModelContent, is_hub_id

PINS = "pins.json"

Kind = TypeVar("Kind", bound=Settings)


@dataclass(frozen=True)
class Named:
    """Something outside that settings name. key: of the field; revision: of a model, where it has one."""

    key: str
    path: str
    revision: str | None = None
    is_model: bool = False

    @property
    def unpinned(self) -> str | None:
        """`models/owner/name` or `datasets/owner/name[@branch]`, as its commit is kept under, where it has none."""
        data = hub_data(self.path)
        if data is not None and not data.is_pinned:
            return f"datasets/{data.name}" + (f"@{data.revision}" if data.revision else "")
        if self.is_model and self.revision is None and is_hub_id(self.path):
            return f"models/{self.path}"
        return None


def named(settings: Settings, prefix: str) -> Iterator[Named]:
    """Everything outside that the settings name, groups that are not chosen apart. prefix: of unmarked fields."""
    for name, field in type(settings).model_fields.items():
        if counts(settings, name, field):
            value, mark = getattr(settings, name), mark_of(field, Content)
            if isinstance(value, Settings):
                yield from named(value, f"{prefix}{name}.")
                continue
            key = mark.key if mark else f"{prefix}{name}"
            revision = getattr(settings, mark.revision) if isinstance(mark, ModelContent) else None
            for path in value if isinstance(value, tuple) else (value,):
                if isinstance(path, str) and (mark or hub_data(path)):
                    yield Named(key, path, revision, isinstance(mark, ModelContent))


def pin(settings: Kind, commit_of: Callable[[str], str | None]) -> Kind:
    """The same settings with a commit for each name that had none, where one is known. commit_of: by Named.unpinned."""
    changes: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        if counts(settings, name, field):
            value, model = getattr(settings, name), mark_of(field, ModelContent)
            if isinstance(value, Settings):
                changes[name] = pin(value, commit_of)
            elif model:
                wanted = Named("", value, getattr(settings, model.revision), is_model=True).unpinned
                if wanted:
                    changes[model.revision] = commit_of(wanted)
            elif isinstance(value, str):
                changes[name] = _pin_path(value, commit_of)
            elif isinstance(value, tuple) and all(isinstance(one, str) for one in value):
                changes[name] = tuple(_pin_path(one, commit_of) for one in value)
    return settings.model_copy(update=changes)


def _pin_path(path: str, commit_of: Callable[[str], str | None]) -> str:
    data, wanted = hub_data(path), Named("", path).unpinned
    commit = commit_of(wanted) if wanted else None
    return str(HubData(data.name, commit, data.inner)) if data and commit else path
