"""Kill a run at random moments, and compare what comes out with the run that nobody touched.

    python tests/faults/chaos.py N=50 [JOB=demo|encoder|decoder|joint] [SEED=0] [KINDS=driver,worker,...]
        [WORKERS=1|2|mixed] [ACTORS=1|2|mixed] [STRIKES=1] [AT=units,pretrained,aligned] [ZERO=1] [ROOT=folder]
        [PATIENCE=600]

Every draw runs a job on a fresh root: the demo recipe with tiny models, or the training of a tiny encoder (hubert_1,
hubert_2) or of a tiny HiFi-GAN decoder (decoder) on recordings that are taken from the untouched run, or a recipe of
text and speech with small models (joint), of which every file of every stage must be the untouched run's. STRIKES
faults strike it, the kinds in turn, each after a random step or shard of a stage, the stages of AT in turn; when the
command ends badly it is given again, as a person would. One that is silent for PATIENCE seconds is taken for hung. At
the end the two roots are compared: shards and packed rows byte for byte, the samples that were trained on by their
hash, losses at equal steps, weights and scores: bit for bit where the number of workers stays. Where it changes, losses
may differ by ROOM times what the number of workers makes of them by itself, seen on untouched runs of one and of two. A
shard that was whole when a fault struck must be the same file at the end: that counts what was done twice. The table is
one line a draw.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

PATIENCE_SECONDS = 600.0  # since the last fault or start; an untouched run takes about one minute on a quiet machine
# Sums in another order round otherwise, and training doubles such a difference every twenty steps or so: how large it
# is at the end depends on when the number changed first, and on chance. docs/LOG.md, 2026-11-26.
ROOM = 3.0  # chosen; seen: 0.02 to 0.7
CLOCKED = ("facts.json", "history.json", "metrics.jsonl", "report.html")
RESUMED = "resumed_from"  # the fact that names the checkpoint of the last start
SUMMARY = "summary"  # the report's sentences, which tell seconds
BYTES = ("units", "preferences", "items")  # stages whose shards are compared byte for byte
# Below a stage's folder, what one kill may lose: shards of speech, of a split's spoken text, batches of what is said.
WORK = ("shards/*.arrow", "*/shards/*.arrow", "batches/*.json")
STEPS, DPO_STEPS, ASSET_STEPS = 300, 100, 120
COUNT_MORE_CORES = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 4}'}  # two actors that speak and two that encode, on any machine
OFTEN = ["compute.checkpoint_every_seconds=0.5", "compute.dtype=float32", "compute.report_every_steps=1"]
LONGER = [*OFTEN, "speech.shard_documents=1", f"pretrain.budget=steps:{STEPS}", f"dpo.budget=steps:{DPO_STEPS}",
          "compute.stall_seconds=15", "compute.micro_batch=2", "compute.dpo_micro_batch=1"]  # fmt: skip
ASSETS = [*OFTEN, "tracking.enabled=false", "compute.cpus_per_worker=1", "compute.stall_seconds=30",
          "assets.encoder.train_documents=3", "assets.encoder.evaluation_documents=1"]  # fmt: skip
JOINT = ["recipe=interleaved_laptop", "joint.text=null", "joint.synthetic_documents=96", "joint.text_documents=40",
         "speech.train_documents=16", "joint.text_to_token.pretrain.budget=steps:80", "pretrain.budget=steps:20",
         "joint.text_to_token.pretrain.tokens_per_step=1024", "joint.text_to_token.sampling.top_k=1000",
         "joint.interleave.span_pieces=4", "evaluate.questions.stories=12", "evaluate.questions.ways=[st, ss, tt]",
         "evaluate.task_sentences=12", "evaluate.sampling.batch=2", "evaluate.perplexity_tokens=2000",
         "dpo.budget=steps:4", "compute.stall_seconds=30"]  # fmt: skip
ENCODER = [*ASSETS, "assets.encoder.mfcc_clusters=8", "assets.encoder.feature_clusters=[8]",
           "assets.encoder.n_units=16", "assets.encoder.kmeans_frames=1000", "assets.source_filter.documents=1",
           *(f"assets.encoder.{part}.{word}" for part in ("first", "second")
             for word in (f"budget=steps:{ASSET_STEPS}", "batch_crops=3", "crop_frames=25"))]  # fmt: skip
DECODER = [*ASSETS, "assets.make=decoder", "assets.decoder=hifigan", "assets.hifigan.embedding_dim=16",
           "assets.hifigan.channels=32", "assets.hifigan.upsample_rates=[5,8,4,4]",
           "assets.hifigan.upsample_kernel_sizes=[11,16,8,8]", "assets.hifigan.discriminator_divisor=32",
           f"assets.hifigan.budget=steps:{ASSET_STEPS}", "assets.hifigan.batch=2",
           "assets.hifigan.crop_frames=10"]  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What is run and struck: a script with the words for tiny models, and the stages whose training is compared.

    given: stages that a draw takes from the untouched run as they are. whole: the command runs to its end; else a draw
    is over when what is trained has ended. every_file: each file of each stage is compared, too.
    """

    script: str
    words: Callable[[Path], list[str]]
    trained: tuple[str, ...]
    struck: tuple[str, ...]
    given: tuple[str, ...] = ()
    whole: bool = False
    every_file: bool = False


