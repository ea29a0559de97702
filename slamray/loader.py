"""Resolve a command's words to recipes: defaults <- recipe file and its parents <- profile <- variant <- `a.b=c` words.

A recipe file is a tree of values. Two more keys may stand at its top: `extends: NAME`, the recipe that it changes, and
`study`, variants of itself to be compared (not inherited).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from slamray.config import PROFILES, Model, Recipe
from slamray.errors import BadInput

EXECUTION = ("compute", "root", "mirror", "tracking")
SEED_KEYS = ("pretrain.seed", "dpo.seed")  # what a study's seed seeds: new weights, and the order of rows and of pairs

Tree = dict[str, Any]
Kind = TypeVar("Kind", bound=BaseModel)


class Study(Model):
    """What is compared, and how it is drawn."""

    title: str = Field(min_length=1, description="above the picture")
    of: str = Field(min_length=1, description="the figure or table of the paper that it is a study of")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="the paper's tables: 3 seeds")
    checkpoint: Literal["pretrained", "aligned"] = Field("pretrained", description="the checkpoint that is compared")
    metrics: tuple[str, ...] = Field(
        ("perplexity",), min_length=1, description="`perplexity`, and metrics of pairs by name, such as topic_cloze"
    )
    variants: dict[str, dict[str, Any]] = Field(
        min_length=1, description="name: {dotted key: value}, over the recipe's own values"
    )


@dataclass(frozen=True)
class Member:
    """One run of a study."""

    variant: str
    seed: int
    recipe: Recipe


def load_recipe(words: Sequence[str]) -> Recipe:
    """Resolve a command's words: `recipe=NAME|file.yaml`, `profile=NAME`, then dotted overrides in any order.

    Raises BadInput that names the dotted key and, for a misspelt one, the nearest that exists.
    """
    asked = _split(words)
    tree, study = _read_recipe(asked.recipe)
    if study is not None:
        raise BadInput(f"recipe={asked.recipe} is a study; run it with jobs/study.py, or extend it in your own file")
    return parse_recipe(_lay(tree, asked.profile, dict(asked.overrides)))


def load_study(words: Sequence[str]) -> tuple[Study, list[Member]]:
    """The same for a study: every variant with every seed, variants in the order of the file.

    BadInput when a word would set what the variants differ in, and whatever is wrong with a variant, with its name.
    """
    asked = _split(words)
    tree, raw = _read_recipe(asked.recipe)
    if raw is None:
        raise BadInput(f"recipe={asked.recipe} is no study: it has no `study`; run it with jobs/slam.py")
    own = {key.removeprefix("study."): value for key, value in asked.overrides if key.startswith("study.")}
    study = _validate(Study, raw | own, f"recipe={asked.recipe}: study.")
    overrides = {key: value for key, value in asked.overrides if not key.startswith("study.")}
    for key in overrides:
        differ = [name for name, values in study.variants.items() if any(_overlap(key, other) for other in values)]
        if differ or key in SEED_KEYS:
            raise BadInput(f"{key}: this is what the study varies ({', '.join(differ) or 'study.seeds'}); leave it out")
    members = []
    for variant, values in study.variants.items():
        for seed in study.seeds:
            name = f"{tree.get('name', asked.recipe)}/{variant}/{seed}"
            changes = {**values, **dict.fromkeys(SEED_KEYS, seed), "name": name, **overrides}
            try:
                members.append(Member(variant, seed, parse_recipe(_lay(tree, asked.profile, changes))))
            except BadInput as error:
                raise BadInput(f"variant {variant}: {error}") from error
    return study, members


def parse_recipe(tree: Mapping[str, Any]) -> Recipe:
    """Validate a tree of plain values; BadInput with the dotted key and what it may be."""
    return _validate(Recipe, tree, "")


@dataclass(frozen=True)
class _Asked:
    recipe: str
    profile: str
    overrides: list[tuple[str, Any]]


def _split(words: Sequence[str]) -> _Asked:
    named = {"recipe": "demo", "profile": "laptop"}
    overrides: list[tuple[str, Any]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadInput(f"{word!r} is not a word of the form a.b=c; see README for examples")
        if key in named:
            named[key] = value
        else:
            overrides.append((key, _parse(key, value)))
    if named["profile"] not in PROFILES:
        raise BadInput(f"profile={named['profile']}: choose one of {' '.join(PROFILES)}")
    return _Asked(named["recipe"], named["profile"], overrides)


def _lay(tree: Tree, profile: str, changes: Mapping[str, Any]) -> Tree:
    # A group that is named in part keeps the rest of *its* defaults (dpo.optim is not pretrain.optim), so the whole
    # tree of defaults is laid first.
    laid = _merge(Recipe().model_dump(), tree) | {"compute": PROFILES[profile].model_dump()}
    for key, value in changes.items():
        _set(laid, key, value)
    return laid


def _read_recipe(name: str) -> tuple[Tree, Tree | None]:
    """A recipe file over its parents, and its own study if it has one."""
    seen: list[str] = []
    laid: Tree = {}
    study: Tree | None = None
    current: Any = name
    while current is not None:
        path = _find(str(current), name)
        if str(path) in seen:
            raise BadInput(f"recipe={name}: extends runs in a circle: {' -> '.join([*seen, str(path)])}")
        tree = _read_file(path, str(current))
        if not seen:
            study = tree.get("study")
            if study is not None and not isinstance(study, dict):
                raise BadInput(f"recipe={name}: study is not a mapping of keys")
        seen.append(str(path))
        current = tree.pop("extends", None)
        tree.pop("study", None)
        laid = _merge(tree, laid)
    return laid, study


def _find(name: str, asked: str) -> Path:
    packaged = Path(str(resources.files("slamray") / "recipes"))
    path = Path(name) if name.endswith((".yaml", ".yml")) else packaged / f"{name}.yaml"
    if not path.is_file():
        known = " ".join(sorted(p.stem for p in packaged.glob("*.yaml")))
        extends = "" if name == asked else f" extends {name}"
        raise BadInput(f"recipe={asked}{extends}: no such recipe; packaged are {known}, or give a .yaml file")
    return path.resolve()


def _read_file(path: Path, name: str) -> Tree:
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"recipe={name}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(tree, dict):
        raise BadInput(f"recipe={name}: not a mapping of keys")
    if set(EXECUTION) & tree.keys():
        raise BadInput(f"recipe={name}: compute, root and tracking are execution; give them as words")
    return tree


def _parse(key: str, value: str) -> Any:
    try:
        return yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise BadInput(f"{key}={value}: not a value ({str(error).splitlines()[0]})") from error


def _set(tree: Tree, key: str, value: Any) -> None:
    """Set a dotted key; changes no group of `tree` that another tree may share."""
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.get(parent, {})
        if not isinstance(below, dict):
            raise BadInput(f"{key}: {parent} is a value, not a group of keys")
        tree[parent] = tree = dict(below)
    tree[last] = value


def _merge(below: Tree, above: Mapping[str, Any]) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        deeper = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value) if deeper else value
    return merged


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted keys set the same value, or one a group that holds the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _validate(kind: type[Kind], tree: Mapping[str, Any], place: str) -> Kind:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = place + ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise BadInput(f"{key}: no such key{_near_miss(kind, first['loc'])}") from error
        if first["type"] == "missing":
            raise BadInput(f"{key} is missing: {kind.model_fields[str(first['loc'][-1])].description}") from error
        raise BadInput(f"{key}={first['input']!r}: {first['msg']}") from error


def _near_miss(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    model = kind
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    close = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {' '.join(model.model_fields)}"
