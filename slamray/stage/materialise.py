"""Make stages that are not done, inputs first, side by side where they may."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from slamray.stage import store
from slamray.stage.stage import MANIFEST, PRUNED, Asking, Facts, Manifest, Send, Stage, _files, by_name, order
from slamray.stage.work import Stream

Observer = Callable[[str, Stage, Manifest], None]


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


def _unprune(stages: Sequence[Stage], root: Path) -> None:
    """Forget that pruned stages are done where a missing one needs them; stages: inputs first."""
    for stage in reversed(stages):
        if not stage.is_done(root):
            for upstream in stage.inputs:
                if upstream.is_done(root) and upstream.manifest(root).get(PRUNED):
                    (upstream.folder(root) / MANIFEST).unlink()