def joint_words(folder: Path) -> list[str]:
    """Words of a recipe of text and speech for small models, some of which are made in a folder.

    The text-to-token model is the demo's text LM after some steps, drawn from all its units, for it must end spans.
    """
    from support import tiny

    folder.mkdir(parents=True, exist_ok=True)
    encoder, vocoder = tiny.make_encoder(folder / "hubert"), tiny.make_vocoder(folder / "vocoder")
    small = (word for word in tiny.words(encoder, Path(), vocoder) if not word.startswith("model.base"))
    return [*small, *OFTEN, *JOINT]


def decoder_words(folder: Path) -> list[str]:
    """Words of the decoder's job for a tiny encoder that is made in a folder."""
    from support import tiny

    encoder = tiny.make_encoder(folder / "hubert")
    return [*DECODER, f"speech.encoder.model={encoder}", f"speech.encoder.centroids={encoder}/centroids.safetensors",
            "speech.encoder.layer=2", "speech.encoder.pad_samples=40"]  # fmt: skip


def demo_words(folder: Path) -> list[str]:
    """The demo recipe's words for tiny models that are made in a folder."""
    from support import tiny

    folder.mkdir(parents=True, exist_ok=True)
    encoder, lm = tiny.make_encoder(folder / "hubert"), tiny.make_lm(folder / "lm")
    return [*tiny.words(encoder, lm, tiny.make_vocoder(folder / "vocoder")), *LONGER]


DEMO = Job("jobs/slam.py", demo_words, ("pretrained", "aligned"), ("units", "pretrained", "aligned"), whole=True)
# Stages that a recipe of text and speech adds: trained, spoken without a sound, and asked by saying.
OF_TEXT = ("text_to_token", "spoken_text", "text_to_token_quality", "tasks_pretrained", "answers_pretrained")
SPOKEN = ("corpus", "recordings")
HUBERTS = ("hubert_1", "hubert_2")
JOBS = {
    "demo": DEMO,
    "encoder": Job("jobs/assets.py", lambda folder: list(ENCODER), HUBERTS, HUBERTS, SPOKEN),
    "decoder": Job("jobs/assets.py", decoder_words, ("decoder",), ("decoder",), SPOKEN),
    "joint": Job(
        "jobs/slam.py", joint_words, ("text_to_token", "pretrained", "aligned"), OF_TEXT, whole=True, every_file=True
    ),
}


