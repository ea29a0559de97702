"""Every setting is read by some code: one that nobody reads would be a promise to who sets it."""

from __future__ import annotations

import ast
from pathlib import Path

from pydantic import BaseModel

from slamray.config.tree import Recipe

ROOT = Path(__file__).parents[2]


def names_read(package: Path) -> set[str]:
    """Attributes that are looked up anywhere in a package, and names in strings, for tables are read by name."""
    found: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                found.add(node.value)
    return found


def fields(model: type[BaseModel]) -> set[str]:
    """Names of all fields of a tree of settings."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names |= fields(kind)
    return names


def test_every_field_is_read_somewhere() -> None:
    assert fields(Recipe) - names_read(ROOT / "slamray") == set()
