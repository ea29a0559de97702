"""Imports never point up, and Ray is imported by the runtime alone (docs/architecture.md, section 2)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A package may import those of its own row and of the rows before it.
LAYERS = (
    ("errors", "console", "progress", "store", "given"),
    ("config", "stage"),
    ("tokens", "mlflow_events", "tracking"),
    ("data", "model"),
    ("speech",),
    ("evaluate",),
    ("train", "report"),
    ("stages",),
    ("recipe",),
    ("runtime",),
    ("commands",),
)
HEIGHT = {name: height for height, row in enumerate(LAYERS) for name in row}
KERNELS = {"data", "speech", "tokens", "model", "train", "evaluate", "report"}
RUNTIME_MAY = {"errors", "console", "progress", "store", "given", "config", "stage", "runtime"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; `from a import b` is a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(path: Path) -> str:
    return path.relative_to(ROOT / "slamray").parts[0].removesuffix(".py")


def files() -> list[Path]:
    return sorted(path for path in (ROOT / "slamray").rglob("*.py") if package_of(path) != "__init__")


def test_every_package_has_a_layer() -> None:
    assert {package_of(path) for path in files()} == HEIGHT.keys()


@pytest.mark.parametrize("package", HEIGHT)
def test_no_import_points_up(package: str) -> None:
    used = {
        (str(path.relative_to(ROOT)), name)
        for path in files()
        if package_of(path) == package
        for name in imports(path)
        if name.startswith("slamray.")
    }
    lower = {name for name, height in HEIGHT.items() if height <= HEIGHT[package]}
    may = RUNTIME_MAY if package == "runtime" else lower
    assert {(path, name) for path, name in used if name.split(".")[1] not in may | {"__version__"}} == set()


def test_only_the_runtime_imports_ray() -> None:
    own = [*files(), *(ROOT / "jobs").glob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in own if any(name.split(".")[0] == "ray" for name in imports(path))}
    assert found and all(path.startswith("slamray/runtime/") for path in found)


def test_kernels_know_neither_the_recipe_nor_stages() -> None:
    kernels = [path for path in files() if package_of(path) in KERNELS]
    assert len(kernels) > 40
    assert {str(p) for p in kernels if "slamray.config.tree.Recipe" in imports(p)} == set()