class Root(Protocol):
    """Where the stages of a run lie, as the harness sees it."""

    def names(self, pattern: str) -> list[str]: ...

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True)
class Disk:
    """A folder of this machine."""

    path: Path

    def names(self, pattern: str) -> list[str]:
        return sorted(path.relative_to(self.path).as_posix() for path in self.path.glob(pattern))

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


@dataclass
class Run:
    """One root, and the command that fills it."""

    root: Path
    words: Sequence[str]
    log: Path
    job: str = "jobs/slam.py"
    actors: Sequence[int] = (1,)  # that speak, and that encode: in the first start, the second, and so on, in turn
    look_seconds: float = 0.1  # between looks at how far it is
    clock: Path | None = None  # says how far the wall clock of its processes is off; null: theirs is the machine's
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None
    _log_begins: int = 0  # where the log of the present start begins

    def start(self, workers: int) -> None:
        """Give the command, in a process group of its own."""
        actors = self.actors[self.starts % len(self.actors)]
        self.starts += 1
        more = COUNT_MORE_CORES if max(self.actors) > 1 else {}
        if self.clock:
            set_clock(self.clock, 0)
            more = more | {"CLOCK_FILE": str(self.clock), "LD_PRELOAD": str(self.clock.with_suffix(".so"))}
        sizes = [f"compute.workers={workers}", f"compute.tts_actors={actors}", f"compute.encoder_actors={actors}"]
        command = [sys.executable, self.job, *self.words, *sizes, f"root={self.root}"]
        with self.log.open("ab") as out:
            self._log_begins = out.tell()
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | more,
            )  # fmt: skip

    def work_in(self, stage: str) -> int | None:
        """Steps, or shards, that a stage has behind it; None when it does not run in this start."""
        if not self._says(f"{stage} +starts") or self._says(f"{stage} +done"):
            return None
        for path in self.root.glob(f"{stage}/*/metrics.jsonl"):
            lines = path.read_text().splitlines()
            return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)
        return len([path for pattern in WORK for path in self.root.glob(f"{stage}/*/{pattern}")])

    def shards(self) -> dict[Path, tuple[int, int]]:
        """Which file each whole shard or batch is: its inode and time. One that is made again is another file."""
        found = {}
        for path in (path for pattern in WORK for path in self.root.glob(f"*/*/{pattern}")):
            with suppress(FileNotFoundError):  # it has become part of a part in the meantime
                status = path.stat()
                found[path] = (status.st_ino, status.st_mtime_ns)
        return found

    def ended(self, stage: str) -> bool:
        return bool(list(self.root.glob(f"{stage}/*/manifest.json")))

    def _says(self, pattern: str) -> bool:
        """Whether the log of this start has such a line."""
        with self.log.open("rb") as file:
            file.seek(self._log_begins)
            return re.search(rf"^{pattern}".encode(), file.read(), re.MULTILINE) is not None

    def family(self) -> list[tuple[int, str]]:
        """(pid, title) of every process that descends from the driver: Ray's and its workers'."""
        assert self.process is not None
        found, parents = [], {self.process.pid}
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()]
        for _ in range(4):  # driver, raylet, worker, and what these start
            for pid, parent, title in rows:
                if int(parent) in parents and int(pid) not in parents:
                    parents.add(int(pid))
                    found.append((int(pid), title))
        return found

    def stop_all(self) -> None:
        """Nothing of this run is left alive."""
        family = self.family()
        for pid, _ in family:
            _signal(pid, signal.SIGKILL)
        assert self.process is not None
        _signal(self.process.pid, signal.SIGKILL)
        self.process.wait()


def make_clock(path: Path) -> Path:
    """A wall clock that can jump (clock.c), beside `path`, the file that says how far it is off."""
    source = Path(__file__).parent / "clock.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", path.with_suffix(".so"), source, "-ldl"], check=True)
    set_clock(path, 0)
    return path


