"""Resolve a command's words to recipes: defaults <- recipe file and its parents <- profile <- variant <- `a.b=c` words.

A recipe file is a tree of values. Its top level may also hold `extends: NAME` (the recipe that it changes), `study`
(variants of the recipe that are compared) and `sweep` (a space of variants that is searched). `study` and `sweep` are
not inherited.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from slamray.config.base import Settings, home_path
from slamray.config.profiles import PROFILES
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.given import has_suffix, read_text, reason_of

EXECUTION = ("compute", "root", "tracking", "rates", "prices")
SEED_KEYS = ("pretrain.seed", "dpo.seed")  # a study's seed sets them: new weights, and the order of rows and of pairs

NO_VALUE = (yaml.YAMLError, ValueError, RecursionError)  # of YAML: a date such as 2026-13-01 is a ValueError
Tree = dict[str, Any]
Variants = Mapping[str, Mapping[str, Any]]  # name: {dotted key: value}
Kind = TypeVar("Kind", bound=BaseModel)


class Study(Settings):
    """Section `study` of a recipe file: what is compared, and how it is drawn."""

    title: str = Field(min_length=1, description="above the picture")
    of: str = Field(min_length=1, description="the figure or table of the paper that it is a study of")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="the paper's tables: 3 seeds")
    checkpoint: Literal["pretrained", "aligned"] = Field("pretrained", description="the checkpoint that is compared")
    metrics: tuple[str, ...] = Field(
        ("perplexity",), min_length=1, description="metrics of evaluate/metrics.py that the recipe measures"
    )
    variants: dict[str, dict[str, Any]] = Field(
        min_length=1, description="name: {dotted key: value}, over the recipe's own values"
    )


class Sweep(Settings):
    """Section `sweep` of a recipe file: what is searched, how, and what is optimised."""

    title: str = Field(min_length=1, description="above the picture")
    tuning: str = Field(pattern=r"^\w+$", description="the file of tuning/ that turns the space into recipes")
    space: dict[str, Any] = Field(description="values of that file's Space")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="every point is tried with each")
    metrics: tuple[str, ...] = Field(
        ("perplexity", "topic_cloze"),
        min_length=1,
        description="panels of the picture: metrics of evaluate/metrics.py that the recipe measures",
    )
    objective: tuple[str, ...] = Field(
        ("topic_cloze",),
        min_length=1,
        description="metrics of pairs, whose mean accuracy is to be greatest, or one other metric, whose figure is to "
        "be greatest or least as its row of evaluate/metrics.py says",
    )
    search: int = Field(
        0,
        ge=0,
        description="Optuna proposes this many points with the first seed, then the best two run with all seeds; "
        "0: every point with every seed",
    )
    stop: Literal["none", "asha"] = Field(
        "none",
        description="asha: a DPO that falls behind others at the same share of its budget ends; needs dpo.evaluations",
    )
    at_once: int = Field(0, ge=0, description="trials that run at the same time; 0: as many as the cluster can train")
    keep: int = Field(3, ge=0, description="points whose models are kept; the others' are removed, their scores stay")


@dataclass(frozen=True)
class Member:
    """One run of a study or a sweep."""

    variant: str
    seed: int
    recipe: Recipe


def load_recipe(words: Sequence[str]) -> Recipe:
    """Resolve a command's words: `recipe=NAME|file.yaml`, `profile=NAME`, then dotted overrides in any order.

    Raises BadInput that names the dotted key and, for a misspelt one, the nearest that exists.
    """
    given = _split(words)
    tree, sections = _read_recipe(given.recipe)
    for kind, job in (("study", "jobs/study.py"), ("sweep", "jobs/sweep.py")):
        if kind in sections:
            raise BadInput(f"recipe={given.recipe} is a {kind}; run it with {job}, or extend it in your own file")
    return parse_recipe(_lay(tree, given.profile, dict(given.overrides)))


def load_study(words: Sequence[str]) -> tuple[Study, list[Member]]:
    """The same for a study: every variant with every seed, variants in the order of the file.

    BadInput when a word would set what the variants differ in, and whatever is wrong with a variant, with its name.
    """
    given = _split(words)
    tree, study, overrides = _read_section(given, "study", Study)
    return study, _members(given, tree, overrides, study.variants, study.seeds, "study")


def load_sweep(words: Sequence[str], points: Callable[[Sweep], Variants]) -> tuple[Sweep, list[Member]]:
    """The same for a sweep, whose space `points` turns into variants."""
    given = _split(words)
    tree, sweep, overrides = _read_section(given, "sweep", Sweep)
    return sweep, _members(given, tree, overrides, points(sweep), sweep.seeds, "sweep")


def _read_section(given: _Words, name: str, kind: type[Kind]) -> tuple[Tree, Kind, Tree]:
    """A recipe's tree, its section `name` with the words `name.x=y` applied, and the other words."""
    tree, sections = _read_recipe(given.recipe)
    if name not in sections:
        raise BadInput(f"recipe={given.recipe} is no {name}: it has no `{name}`; run it with jobs/slam.py")
    section, others = sections[name], {}
    for key, value in given.overrides:
        if key.startswith(f"{name}."):
            section = dict(section)
            _set(section, key.removeprefix(f"{name}."), value)
        else:
            others[key] = value
    return tree, validate(kind, section, f"recipe={given.recipe}: {name}."), others


