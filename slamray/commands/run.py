"""Run a recipe from a command's words: plan or make it, tell the trackers, print the result."""

from __future__ import annotations

import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slamray import __version__
from slamray.commands.help import is_asked, print_help
from slamray.config.load import load_recipe
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.recipe.ready import keep_checksums, known, ready
from slamray.runtime.engine import Engine
from slamray.stage import claims
from slamray.stage.folder import Folder, Root
from slamray.stage.materialise import materialise
from slamray.stage.stage import Stage, flaws, order
from slamray.stages import estimate, mixture, prediction
from slamray.stages.checkpoints import ALIGNED, PRETRAINED
from slamray.stages.planning import device_bytes
from slamray.tracking import NullTracker, Tracker, open_tracker, unsent

LIBRARIES = ("ray", "torch", "deepspeed", "transformers", "trl", "mlflow", "pyarrow", "hibari-tts")
COMMIT = "SLAMRAY_COMMIT"  # in the environment of a job: `ray job submit` takes no .git along
Build = Callable[[Recipe], list[Stage]]
Afterwards = Callable[[Folder, list[Stage]], None]  # root and targets, when all is made


def main(words: Sequence[str], build: Build, afterwards: Afterwards | None = None) -> int:
    """The whole command; 0 when all is made, 2 when the user's input is at fault, with one line that says how."""
    if is_asked(words):
        return print_help("slam")
    try:
        recipe = load_recipe([word for word in words if word not in ("--plan", "--verify")])
        if "--plan" in words:
            recipe = known(recipe)
            targets = build(recipe)
            stages = order(targets)
            told = (lines(recipe, stages) for lines in (mixture.lines, prediction.lines, estimate.lines))
            print("\n".join([plan(recipe, targets), *itertools.chain.from_iterable(told)]))
            return 0
        if "--verify" in words:
            return verify(Folder(recipe.root), build(known(recipe)))
        return run(ready(recipe, build), build, words, afterwards)
    except BadInput as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2


@dataclass(frozen=True)
class Made:
    """What a run has come to."""

    wanted: list[Stage]
    manifests: dict[str, dict[str, Any]]  # by stage name
    done_before: int
    seconds: float


def run(recipe: Recipe, build: Build, words: Sequence[str], afterwards: Afterwards | None) -> int:
    """Make every stage of the recipe, and print what it found."""
    targets = build(recipe)
    engine = Engine(recipe.compute)
    try:
        made = make(recipe, targets, engine, words)
    finally:
        engine.close()
    if afterwards:
        afterwards(Folder(recipe.root), targets)
    print(summary(recipe, made.wanted, made.manifests, made.done_before, made.seconds))
    return 0


def make(recipe: Recipe, targets: list[Stage], engine: Engine, words: Sequence[str]) -> Made:
    """Make the targets and what they need, and tell people and the tracker; Ray is left as it is found."""
    root = Folder(recipe.root)
    tracker: Tracker = NullTracker()
    wanted = order(targets)
    began = time.monotonic()
    todo = [stage for stage in wanted if not stage.is_done(root)]
    fingerprint = targets[-1].fingerprint
    if todo:
        sys.stderr.write(resolved(recipe) + (f"note: {recipe.note}\n" if recipe.note else ""))
        keep_checksums(root)
        engine.connect()  # before any work: the cluster may be too small, a node blind to the root, a GPU unable
        engine.check_root(root)
        probe_gpus(recipe, todo, engine)
    if todo or unsent(root.scratch(), fingerprint).exists():
        told = recipe.tracking
        tracker = open_tracker(told.enabled, told.uri, told.experiment, recipe.name, fingerprint, root)
        tracker.params(tracked_parameters(recipe))
    engine.observe = tracker.metrics

    def observe(event: str, stage: Stage, record: dict[str, Any]) -> None:
        if event == "end":
            sys.stderr.write(f"{stage.name:<18} done in {record['wall_seconds']:.1f} s\n")
        elif event == "start":
            sys.stderr.write(f"{stage.name:<18} starts, {time.monotonic() - began:.1f} s after the command\n")
        if event in ("end", "done") and todo:
            tracker.finish_stage(stage.name, record)

    status = "FAILED"
    _save_when_terminated(engine)
    try:
        record = provenance(words, recipe)
        manifests = materialise(targets, root, engine, record, observe, recipe.compute.parallel_stages)
        for page in root.names(f"report/{fingerprint}/*.html"):
            tracker.artifact(root.fetch(page))
        status = "FINISHED"
    finally:
        tracker.close(status)
    return Made(wanted, manifests, len(wanted) - len(todo), time.monotonic() - began)


def probe_gpus(recipe: Recipe, stages: Sequence[Stage], engine: Engine) -> None:
    """Where these stages train the unit LM on GPUs: BadInput when one of the cluster's cannot. Others are not asked."""
    trained = {PRETRAINED.stage, ALIGNED.stage} & {stage.name for stage in stages}
    if recipe.compute.device == "cuda" and trained:
        engine.probe(device_bytes(recipe))