def set_clock(path: Path, seconds: int) -> None:
    """The clock is so far off from now on; written in place, for processes have the file mapped."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(struct.pack("q", seconds))


def _signal(pid: int, what: signal.Signals) -> bool:
    try:
        os.kill(pid, what)
    except ProcessLookupError:  # it ended by itself in the meantime
        return False
    return True


def _one(run: Run, rng: random.Random, marks: Sequence[str], what: signal.Signals) -> str:
    """Send a signal to one process of the run whose title holds one of the marks; its name, empty without one."""
    found = [(pid, title) for pid, title in run.family() if any(mark in title for mark in marks)]
    if not found:
        return ""
    pid, title = rng.choice(found)
    return title.split()[0].split("(")[0].rsplit("/", 1)[-1] if _signal(pid, what) else ""


def kill_driver(run: Run, rng: random.Random) -> str:
    assert run.process is not None
    _signal(run.process.pid, signal.SIGKILL)
    run.process.wait()
    return "driver"


def terminate_driver(run: Run, rng: random.Random) -> str:
    assert run.process is not None
    _signal(run.process.pid, signal.SIGTERM)
    return "driver"


def kill_worker(run: Run, rng: random.Random) -> str:
    return _one(run, rng, ("ray::RayTrainWorker", "ray::MapWorker"), signal.SIGKILL)


def stop_worker(run: Run, rng: random.Random) -> str:
    return _one(run, rng, ("ray::RayTrainWorker",), signal.SIGSTOP)


def kill_raylet(run: Run, rng: random.Random) -> str:
    return _one(run, rng, ("raylet/raylet", "gcs_server"), signal.SIGKILL)


def tear_checkpoint(run: Run, rng: random.Random) -> str:
    """Kill the driver and cut a file of the newest checkpoint, if there is one."""
    kill_driver(run, rng)
    newest = sorted(run.root.glob("*/*/checkpoints/step-*"))[-1:]
    files = [path for folder in newest for path in sorted(folder.rglob("*")) if path.is_file()]
    if not files:
        return "driver; no checkpoint yet"
    path = rng.choice(files)
    with path.open("r+b") as file:
        file.truncate(rng.randrange(path.stat().st_size))
    return f"driver; cut {path.parent.name}/{path.name}"


def clock_ahead(run: Run, rng: random.Random) -> str:
    """The wall clock goes an hour ahead under every process, as on a machine that was suspended; they go on."""
    return _jump(run, 3600)


def clock_back(run: Run, rng: random.Random) -> str:
    """An hour back: Ray's placement groups may then stand still for that hour (docs/results/faults.md)."""
    return _jump(run, -3600)


def _jump(run: Run, seconds: int) -> str:
    assert run.clock is not None
    (off,) = struct.unpack("q", run.clock.read_bytes())
    set_clock(run.clock, off + seconds)
    return f"clock {seconds:+d} s"


Fault = Callable[[Run, random.Random], str]  # strikes, and says what it struck; empty when there was nothing to strike
FAULTS: dict[str, Fault] = {
    "driver": kill_driver, "term": terminate_driver, "worker": kill_worker, "stop": stop_worker,
    "raylet": kill_raylet, "torn": tear_checkpoint, "ahead": clock_ahead,
    "back": clock_back,
}  # fmt: skip


CLOCKS = {"ahead", "back"}  # drawn when they are asked for


@dataclass
class Outcome:
    """What one draw came to."""

    workers: str
    struck: list[str] = field(default_factory=list)
    restarts: int = 0
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)
    lost_steps: int = 0
    kept_shards: int = 0  # whole when the last fault struck


