"""What a stage is: a folder and a record. A stage is done exactly when its manifest.json exists.

    path        = {root}/{name}/{fingerprint}
    fingerprint = hash(name, version, config, fingerprints of the inputs)

The manifest is written last and atomically, so a second run does nothing, a killed run continues, and whatever two
recipes have in common is made once. Nothing here knows torch, Ray or the recipe.

"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slamray.errors import BadInput
from slamray.stage import store
from slamray.stage.work import Stream

MANIFEST = "manifest.json"
PRUNED = "pruned"  # in a manifest: files that were removed when they had served
Facts = dict[str, Any]
Folders = dict[str, Path]
Manifest = dict[str, Any]
Asking = Generator[Stream, None, Facts]  # a run that yields the streams it needs done, one after another
Send = Callable[[Sequence[Stream]], Iterator[int]]  # streams of equal pools; the number of a stream per row done


@dataclass(frozen=True)
class Stage:
    """A named step from input folders to one output folder.

    `config` is identity: plain JSON values, everything that changes the result and nothing that does not.
    `run(folders, out) -> facts` gets the input folders by stage name (see `by_name`). It may be a generator, which
    yields each Stream that it needs done and returns its facts: ready stages whose `actors` are the same word ask at
    the same time, and streams through equal pools go through one set of actors, started once. `cost` is for people:
    `--plan`.
    """

    name: str
    config: Mapping[str, Any]
    run: Callable[[Folders, Path], Facts | Asking] = field(compare=False)
    inputs: tuple[Stage, ...] = ()
    version: int = 1
    actors: str = field(default="", compare=False)
    cost: Callable[[], str] = field(default=lambda: "", compare=False)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change when, and only when, the result may change."""
        identity = {
            "name": self.name,
            "version": self.version,
            "config": self.config,
            "inputs": [stage.fingerprint for stage in self.inputs],
        }
        text = json.dumps(identity, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def folder(self, root: Path) -> Path:
        return root / self.name / self.fingerprint

    def is_done(self, root: Path) -> bool:
        return (self.folder(root) / MANIFEST).exists()

    def manifest(self, root: Path) -> Manifest:
        """The record of a finished stage."""
        manifest: Manifest = store.read_json(self.folder(root) / MANIFEST)
        return manifest


def order(targets: Sequence[Stage]) -> list[Stage]:
    """The targets and everything they need, inputs first, each stage once (equal fingerprints are one stage)."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.fingerprint not in found:
            for upstream in stage.inputs:
                visit(upstream)
            found[stage.fingerprint] = stage

    for target in targets:
        visit(target)
    return list(found.values())


def by_name(stages: Sequence[Stage]) -> dict[str, Stage]:
    """Stages by name; those that share a name (the same step of several recipes) by name/fingerprint."""
    names = Counter(stage.name for stage in stages)
    return {s.name if names[s.name] == 1 else f"{s.name}/{s.fingerprint}": s for s in stages}


def prune(stage: Stage, root: Path, part: str) -> int:
    """Remove a finished stage's files below `part`, a folder in its own, keeping their record; the bytes freed.

    The stage stays done. Who needs the files again has it made again: `materialise` sees to that.
    """
    manifest = stage.manifest(root)
    gone = {name: facts for name, facts in manifest["files"].items() if Path(name).is_relative_to(part)}
    if not gone:
        return 0
    manifest["files"] = {name: facts for name, facts in manifest["files"].items() if name not in gone}
    manifest[PRUNED] = {**manifest.get(PRUNED, {}), **gone}
    store.write_json(stage.folder(root) / MANIFEST, manifest)  # first: files without a record are no flaw
    shutil.rmtree(stage.folder(root) / part, ignore_errors=True)
    return sum(facts["bytes"] for facts in gone.values())


def flaws(stage: Stage, root: Path) -> list[str]:
    """What in a finished stage's folder is not as its manifest says: missing files, other sizes, other checksums."""
    folder = stage.folder(root)
    found = []
    for name, facts in stage.manifest(root)["files"].items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path}: missing")
        elif path.stat().st_size != facts["bytes"]:
            found.append(f"{path}: {path.stat().st_size} bytes, not {facts['bytes']}")
        elif store.sha256_of(path) != facts["sha256"]:
            found.append(f"{path}: does not match its checksum")
    return found


def _files(out: Path) -> dict[str, dict[str, Any]]:
    return {
        str(path.relative_to(out)): {"bytes": path.stat().st_size, "sha256": store.sha256_of(path)}
        for path in store.list_files(out)
    }


def check_bad_share(bad: int, total: int, allowed_share: float, key: str, first_reason: str) -> None:
    """BadInput when more than the allowed share of a stage's rows had to be quarantined."""
    if total == 0:
        raise BadInput(f"{key}: no rows at all; {first_reason or 'the input is empty'}")
    if bad > allowed_share * total:
        raise BadInput(
            f"{key}: {bad} of {total} rows are bad, more than the share {allowed_share:g} that may be; "
            f"first: {first_reason}"
        )
