"""Run a recipe from a command's words: plan or make it, tell the trackers, print the result."""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slamray import __version__
from slamray.commands import tracked
from slamray.commands.help import LIST, is_asked, list_recipes, print_help
from slamray.commands.leaving import Leaving
from slamray.commands.words import as_command
from slamray.config.checksums import CHECKSUMS
from slamray.config.load import load_recipe
from slamray.config.tree import Recipe
from slamray.console import console, libraries_into, say
from slamray.errors import BadInput
from slamray.progress import clock_of, spent_of
from slamray.recipe.ready import known, ready
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder, Root
from slamray.stage.materialise import materialise
from slamray.stage.stage import Stage, by_name, flaws, order
from slamray.stages import estimate, mixture, prediction
from slamray.stages.checkpoints import ALIGNED, PRETRAINED
from slamray.stages.planning import device_bytes
from slamray.tracking import NullTracker, Tracker, open_tracker, unsent

LIBRARIES = ("ray", "torch", "deepspeed", "transformers", "trl", "mlflow", "pyarrow", "hibari-tts")
COMMIT = "SLAMRAY_COMMIT"  # in the environment of a job: `ray job submit` takes no .git along
LOGS = "logs"  # below the root, or beside its cache: what libraries say, a file for each command
FLAGS = ("--plan", "--verify", "--verbose")
Build = Callable[[Recipe], list[Stage]]
Afterwards = Callable[[Folder, list[Stage]], None]  # root and targets, when all is made


def main(words: Sequence[str], build: Build, afterwards: Afterwards | None = None) -> int:
    """The whole command; 0 when all is made, 2 when the user's input is at fault, with one line that says how."""
    if is_asked(words):
        return print_help("slam")
    if list(words) == [LIST]:
        return list_recipes()
    return as_command(lambda: _main(words, build, afterwards))


def _main(words: Sequence[str], build: Build, afterwards: Afterwards | None) -> int:
    recipe = load_recipe([word for word in words if word not in FLAGS])
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
    wanted = order(targets)
    began = time.monotonic()
    todo = [stage for stage in wanted if not stage.is_done(root)]
    if todo or unsent(root.scratch(), targets[-1].fingerprint).exists():
        with quiet(root, words):
            manifests = _make(recipe, targets, todo, engine, words)
    else:
        manifests = {name: stage.manifest(root) for name, stage in by_name(wanted).items()}
    return Made(wanted, manifests, len(wanted) - len(todo), time.monotonic() - began)


def _make(
    recipe: Recipe, targets: list[Stage], todo: Sequence[Stage], engine: Engine, words: Sequence[str]
) -> dict[str, dict[str, Any]]:
    root = Folder(recipe.root)
    tracker: Tracker = NullTracker()
    wanted = order(targets)
    fingerprint = targets[-1].fingerprint
    if todo:
        sys.stderr.write(resolved(recipe))  # for the log
        say(overview(recipe, wanted, todo))
        CHECKSUMS.keep()
        engine.connect()  # before any work: the cluster may be too small, a node blind to the root, a GPU unable
        engine.check_root(root)
        probe_gpus(recipe, todo, engine)
    tracker = open_tracker(recipe.tracking, recipe.name, fingerprint, root)
    record = provenance(words, recipe)
    tracked.begin(tracker, recipe, record)
    engine.observe = tracker.metrics
    leaving = Leaving(engine, root, wanted)

    def observe(event: str, stage: Stage, record: dict[str, Any]) -> None:
        there = console()
        if event == "end":
            leaving.running.remove(stage.name)
            there.end(stage.name)
            there.say(f"{stage.name:<18} done in {spent_of(record['wall_seconds'])}")
        elif event == "start":
            leaving.running.append(stage.name)
            there.draw(stage.name, None, "starts")
            if not there.draws:
                there.say(f"{stage.name:<18} starts")
        if event == "done" and todo:  # made by an earlier run, of which this one's curves are part all the same
            tracked.retell(tracker, stage.name, stage.folder(root))
        if event in ("end", "done") and todo:
            tracker.finish_stage(stage.name, record)

    status = "FAILED"
    try:
        with leaving.listening():
            manifests = materialise(targets, root, engine, record, observe, recipe.compute.parallel_stages)
        tracked.finish(tracker, recipe, wanted, manifests)
        for page in root.names(f"report/{fingerprint}/*.html"):
            tracker.artifact(root.fetch(page))
        status = "FINISHED"
    finally:
        tracker.close(status)
        if recipe.tracking.enabled and unsent(root.scratch(), fingerprint).exists():
            say(f"mlflow: not all was sent; it is kept in {unsent(root.scratch(), fingerprint)} for the next start")
    return manifests


@contextmanager
def quiet(root: Folder, words: Sequence[str]) -> Iterator[None]:
    """What libraries say goes to a file, whose path is said; with the word --verbose to the person, as it comes."""
    if "--verbose" in words or hasattr(sys.stderr, "person"):
        yield
        return
    log = root.scratch(LOGS) / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with libraries_into(log):
        say(f"what libraries say goes to {log}")
        yield


def probe_gpus(recipe: Recipe, stages: Sequence[Stage], engine: Engine) -> None:
    """Where these stages train the unit LM on GPUs: BadInput when one of the cluster's cannot. Others are not asked."""
    trained = {PRETRAINED.stage, ALIGNED.stage} & {stage.name for stage in stages}
    if recipe.compute.device == "cuda" and trained:
        engine.probe(device_bytes(recipe))


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


def overview(recipe: Recipe, wanted: Sequence[Stage], todo: Sequence[Stage]) -> str:
    """What is to be made, and about what it takes, as far as that is known; a line a stage."""
    counted = estimate.estimate(recipe, wanted)
    hours = {load.stage: load.hours for load in counted.loads} if counted else {}
    lines = [f"recipe {recipe.name} in {recipe.root}: {len(todo)} of {len(wanted)} stages to make"]
    lines += [f"note: {recipe.note}"] if recipe.note else []
    for stage in todo:
        known = hours.get(stage.name)
        about = clock_of(3600 * known) if known is not None else "?" if stage.name in hours else ""
        cost = _cost(stage).partition(";")[0]
        lines.append(f"  {stage.name:<18} {about:>9}  {cost}".rstrip())
    if counted and counted.is_sure:
        lines.append(f"  {counted.sum()}")
    elif counted:
        lines.append(f"  {counted.sum()}; jobs/calibrate.py with the same words measures what is not known")
    return "\n".join(lines)


def resolved(recipe: Recipe) -> str:
    """The recipe as it was resolved, as words: every value that is not the default of its field."""
    words = [f"  {key}={json.dumps(value)}" for key, value in tracked.changed(recipe).items()]
    return "\n".join([f"recipe {recipe.name}; other than the defaults of slamray/config:", *words]) + "\n"


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