def draw(
    run: Run,
    rng: random.Random,
    kinds: Sequence[str],
    workers: Sequence[int],
    moments: Sequence[tuple[str, int]],
    until: Sequence[str] = (),
    faults: Mapping[str, Fault] = FAULTS,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Outcome:
    """Run under faults, the kinds in turn, to the end, or until these stages have ended.

    workers: of the first start, the second, and so on, in turn; moments: the stage of each fault, and the steps or
    shards after which it strikes: later where there is nothing to strike, and not at all when the stage has ended.
    """
    outcome = Outcome("->".join(map(str, workers)))
    began = moved = time.monotonic()
    run.start(workers[0])
    left = list(moments)
    whole: dict[Path, tuple[int, int]] = {}
    again: set[Path] = set()
    while True:
        assert run.process is not None
        again |= {path for path, file in run.shards().items() if whole.get(path, file) != file}
        if left and (work := run.work_in(left[0][0])) is not None and work >= left[0][1]:
            whole |= {path: file for path, file in run.shards().items() if path not in whole}
            struck = faults[kinds[len(outcome.struck) % len(kinds)]](run, rng)
            if struck:
                moved = time.monotonic()
                outcome.struck.append(f"{struck} at {left[0][0]} {work}")
            if struck or run.ended(left[0][0]):
                left.pop(0)
        elif left and run.ended(left[0][0]):
            left.pop(0)
        if time.monotonic() - moved > patience_seconds:
            run.stop_all()
            outcome.differences.append(f"hung: {_last_line(run.log)}")
            return outcome
        code = run.process.poll()
        if until and not left and all(run.ended(stage) for stage in until):
            run.stop_all()
            break
        if code is None:
            time.sleep(run.look_seconds)
        elif code == 0:
            break
        else:
            run.stop_all()
            outcome.restarts += 1
            if outcome.restarts > len(moments) + 2:
                outcome.differences.append(f"does not end: {_last_line(run.log)}")
                return outcome
            run.start(workers[outcome.restarts % len(workers)])
            moved = time.monotonic()
    outcome.seconds = time.monotonic() - began
    outcome.lost_steps = sum(_repeated(run.root))
    outcome.kept_shards = len(whole)
    if again:
        outcome.differences.append(f"{len(again)} of {len(whole)} whole shards were made again")
    return outcome


def compare(
    untouched: Path, struck: Path, allowed: Mapping[str, float] | None = None, trained: Sequence[str] = DEMO.trained
) -> list[str]:
    """What differs between two finished roots; empty when the struck run came to the same.

    trained: stages whose training is compared.
    allowed: by stage, how much losses may differ, relative; None: not at all, nor weights nor scores.
    """
    differences = []
    made = {path.name for path in untouched.iterdir()}
    for stage in [stage for stage in BYTES if stage in made]:
        differences += _bytes_that_differ(untouched, struck, f"{stage}/*/units/*.parquet")
    if "packed" in made:
        differences += _bytes_that_differ(untouched, struck, "packed/*/*/*.npy")
    for stage in [stage for stage in trained if stage in made]:
        before, after = (_manifest(root, stage)["facts"] for root in (untouched, struck))
        if before["samples"] != after["samples"]:
            differences.append(f"{stage}: other samples were trained on")
        worst = losses_apart(untouched, struck, stage)
        if worst > (allowed[stage] if allowed else 0.0):
            differences.append(f"{stage}: losses differ by {worst:.1e}")
        if not allowed:
            differences += _bytes_that_differ(untouched, struck, f"{stage}/*/model/model.safetensors")
    if not allowed:
        for stage in [stage for stage in ("untrained", *trained) if f"scores_{stage}" in made]:
            differences += _bytes_that_differ(untouched, struck, f"scores_{stage}/*/scores.parquet")
    return differences


def checksums(root: Root) -> dict[str, str]:
    """Of every file of every finished stage, as its maker wrote them down; of CLOCKED ones what no clock decides."""
    found = {}
    for path in root.names("*/*/manifest.json"):
        manifest = json.loads(root.read(path))
        folder = path.removesuffix("/manifest.json")
        facts = {k: fact for k, fact in manifest["facts"].items() if "second" not in k and k not in (RESUMED, SUMMARY)}
        found[f"{folder}: facts"] = json.dumps(facts, sort_keys=True)
        for name, file in manifest["files"].items():
            if Path(name).name not in CLOCKED:
                found[f"{folder}/{name}"] = file["sha256"]
            elif name == "history.json":
                rows = json.loads(root.read(f"{folder}/{name}"))
                found[f"{folder}: losses"] = json.dumps([(row["step"], row.get("loss")) for row in rows])
    return found


def differences(untouched: Root, struck: Root) -> list[str]:
    """Files that differ, or that only one of them has; one line when there are many."""
    before, after = checksums(untouched), checksums(struck)
    assert before
    apart = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return [*apart[:5], *([f"and {len(apart) - 5} more of {len(before)}"] if len(apart) > 5 else [])]


def losses_apart(one: Path, other: Path, stage: str) -> float:
    """The greatest relative difference of two runs' losses at equal steps; infinite when they report other steps."""
    losses = [_losses(root, stage) for root in (one, other)]
    if losses[0].keys() != losses[1].keys():
        return math.inf
    return max((abs(losses[1][step] - loss) / abs(loss) for step, loss in losses[0].items()), default=0.0)


def allow(one: Path, other: Path, trained: Sequence[str] = DEMO.trained) -> dict[str, float]:
    """What `compare` allows where the number of workers changes, from untouched runs on two numbers of them."""
    return {stage: ROOM * losses_apart(one, other, stage) for stage in trained if (one / stage).exists()}


def _bytes_that_differ(one: Path, other: Path, pattern: str) -> list[str]:
    found = [{path.relative_to(root): path for path in root.glob(pattern)} for root in (one, other)]
    if not found[0] or found[0].keys() != found[1].keys():
        return [f"{pattern}: {len(found[0])} files, then {len(found[1])}"]
    return [str(name) for name, path in found[0].items() if path.read_bytes() != found[1][name].read_bytes()]


def _manifest(root: Path, stage: str) -> dict[str, Any]:
    (path,) = root.glob(f"{stage}/*/manifest.json")
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest


def work_of(root: Path, stage: str) -> int:
    """Steps of a finished stage, or what it made that one kill may lose."""
    facts = _manifest(root, stage)["facts"]
    if batches := len(list(root.glob(f"{stage}/*/batches/*.json"))):
        return batches
    from slamray.stages.spoken_text import SHARD_DOCUMENTS

    documents = facts.get("documents", 0) + facts.get("quarantined", 0)
    return int(facts.get("step", 0) or facts.get("utterances", 0) or -(-documents // SHARD_DOCUMENTS))


def _losses(root: Path, stage: str) -> dict[int, float]:
    (path,) = root.glob(f"{stage}/*/history.json")
    return {row["step"]: row["loss"] for row in json.loads(path.read_text()) if "loss" in row}


def _repeated(root: Path) -> list[int]:
    """Steps that each training stage reported more than once: work that was lost."""
    lost = []
    for path in root.glob("*/*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines() if line.endswith("}")]
        lost.append(len(steps) - len(set(steps)))
    return lost


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def _give(stages: Sequence[str], one: Run, other: Run) -> None:
    """Finished stages of one run for another that has none of them yet."""
    for stage in stages:
        if (one.root / stage).exists() and not (other.root / stage).exists():
            shutil.copytree(one.root / stage, other.root / stage)


def main(arguments: Sequence[str]) -> int:
    """The table of all draws; 1 when one of them differs."""
    given = dict(word.split("=", 1) for word in arguments)
    known = {"N", "JOB", "SEED", "KINDS", "WORKERS", "ACTORS", "STRIKES", "AT", "ZERO", "ROOT", "PATIENCE"}
    unknown = given.keys() - known
    kinds = given.get("KINDS", ",".join(kind for kind in FAULTS if kind not in CLOCKS)).split(",")
    if unknown or not set(kinds) <= FAULTS.keys() or given.get("JOB", "demo") not in JOBS:
        sys.stderr.write(f"error: {sorted(unknown) or kinds}: kinds are {','.join(FAULTS)}\n{__doc__}\n")
        return 2
    job, patience = JOBS[given.get("JOB", "demo")], float(given.get("PATIENCE", PATIENCE_SECONDS))
    count, seed, strikes = int(given.get("N", 50)), int(given.get("SEED", 0)), int(given.get("STRIKES", 1))
    at = given["AT"].split(",") if "AT" in given else list(job.struck)
    root = Path(given.get("ROOT") or tempfile.mkdtemp(prefix="chaos-"))
    words = job.words(root / "models")
    words += [f"compute.zero_stage={given['ZERO']}"] if "ZERO" in given else []
    numbers = {"1": [1], "2": [2], "mixed": [1, 2]}
    workers = numbers[given.get("WORKERS", "1")]
    began = time.monotonic()
    until = () if job.whole else job.trained
    whole = [Run(root / f"untouched-{n}", words, root / f"untouched-{n}.log", job.script) for n in workers]
    for n, run in zip(workers, whole, strict=True):
        _give(job.given, whole[0], run)
        left_alone = draw(run, random.Random(0), kinds, [n], [], until, patience_seconds=patience)
        assert not left_alone.restarts and not left_alone.differences, _last_line(run.log)
    untouched = whole[0]
    allowed = allow(whole[0].root, whole[1].root, job.trained) if len(workers) > 1 else None
    work = {stage: work_of(untouched.root, stage) for stage in at}
    spoken = [stage for stage in BYTES if (untouched.root / stage).exists()]
    shards = sum(_manifest(untouched.root, stage)["facts"]["utterances"] for stage in spoken)
    steps = sum(_manifest(untouched.root, stage)["facts"]["step"] for stage in job.trained)
    if allowed:
        print("losses may differ by " + ", ".join(f"{by:.1e} ({stage})" for stage, by in allowed.items()))
    print(
        f"untouched: {time.monotonic() - began:.0f} s, {steps} steps, {shards} "
        f"shards (kept: whole at the last fault); roots under {root}"
    )
    print(f"{'draw':>4}  {'fault':<14}{'workers':<12}{'starts':>7}{'seconds':>9}{'lost':>9}{'kept':>7}  struck; result")
    bad = 0
    for number in range(count):
        rng = random.Random(f"{seed}:{number}")
        own = kinds[number % len(kinds) :] + kinds[: number % len(kinds)]
        run = Run(root / f"draw-{number}", words, root / f"draw-{number}.log", job.script)
        _give(job.given, untouched, run)
        run.actors = numbers[given.get("ACTORS", "1")]
        if CLOCKS & set(kinds):
            run.clock = make_clock(root / f"clock-{number}")
        stages = [at[(number + strike) % len(at)] for strike in range(strikes)]
        moments = sorted(
            ((stage, rng.randrange(work[stage])) for stage in stages), key=lambda m: (at.index(m[0]), m[1])
        )
        outcome = draw(run, rng, own, workers, moments, until, patience_seconds=patience)
        if not outcome.differences:
            outcome.differences = compare(untouched.root, run.root, allowed, job.trained)
            if job.every_file:
                outcome.differences += differences(Disk(untouched.root), Disk(run.root))
        bad += bool(outcome.differences)
        lost = f"{100 * outcome.lost_steps / steps:.0f} %"
        print(
            f"{number:>4}  {','.join(own[:strikes]):<14}{outcome.workers:<12}{outcome.restarts + 1:>7}"
            f"{outcome.seconds:>9.0f}{lost:>9}{outcome.kept_shards:>7}  "
            f"{', '.join(outcome.struck) or 'ended first'}; {'; '.join(outcome.differences) or 'the same'}",
            flush=True,
        )
    print(f"{count - bad} of {count} draws came to the same as the untouched run")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