def _members(
    given: _Words, tree: Tree, overrides: Tree, variants: Variants, seeds: Sequence[int], kind: str
) -> list[Member]:
    for key in overrides:
        differ = [name for name, values in variants.items() if any(_overlap(key, other) for other in values)]
        if differ or key in SEED_KEYS:
            raise BadInput(
                f"{key}: this is what the {kind} varies ({', '.join(differ) or f'{kind}.seeds'}); leave it out"
            )
    members = []
    for variant, values in variants.items():
        for seed in seeds:
            name = f"{tree.get('name', given.recipe)}/{variant}/{seed}"
            changes = {**values, **dict.fromkeys(SEED_KEYS, seed), "name": name, **overrides}
            try:
                members.append(Member(variant, seed, parse_recipe(_lay(tree, given.profile, changes))))
            except BadInput as error:
                raise BadInput(f"variant {variant}: {error}") from error
    return members


def parse_recipe(tree: Mapping[str, Any]) -> Recipe:
    """Validate a tree of plain values; BadInput with the dotted key and what it may be."""
    return validate(Recipe, tree, "")


@dataclass(frozen=True)
class _Words:
    recipe: str
    profile: str
    overrides: list[tuple[str, Any]]


def _split(words: Sequence[str]) -> _Words:
    named = {"recipe": "demo", "profile": "laptop"}
    overrides: list[tuple[str, Any]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadInput(f"{word!r} is not a word of the form a.b=c; see README for examples")
        if key in named:
            named[key] = value
        else:
            overrides.append((key, parse_value(key, value)))
    if named["profile"] not in PROFILES:
        raise BadInput(f"profile={named['profile']}: choose one of {' '.join(PROFILES)}")
    return _Words(named["recipe"], named["profile"], overrides)


def _lay(tree: Tree, profile: str, changes: Mapping[str, Any]) -> Tree:
    # The whole tree of defaults comes first: of a group that is given in part, pydantic would fill the rest with its
    # class's defaults, and dpo.optim's are not those of OptimSettings.
    laid = _merge(Recipe().model_dump(), tree) | {"compute": PROFILES[profile].model_dump()}
    for key, value in changes.items():
        _set(laid, key, value)
    return laid


def _read_recipe(name: str) -> tuple[Tree, Tree]:
    """The values of a recipe file over those of its parents, and its sections `study` and `sweep`."""
    seen: list[str] = []
    laid: Tree = {}
    sections: Tree = {}
    current: Any = name
    while current is not None:
        path = _find(str(current), name)
        if str(path) in seen:
            raise BadInput(f"recipe={name}: extends runs in a circle: {' -> '.join([*seen, str(path)])}")
        tree = _read_file(path, str(current))
        for section in ("study", "sweep"):
            found = tree.pop(section, None)
            if found is None or seen:
                continue
            if not isinstance(found, dict):
                raise BadInput(f"recipe={name}: {section} is not a mapping of keys")
            sections[section] = found
        seen.append(str(path))
        current = tree.pop("extends", None)
        laid = _merge(tree, laid)
    return laid, sections


def _find(name: str, asked: str) -> Path:
    packaged = Path(str(resources.files("slamray") / "recipes"))
    path = Path(home_path(name)) if has_suffix(name, (".yaml", ".yml")) else packaged / f"{name}.yaml"
    if not path.is_file():
        known = " ".join(sorted(p.stem for p in packaged.glob("*.yaml")))
        extends = "" if name == asked else f" extends {name}"
        raise BadInput(f"recipe={asked}{extends}: no such recipe; packaged are {known}, or give a .yaml file")
    return path.resolve()


class _KeysOnce(yaml.SafeLoader):
    """Plain YAML whose groups have each key once: of two, yaml would take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                line = node.value[place][0].start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} stands twice in a group, again in line {line}"
                )
        return super().construct_mapping(node, deep)


def _read_file(path: Path, name: str) -> Tree:
    text = read_text(path)
    try:
        tree = yaml.load(text, _KeysOnce) or {}
    except NO_VALUE as error:
        raise BadInput(f"recipe={name}: not YAML ({reason_of(error)})") from error
    if not isinstance(tree, dict):
        raise BadInput(f"recipe={name}: not a mapping of keys")
    if set(EXECUTION) & tree.keys():
        raise BadInput(f"recipe={name}: compute, root, tracking, rates and prices are execution; give them as words")
    return tree


def parse_value(key: str, value: str) -> Any:
    """What a word `key=value` says, as YAML reads it; BadInput when it is no value."""
    try:
        return yaml.safe_load(value) if value else ""
    except NO_VALUE as error:
        raise BadInput(f"{key}={value}: not a value ({reason_of(error)})") from error


def _set(tree: Tree, key: str, value: Any) -> None:
    """Set a dotted key. Groups on the way are copied, as another tree may share them; one that is null begins empty."""
    *parents, last = key.split(".")
    for parent in parents:
        below = {} if tree.get(parent) is None else tree[parent]
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


def validate(kind: type[Kind], tree: Mapping[str, Any], place: str) -> Kind:
    """The tree as a `kind`; BadInput with the dotted key (after the prefix `place`) and what it may be."""
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
