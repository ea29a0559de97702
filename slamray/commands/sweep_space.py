"""The space of a sweep: what a file of tuning/ tells, made into points, each with its words for a recipe."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from slamray.config.load import Sweep, validate
from slamray.errors import BadInput


@dataclass(frozen=True)
class Axis:
    """What a sweep varies; the first one is drawn from left to right, the others as lines."""

    name: str
    values: Sequence[Any]
    unit: str = ""

    @property
    def key(self) -> str:
        """Its name in MLflow, which has no room for a unit elsewhere, and no percent sign."""
        return f"axis.{self.name}{self.unit}".replace("%", "percent")

    def label(self, value: Any) -> str:
        return f"{self.name} {value:g}{self.unit}" if isinstance(value, float | int) else str(value)


@dataclass(frozen=True)
class Point:
    """One place in the space, and the words that make a recipe of it."""

    label: str
    place: tuple[int, ...]  # index on each axis
    x: Any
    line: str
    changes: Mapping[str, Any] = field(compare=False)


@dataclass(frozen=True)
class Space:
    """All points of a sweep."""

    axes: Sequence[Axis]
    points: Sequence[Point]


def tuning_folders() -> list[Path]:
    """Where files of spaces lie: the working directory's `tuning` goes before the package's, a link to the clone's."""
    return [Path("tuning").absolute(), Path(str(resources.files("slamray") / "tuning"))]


def load_tuning(name: str) -> ModuleType:
    """The module of a file of that name; BadInput when there is none."""
    folders = tuning_folders()
    path = next((folder / f"{name}.py" for folder in folders if (folder / f"{name}.py").is_file()), None)
    if path is None:
        known = " ".join(sorted({file.stem for folder in folders for file in folder.glob("*.py")}))
        places = " or ".join(map(str, folders))
        raise BadInput(f"sweep.tuning={name}: no {name}.py in {places}; there are {known}")
    spec = importlib.util.spec_from_file_location(f"tuning_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic looks for the names in its annotations
    spec.loader.exec_module(module)
    return module


def make_space(module: ModuleType, sweep: Sweep) -> Space:
    """Every combination of the axes; places that come to the same recipe are one point, the first."""
    space = validate(module.Space, sweep.space, "sweep.space.")
    axes: list[Axis] = module.axes(space)
    points: list[Point] = []
    for place in itertools.product(*(range(len(axis.values)) for axis in axes)):
        values = [axis.values[index] for axis, index in zip(axes, place, strict=True)]
        labels = [axis.label(value) for axis, value in zip(axes, values, strict=True)]
        changes = module.changes(space, dict(zip((axis.name for axis in axes), values, strict=True)))
        if all(changes != point.changes for point in points):
            points.append(Point(", ".join(labels), place, values[0], ", ".join(labels[1:]), changes))
    return Space(axes, points)
