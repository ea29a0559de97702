"""What a stage is: a folder and a record. A stage is done exactly when its manifest.json exists.

    folder      = {root}/{name}/{fingerprint}
    fingerprint = hash(name, version, identity, fingerprints of the inputs)

The identity is made of the very settings that the stage's work is called with, so nothing that the work sees can be
forgotten in it (config/base.py says which fields count). The manifest is written last and atomically, so a second run
does nothing, a killed run continues, and whatever two recipes have in common is made once.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, TypeVar

from slamray.config.base import UNKNOWN, identity
from slamray.errors import BadInput
from slamray.stage.folder import Folder, Root

MANIFEST = "manifest.json"
PRUNED = "pruned"  # in a manifest: files that were removed when they had served

Inputs = Mapping[str, Folder]  # folders of the inputs by stage name (see by_name)
Manifest = dict[str, Any]
Kind = TypeVar("Kind")


@dataclass(frozen=True, eq=False)
class Stage:
    """A named step from input folders to one output folder.

    `work(inputs, out, machine, **settings) -> facts`; settings are Settings, plain values, or Located ones, and all of
    them are the stage's identity. Facts are a small record (a dataclass of plain values). Ready stages of one `group`
    are made side by side, so that their rows can share actors. `check(inputs)` is asked before any of them starts:
    BadInput for what the inputs already tell. `cost` is for people: `--plan`.
    """

    name: str
    work: Callable[..., Any]
    settings: Mapping[str, Any]
    inputs: tuple[Stage, ...] = ()
    version: int = 1
    group: str = ""
    check: Callable[[Inputs], None] = field(default=lambda inputs: None)
    cost: Callable[[], str] = field(default=lambda: "")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that changes the result and nothing that does not. BadInput when something named is not there."""
        found: dict[str, Any] = identity(self.settings)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change when, and only when, the result may change.

        BadInput when something outside that the stage or an input of it names is not there or not known yet.
        """
        known = {
            "name": self.name,
            "version": self.version,
            "identity": self.identity,
            "inputs": [stage.fingerprint for stage in self.inputs],
        }
        text = json.dumps(known, sort_keys=True, ensure_ascii=False, allow_nan=False)
        if f'"{UNKNOWN}"' in text:
            raise BadInput(f"{self.name}: the checksum of a published model is {UNKNOWN}; a run fetches it")
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def folder(self, root: Root) -> Folder:
        return Folder(root) / self.name / self.fingerprint

    @cached_property
    def is_known(self) -> bool:
        """Whether there is a fingerprint yet: a plan may be made where something outside is not at hand."""
        try:
            return bool(self.fingerprint)
        except BadInput:
            return False

    def is_done(self, root: Root) -> bool:
        return self.is_known and self.folder(root).exists(MANIFEST)

    def manifest(self, root: Root) -> Manifest:
        """The record of a finished stage."""
        return read_manifest(self.folder(root))


def read_manifest(folder: Folder) -> Manifest:
    """The record of the finished stage that made this folder."""
    manifest: Manifest = folder.read_json(MANIFEST)
    return manifest


def read_facts(folder: Folder, kind: type[Kind]) -> Kind:
    """The facts of the finished stage that made this folder, as the record that its work returned."""
    return facts_as(kind, read_manifest(folder)["facts"])


def facts_as(kind: type[Kind], facts: Mapping[str, Any]) -> Kind:
    """Facts from a manifest as the record that they were; nested records stay plain."""
    assert is_dataclass(kind)
    return kind(**{one.name: facts[one.name] for one in fields(kind) if one.name in facts})


def order(targets: Sequence[Stage]) -> list[Stage]:
    """The targets and everything they need, inputs first, each stage once."""
    found: dict[int, Stage] = {}

    def visit(stage: Stage) -> None:
        if id(stage) not in found:
            for upstream in stage.inputs:
                visit(upstream)
            found[id(stage)] = stage

    for target in targets:
        visit(target)
    return unique(list(found.values()))


def unique(stages: Sequence[Stage]) -> list[Stage]:
    """Each stage once: equal fingerprints are one stage. What has none yet is itself alone."""
    found: dict[str | int, Stage] = {}
    for stage in stages:
        found.setdefault(stage.fingerprint if stage.is_known else id(stage), stage)
    return list(found.values())


def by_name(stages: Sequence[Stage]) -> dict[str, Stage]:
    """Stages by name; those that share a name (the same step of several recipes) by name/fingerprint."""
    names = Counter(stage.name for stage in stages)
    return {s.name if names[s.name] == 1 else f"{s.name}/{s.fingerprint}": s for s in stages}


def prune(stage: Stage, root: Root, part: str) -> int:
    """Remove a finished stage's files below `part`, a folder in its own, keeping their record; the bytes freed.

    The stage stays done. Who needs the files again has it made again: `materialise` sees to that.
    """
    manifest, folder = stage.manifest(root), stage.folder(root)
    gone = {name: facts for name, facts in manifest["files"].items() if PurePosixPath(name).is_relative_to(part)}
    if not gone:
        return 0
    manifest["files"] = {name: facts for name, facts in manifest["files"].items() if name not in gone}
    manifest[PRUNED] = {**manifest.get(PRUNED, {}), **gone}
    folder.write_json(MANIFEST, manifest)  # first: files without a record are no flaw
    folder.remove(part)
    return sum(facts["bytes"] for facts in gone.values())


def flaws(stage: Stage, root: Root) -> list[str]:
    """What in a finished stage's folder is not as its manifest says: missing files, other sizes, other checksums."""
    folder, said = stage.folder(root), stage.manifest(root)["files"]
    there = folder.files()
    whole = [name for name, facts in said.items() if there.get(name) == facts["bytes"]]
    found = dict(zip(whole, folder.checksums(whole), strict=True))
    flawed = []
    for name, facts in said.items():
        if name not in there:
            flawed.append(f"{folder / name}: missing")
        elif name not in found:
            flawed.append(f"{folder / name}: {there[name]} bytes, not {facts['bytes']}")
        elif found[name] != facts["sha256"]:
            flawed.append(f"{folder / name}: does not match its checksum")
    return flawed
