"""Make stages that are not done, inputs first, side by side where they may."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, is_dataclass
from queue import SimpleQueue
from typing import Any

from slamray.stage.folder import Folder, Root
from slamray.stage.stage import MANIFEST, PRUNED, Manifest, Stage, by_name, order
from slamray.stage.work import Machines, Seat

Observer = Callable[[str, Stage, Manifest], None]


def materialise(
    targets: Sequence[Stage],
    root: Root,
    machines: Machines,
    provenance: Mapping[str, Any],
    observe: Observer = lambda event, stage, record: None,
    parallel: int = 1,
    wait: bool = False,
) -> dict[str, Manifest]:
    """Make every target and what it needs; return the manifests by stage name (see `by_name`).

    Finished stages are not touched. Up to `parallel` groups run side by side: stages whose inputs are done, one alone
    or all of the same group. When one fails, those already running finish, no further one starts, and the first error
    is raised. A stage that another process makes is waited for, or else refused. A finished stage that was pruned is
    made again where one that is missing needs it.
    """
    stages = order(targets)
    _unprune(stages, root)
    waiting = [stage for stage in stages if not stage.is_done(root)]
    for stage in stages:
        if stage not in waiting:
            observe("done", stage, stage.manifest(root))
    ended: SimpleQueue[_Outcome] = SimpleQueue()
    running: list[_Group] = []
    with ThreadPoolExecutor(max_workers=max(1, len(waiting))) as threads:
        while waiting or running:
            ready = [s for s in waiting if all(upstream.is_done(root) for upstream in s.inputs)]
            while ready and len(running) < parallel:
                members = [s for s in ready if s is ready[0] or (s.group and s.group == ready[0].group)]
                ready = [s for s in ready if s not in members]
                waiting = [s for s in waiting if s not in members]
                for stage in members:
                    stage.check(_inputs(stage, root))
                group = _Group(len(members), time.time())
                running.append(group)
                for stage, seat in zip(members, machines.seats(len(members)), strict=True):
                    observe("start", stage, {})
                    threads.submit(_make, stage, root, seat, group, provenance, wait, ended)
            outcome = ended.get()
            outcome.group.left -= 1
            running = [one for one in running if one.left]
            if isinstance(outcome.made, BaseException):
                raise outcome.made
            observe("end", outcome.stage, outcome.made)
    return {name: stage.manifest(root) for name, stage in by_name(stages).items()}


@dataclass
class _Group:
    """Stages that are made side by side."""

    left: int  # of them that have not ended
    since: float  # when the last of them ended, or all began: the next one's seconds count from then


@dataclass(frozen=True)
class _Outcome:
    stage: Stage
    group: _Group
    made: Manifest | BaseException


def _make(
    stage: Stage,
    root: Root,
    seat: Seat,
    group: _Group,
    provenance: Mapping[str, Any],
    wait: bool,
    ended: SimpleQueue[_Outcome],
) -> None:
    """Make a stage; put what came of it."""
    try:
        made: Manifest | BaseException = _manifest(stage, root, seat, group, provenance, wait)
    except BaseException as error:  # whatever it is, materialise raises it where it is waited for
        made = error
    seat.leave()
    ended.put(_Outcome(stage, group, made))


def _manifest(
    stage: Stage, root: Root, seat: Seat, group: _Group, provenance: Mapping[str, Any], wait: bool
) -> Manifest:
    """One stage from its claim to its manifest."""
    out = stage.folder(root)
    with out.claim(wait=wait) as held:
        if stage.is_done(root):  # another process has finished it while this one waited
            return stage.manifest(root)
        facts = stage.work(_inputs(stage, root), out, seat, **stage.settings)
        held.check()
        began, group.since = group.since, time.time()
        return _record(stage, out, facts, began, provenance)


def _inputs(stage: Stage, root: Root) -> dict[str, Folder]:
    return {name: upstream.folder(root) for name, upstream in by_name(stage.inputs).items()}


def _record(stage: Stage, out: Folder, facts: Any, began: float, provenance: Mapping[str, Any]) -> Manifest:
    manifest = {
        "name": stage.name,
        "version": stage.version,
        "fingerprint": stage.fingerprint,
        "identity": stage.identity,
        "inputs": {name: upstream.fingerprint for name, upstream in by_name(stage.inputs).items()},
        "facts": asdict(facts) if is_dataclass(facts) and not isinstance(facts, type) else dict(facts),
        "files": _files(out),
        "provenance": dict(provenance),
        "began_unix_seconds": round(began, 3),
        "wall_seconds": round(time.time() - began, 3),
    }
    out.write_json(MANIFEST, manifest)
    return manifest


def _files(folder: Folder) -> dict[str, dict[str, Any]]:
    sizes = folder.files()
    sums = folder.checksums(list(sizes))
    return {name: {"bytes": size, "sha256": sum_} for (name, size), sum_ in zip(sizes.items(), sums, strict=True)}


def _unprune(stages: Sequence[Stage], root: Root) -> None:
    """Forget that pruned stages are done where a missing one needs them; stages: inputs first."""
    for stage in reversed(stages):
        if not stage.is_done(root):
            for upstream in stage.inputs:
                if upstream.is_done(root) and upstream.manifest(root).get(PRUNED):
                    upstream.folder(root).remove(MANIFEST)
