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
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from slamray import store
from slamray.errors import BadInput
from slamray.runtime.pool import Stream

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


Observer = Callable[[str, Stage, Manifest], None]


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


def materialise(
    targets: Sequence[Stage],
    root: Path,
    provenance: Mapping[str, Any],
    observe: Observer = lambda event, stage, record: None,
    parallel: int = 1,
    send: Send = lambda streams: iter(()),
    wait: bool = False,
) -> dict[str, Manifest]:
    """Make every target and what it needs; return the manifests by stage name (see `by_name`).

    Finished stages are not touched. Up to `parallel` groups run side by side: stages whose inputs are done, one alone
    or all that share actors. When one fails, those already running finish, no further one starts, and the first error
    is raised. `send` does the streams that stages ask for. A stage that another process makes is waited for, or else
    refused. A finished stage that was pruned is made again where one that is missing needs it.
    """
    stages = order(targets)
    _unprune(stages, root)
    waiting = [stage for stage in stages if not stage.is_done(root)]
    for stage in stages:
        if stage not in waiting:
            observe("done", stage, stage.manifest(root))
    outcomes: SimpleQueue[_Outcome] = SimpleQueue()
    busy = 0
    with ThreadPoolExecutor(max_workers=max(1, parallel)) as pool:
        while waiting or busy:
            ready = [s for s in waiting if all(upstream.is_done(root) for upstream in s.inputs)]
            while ready and busy < parallel:
                group = [s for s in ready if s is ready[0] or (s.actors and s.actors == ready[0].actors)]
                ready = [s for s in ready if s not in group]
                for stage in group:
                    waiting.remove(stage)
                    observe("start", stage, {})
                pool.submit(_make, group, root, provenance, send, wait, outcomes)
                busy += 1
            outcome = outcomes.get()
            busy -= outcome.last
            if isinstance(outcome.made, BaseException):
                raise outcome.made
            observe("end", outcome.stage, outcome.made)
    return {name: stage.manifest(root) for name, stage in by_name(stages).items()}


@dataclass(frozen=True)
class _Outcome:
    stage: Stage
    made: Manifest | BaseException
    last: bool  # of its group


def _make(
    group: Sequence[Stage], root: Path, provenance: Mapping[str, Any], send: Send, wait: bool,
    outcomes: SimpleQueue[_Outcome],
) -> None:  # fmt: skip
    """Make stages, the streams they ask for joined wherever their actors are equal; put an outcome for each."""
    works = [_Work(stage, root, provenance, wait) for stage in group]
    left = len(works)
    clock = time.time()

    def put(work: _Work, made: Manifest | BaseException) -> None:
        nonlocal left
        left -= 1
        outcomes.put(_Outcome(work.stage, made, last=left == 0))

    def advance(work: _Work) -> Stream | None:
        """Up to the stage's next stream; at its end, its outcome. Its seconds are those since the one before ended."""
        nonlocal clock
        try:
            asked, manifest = work.advance(clock)
        except BaseException as error:  # whatever it is, materialise raises it where it is waited for
            put(work, error)
            return None
        if manifest is not None:
            clock = time.time()
            put(work, manifest)
        return asked

    asking = [(work, stream) for work in works if (stream := advance(work))]
    while asking:
        joined = [(work, stream) for work, stream in asking if stream.pools == asking[0][1].pools]
        later = [(work, stream) for work, stream in asking if stream.pools != asking[0][1].pools]
        missing = [len(stream.rows) for _, stream in joined]
        try:
            for number in send([stream for _, stream in joined]):
                missing[number] -= 1
                if missing[number] == 0:
                    work, _ = joined[number]
                    if further := advance(work):
                        later.append((work, further))
        except BaseException as error:
            for (work, _), rows in zip(joined, missing, strict=True):
                if rows:
                    work.close()
                    put(work, error)
        asking = later


class _Work:
    """One stage on its way: its lock, its run, and at the end its manifest."""

    def __init__(self, stage: Stage, root: Path, provenance: Mapping[str, Any], wait: bool) -> None:
        self.stage, self._root, self._provenance, self._wait = stage, root, provenance, wait
        self._out = stage.folder(root)
        self._held = ExitStack()
        self._asking: Asking | None = None

    def advance(self, began: float) -> tuple[Stream | None, Manifest | None]:
        """The next stream it asks for, or the manifest. began: from when its seconds count."""
        try:
            if self._asking is None:
                self._held.enter_context(store.locked(self._out / ".lock", self._wait))
                if self.stage.is_done(self._root):  # another driver finished it while this one was waiting
                    return None, self._finish(self.stage.manifest(self._root))
                inputs = by_name(self.stage.inputs)
                made = self.stage.run({name: s.folder(self._root) for name, s in inputs.items()}, self._out)
                if isinstance(made, dict):
                    return None, self._finish(self._record(made, began))
                self._asking = made
            return next(self._asking), None
        except StopIteration as end:
            return None, self._finish(self._record(end.value, began))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the lock."""
        self._held.close()

    def _finish(self, manifest: Manifest) -> Manifest:
        self.close()
        return manifest

    def _record(self, facts: Facts, began: float) -> Manifest:
        stage = self.stage
        manifest = {
            "name": stage.name,
            "version": stage.version,
            "fingerprint": stage.fingerprint,
            "config": stage.config,
            "inputs": {name: upstream.fingerprint for name, upstream in by_name(stage.inputs).items()},
            "facts": facts,
            "files": _files(self._out),
            "provenance": dict(self._provenance),
            "began_unix_seconds": round(began, 3),
            "wall_seconds": round(time.time() - began, 3),
        }
        store.write_json(self._out / MANIFEST, manifest)
        return manifest


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


def _unprune(stages: Sequence[Stage], root: Path) -> None:
    """Forget that pruned stages are done where a missing one needs them; stages: inputs first."""
    for stage in reversed(stages):
        if not stage.is_done(root):
            for upstream in stage.inputs:
                if upstream.is_done(root) and upstream.manifest(root).get(PRUNED):
                    (upstream.folder(root) / MANIFEST).unlink()


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