def _save_when_terminated(engine: Engine) -> None:
    """SIGTERM, the notice of most schedulers, has what trains write a checkpoint before the process ends."""
    if threading.current_thread() is not threading.main_thread():
        return  # only there may signals be handled, and whoever calls from elsewhere handles them

    def leave(number: int, frame: object) -> None:
        sys.stderr.write("terminated: writing a last checkpoint\n")
        saved = engine.save_now()
        claims.give_up_all()
        sys.stderr.write("saved; the same command goes on from there\n" if saved else "it was not ready in time\n")
        sys.stderr.flush()
        os._exit(128 + number)  # not through threads that still train; Ray's processes end with this one

    signal.signal(signal.SIGTERM, leave)


def verify(root: Root, targets: Sequence[Stage]) -> int:
    """Compare every finished stage's files with its manifest and print what differs; 1 when something does."""
    done = [stage for stage in order(targets) if stage.is_done(root)]
    found = [flaw for stage in done for flaw in flaws(stage, root)]
    print("\n".join([*found, f"{len(done)} finished stages, {len(found)} files that are not as they were written"]))
    return 1 if found else 0


def plan(recipe: Recipe, targets: Sequence[Stage]) -> str:
    """Every stage with its fingerprint, whether it is done, its inputs and what it will spend; starts nothing."""
    root = Folder(recipe.root)
    c = recipe.compute
    recomputed = ", layers recomputed" if c.recompute else ""
    speaking = f"{c.tts_actors} speaking and " if c.encoder_gpus else ""
    lines = [
        f"recipe {recipe.name}, root {root}, {c.workers} x {c.device} worker(s) of {c.cpus_per_worker} core(s), "
        f"{c.precision}, ZeRO {c.zero_stage}{recomputed}; {speaking}{c.encoder_actors} encoding actor(s)",
        f"{'stage':<21}{'fingerprint':<18}{'state':<7}inputs / cost",
    ]
    unknown: dict[str, None] = {}  # reasons, each once
    for stage in order(targets):
        try:
            fingerprint, done = stage.fingerprint, stage.is_done(root)
        except BadInput as error:
            fingerprint, done = "not known yet", False
            unknown[" ".join(str(error).split())] = None
        inputs = ", ".join(s.name for s in stage.inputs) or "-"
        lines.append(f"{stage.name:<21}{fingerprint:<18}{'done' if done else 'to do':<7}{inputs}")
        cost = "" if done else _cost(stage)  # finding it may take torch, and a finished stage will spend nothing
        if cost:
            lines.append(f"{'':<46}{cost}")
    lines += [f"not known yet: {reason}" for reason in unknown]
    return "\n".join(lines + ([f"note: {recipe.note}"] if recipe.note else []))


def _cost(stage: Stage) -> str:
    try:
        return stage.cost()
    except BadInput:  # named by the stage's fingerprint too, where it matters
        return "not known yet"


def resolved(recipe: Recipe) -> str:
    """The recipe as it was resolved, as words: every value that is not the default of its field."""
    given, defaults = (dict(_leaves(one.model_dump(mode="json"))) for one in (recipe, Recipe()))
    words = [f"  {key}={json.dumps(value)}" for key, value in given.items() if value != defaults.get(key)]
    return "\n".join([f"recipe {recipe.name}; other than the defaults of slamray/config:", *words]) + "\n"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def summary(
    recipe: Recipe, wanted: Sequence[Stage], manifests: dict[str, dict[str, Any]], done_before: int, seconds: float
) -> str:
    """Where time went, what was found, and where the report lies."""
    lines = [
        f"{len(wanted) - done_before} of {len(wanted)} stages made in {seconds:.1f} s, {done_before} were done before"
    ]
    lines += [f"  {name:<21}{manifest['wall_seconds']:8.1f} s" for name, manifest in manifests.items()]
    table = manifests.get("report", {}).get("facts", {}).get("table", [])
    lines += ["", *table] if table else []
    last = wanted[-1]
    if last.name == "report":
        lines.append(f"report: {last.folder(Folder(recipe.root)) / 'report.html'}")
    return "\n".join(lines)


def tracked_parameters(recipe: Recipe) -> dict[str, Any]:
    """The recipe as flat dotted keys, for comparison pages."""
    return dict(_leaves(recipe.model_dump(mode="json", exclude={"tracking", "root", "rates", "prices"})))


def provenance(words: Sequence[str], recipe: Recipe) -> dict[str, Any]:
    """Who made a folder: commit, words, libraries, machine, compute."""
    return {
        "commit": _git("rev-parse", "HEAD") or os.environ.get(COMMIT, ""),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "words": list(words),
        "libraries": {"slamray": __version__} | {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "compute": recipe.compute.model_dump(mode="json"),
    }


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=10
        )
    except OSError:  # no git on this machine
        return ""
    return done.stdout.strip()
