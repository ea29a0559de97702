"""Strike a cluster of hosts that makes the demo recipe, and compare with one machine that nobody touched.

    python tests/faults/hosts.py [N=15] [JOB=demo|sweep] [ROOT=shared|s3] [KINDS=kill,power,...] [STRIKES=3] [SEED=0]
        [AT=units,pretrained,aligned] [FOLDER=folder]

A head and three workers of one core each are network namespaces on this machine (tests/support/namespaces.py): own
addresses, own /tmp, and a common folder, or with ROOT=s3 none, but moto's server on a host of its own. Ray runs there
with token authentication. The demo recipe with tiny models, trained by two workers on two hosts, is submitted as a job
from another host, which does not see the common folder. First come a request without the token (token), a cluster one
of whose hosts does not see the root (blind, ROOT=shared), and a job from a wheel that nobody strikes (wheel). Then
come N jobs, struck STRIKES times each, by the other KINDS in turn, after random steps or shards of the stages of AT.
What is struck comes back by itself, the next strike waits for that, and when the job ends badly the same command is
given again. Every file of every stage must at the end have the checksum that it has on one machine; of those that tell
seconds, the losses and the other facts. The table is one line a run; the last line is JSON.

JOB=sweep: the sweep dpo_budget over two points, trained side by side on two hosts. Each of KINDS strikes N times, a
host that trains, once in each run, and the sweep's table must be that of one machine in all but the seconds.
"""

from __future__ import annotations

import functools
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError
from chaos import LONGER, REPOSITORY, Disk, Outcome, Root, Run, checksums, differences, draw
from killed_sweep import SWEEP, VARIED
from support import tiny
from support.namespaces import IMAGE, SHARED, Host, Switch, Views, possible, within
from support.wheel import make_wheel

import slamray

STAGES = ("units", "pretrained", "aligned")
WORKERS = 3  # hosts; two of them train
WORKING = ("ray::RayTrainWorker", "ray::MapWorker")  # titles of processes that train, speak, encode or score
BOOT_SECONDS = 10.0  # until a host that was switched off is there again
NOTICED_SECONDS = 75.0  # Ray takes a node that is silent for some 50 s for dead (2.60's defaults: five checks in a row)
UNNOTICED_SECONDS = 15.0
STRAINED_SECONDS = 45.0  # how long a network is bad, or a disk full
JOINED_SECONDS = 180.0  # until all hosts must be there again
PORT, STORE_PORT, BUCKET = 8265, 9000, "bucket"
# Files that tell seconds. Losses and facts that they tell besides are compared one by one.
SHORTER = ["pretrain.budget=steps:120", "dpo.budget=steps:40"]  # `chaos` has more steps; these cross a network


@dataclass
class Cluster:
    """The hosts, and what a person at a sixth machine may do with them."""

    folder: Path
    switch: Switch
    head: Host
    workers: list[Host]
    client: Host
    store: Host | None = None  # moto's server; None: the hosts have a common folder
    boots: dict[str, int] = field(default_factory=dict)
    _waiting: list[threading.Timer] = field(default_factory=list)  # what mends a fault later

    @property
    def hosts(self) -> list[Host]:
        return [self.head, *self.workers]

    @property
    def address(self) -> str:
        return f"http://{self.head.address}:{PORT}"

    def root(self, name: str) -> Root:
        """A root of the hosts, as the harness sees it."""
        if self.store is None:
            return Disk(self.folder / "shared" / name)
        return Store(self.client.namespace, self.endpoint, f"runs/{name}")

    def address_of(self, name: str) -> str:
        """The same, as the hosts name it."""
        return f"s3://{BUCKET}/runs/{name}" if self.store else str(SHARED / name)

    @property
    def endpoint(self) -> str:
        assert self.store is not None
        return f"http://{self.store.address}:{STORE_PORT}"

    def boot(self, host: Host) -> None:
        """Switch a host on; Ray is started again there whenever it has ended."""
        self.boots[host.name] = self.boots.get(host.name, 0) + 1
        sizes = f"--num-cpus={int(host is not self.head)} --object-store-memory=120000000"
        place = f"--node-ip-address={host.address} --node-name={self.node(host)}"
        if host is self.head:
            role = f"--head --port=6379 --dashboard-host={host.address} --dashboard-port={PORT}"
        else:
            role = f"--address={self.head.address}:6379"
        start = f"ray start {role} {place} {sizes} --disable-usage-stats --block"
        host.power_on(f"while true; do {start}; kill -9 -1; sleep 2; done", self._environment(IMAGE / "token"))

    def _environment(self, token: Path) -> dict[str, str]:
        ours = {name: os.environ[name] for name in ("HOME", "LANG", "TORCH_EXTENSIONS_DIR") if name in os.environ}
        more = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        if self.store:
            more |= {"AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "any"}
            more |= {"AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true"}
        return ours | more | {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", "MALLOC_MMAP_THRESHOLD_": "8589934592",
            "MALLOC_TRIM_THRESHOLD_": "8589934592", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",  # what `ray job submit` prints is read as it comes
            "PIP_NO_DEPS": "1",  # Ray installs a job's wheel by pip, which would look for all that it names
            "RAY_memory_monitor_refresh_ms": "0",  # it looks at the memory of the whole machine, which others use too
        }  # fmt: skip

    def ask(self, path: str, token: bool = True, body: str = "") -> tuple[int, str]:
        """What the head's HTTP server answers the client: status and text; (0, why) without an answer."""
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {(self.folder / 'image' / 'token').read_text()}"
        asked = urllib.request.Request(self.address + path, data=body.encode() or None, headers=headers)

        def answer() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(asked, timeout=10) as found:
                    return found.status, found.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError as error:
                return 0, str(error)

        status, text = within(self.client.namespace, answer)
        return status, text

    def node(self, host: Host) -> str:
        """Ray's name for a host since it was last switched on: one that has just ended is listed for a while."""
        return f"{host.name}.{self.boots.get(host.name, 0)}"

    def alive(self) -> set[str]:
        """Names of the nodes that Ray counts on."""
        status, text = self.ask("/api/v0/nodes")
        if status != 200:
            return set()
        found = json.loads(text)["data"]["result"]["result"]
        return {node["node_name"] for node in found if node["state"] == "ALIVE"}

    def later(self, seconds: float, mend: Callable[[], None]) -> None:
        """End a fault after a while."""
        timer = threading.Timer(seconds, mend)
        timer.daemon = True
        self._waiting.append(timer)
        timer.start()

    def gather(self) -> None:
        """Until every host is there, as somebody who looks after a cluster would have it."""
        for timer in self._waiting:
            timer.join()
        self._waiting.clear()
        if self.store and not self.store.alive:
            self.store.power_on(f"exec moto_server -H 0.0.0.0 -p {STORE_PORT}", self._environment(IMAGE / "token"))
            Store(self.client.namespace, self.endpoint, "").make_bucket()
        for host in self.hosts:
            if not host.alive:
                self.boot(host)
        wanted, began = {self.node(host) for host in self.hosts}, time.monotonic()
        while (alive := self.alive()) != wanted:
            if time.monotonic() - began > JOINED_SECONDS:
                raise RuntimeError(f"in the cluster after {JOINED_SECONDS:.0f} s, or not: {sorted(wanted ^ alive)}")
            time.sleep(1.0)

    def submit(
        self, name: str, script: str, words: Sequence[str], log: Path, wheel: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """`ray job submit` on the client, which sees the repository and no folder of the cluster's."""
        environment: dict[str, Any] = {"env_vars": {"SLAMRAY_COMMIT": "of the harness"}}
        folder = REPOSITORY
        if wheel:
            environment |= {"py_modules": [str(wheel)]}
            folder, script = (REPOSITORY / script).parent, Path(script).name
        command = ["ray", "job", "submit", "--address", self.address, "--submission-id", name, "--working-dir",
                   str(folder), "--runtime-env-json", json.dumps(environment), "--", "python", script]  # fmt: skip
        token = self.folder / "image" / "token"
        with log.open("ab") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.client.namespace, *command, *words],
                cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env=self._environment(token),
            )  # fmt: skip

    def stop(self, name: str) -> None:
        """No such job runs any more."""
        self.ask(f"/api/jobs/{name}/stop", body="{}")
        for _ in range(120):
            status, text = self.ask(f"/api/jobs/{name}")
            if status != 200 or json.loads(text)["status"] in ("STOPPED", "FAILED", "SUCCEEDED"):
                return
            time.sleep(0.5)


def make_cluster(folder: Path, s3: bool) -> Cluster:
    """Hosts that are not switched on yet, with tiny models and a token in what all of them have alike."""
    for name in ("image", "shared"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tiny.make_encoder(folder / "image" / "hubert")
    tiny.make_lm(folder / "image" / "lm")
    tiny.make_vocoder(folder / "image" / "vocoder")
    (folder / "image" / "token").write_text(os.urandom(32).hex())
    (folder / "image" / "token").chmod(0o600)
    installed = {REPOSITORY / "slamray", Path(sys.prefix).parent / "slamray", *map(Path, slamray.__path__)}
    hidden = sorted(path for path in installed if path.is_dir() and not str(path).startswith("/tmp/"))
    views = Views(None if s3 else folder / "shared", folder / "image", hidden)
    switch = Switch(f"slam{os.getpid()}")
    head, *workers = [switch.add(f"host-{n}", folder, views) for n in range(WORKERS + 1)]
    client = switch.add("client", folder, views)
    return Cluster(folder, switch, head, workers, client, switch.add("store", folder, views) if s3 else None)


def recipe_words(image: Path) -> list[str]:
    """The demo recipe's words for the tiny models of this folder; two workers train."""
    return [*tiny.words(image / "hubert", image / "lm", image / "vocoder"), *LONGER, *SHORTER]


@functools.cache
def store_client(endpoint: str) -> Any:
    """Made once, as that takes a tenth of a second of a core."""
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
    return boto3.session.Session().client("s3", endpoint_url=endpoint, **keys)


@dataclass(frozen=True)
class Store:
    """A folder of the bucket, reached from a host."""

    namespace: str
    endpoint: str
    folder: str

    def names(self, pattern: str) -> list[str]:
        def listed() -> list[str]:
            pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.folder}/")
            keys = [one["Key"].removeprefix(f"{self.folder}/") for page in pages for one in page.get("Contents", [])]
            return [key for key in keys if key.count("/") == pattern.count("/") and fnmatch(key, pattern)]

        found: list[str] = within(self.namespace, listed)
        return found

    def read(self, name: str) -> bytes:
        key = f"{self.folder}/{name}"
        content: bytes = within(
            self.namespace, lambda: self._client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        )
        return content

    def make_bucket(self) -> None:
        """Once the server answers."""

        def make() -> bool:
            try:
                self._client().create_bucket(Bucket=BUCKET)
                return True
            except BotoCoreError:  # it does not listen yet
                return False

        while not within(self.namespace, make):
            time.sleep(0.5)

    def _client(self) -> Any:
        return store_client(self.endpoint)


@dataclass
class JobRun(Run):
    """A root that the hosts see, and the job that fills it."""

    look_seconds: float = 1.0  # a look asks an object store
    cluster: Cluster | None = None
    wheel: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.root.name}-{self.starts}"

    @property
    def seen(self) -> Root:
        """Its root as the harness sees it."""
        assert self.cluster is not None
        return self.cluster.root(self.root.name)

    def work_in(self, stage: str) -> int | None:
        """Steps, or shards, that a stage has behind it; None when it does not run in this start."""
        if not self._says(f"{stage} +starts") or self._says(f"{stage} +done"):
            return None
        return self.steps(stage) or len(self.seen.names(f"{stage}/*/shards/*.arrow"))

    def steps(self, stage: str) -> int:
        """The most steps that any training of this stage has told."""
        told = [self.seen.read(name).decode() for name in self.seen.names(f"{stage}/*/metrics.jsonl")]
        lines = [line for text in told for line in text.splitlines() if line.endswith("}")]
        return max((json.loads(line)["step"] for line in lines), default=0)

    def ended(self, stage: str) -> bool:
        return bool(self.seen.names(f"{stage}/*/manifest.json"))

    def start(self, workers: int) -> None:
        """Give the command when the hosts are there."""
        assert self.cluster is not None
        self.cluster.gather()
        self.starts += 1
        self._log_begins = self.log.stat().st_size if self.log.exists() else 0
        words = [*self.words, f"compute.workers={workers}", f"root={self.cluster.address_of(self.root.name)}"]
        self.process = self.cluster.submit(self.name, self.job, words, self.log, self.wheel)

    def stop_all(self) -> None:
        assert self.cluster is not None and self.process is not None
        self.process.kill()
        self.process.wait()
        self.cluster.stop(self.name)


Strike = Callable[[Cluster, Host], None]


def kill(cluster: Cluster, host: Host) -> None:
    """All processes of a host end, and its kernel says so to whom they talked."""
    host.power_off()
    cluster.later(BOOT_SECONDS, lambda: cluster.boot(host))


def power(cluster: Cluster, host: Host) -> None:
    """A host is gone, and nobody is told."""
    host.unplug()
    host.power_off()

    def back() -> None:
        host.plug_in()
        cluster.boot(host)

    cluster.later(NOTICED_SECONDS, back)


def cut(cluster: Cluster, host: Host) -> None:
    """A host is not reached for a while, too short for Ray to give it up."""
    host.unplug()
    cluster.later(UNNOTICED_SECONDS, host.plug_in)


def away(cluster: Cluster, host: Host) -> None:
    """A host is not reached for so long that Ray gives it up, while all goes on there."""
    host.unplug()
    cluster.later(NOTICED_SECONDS, host.plug_in)


def drop(cluster: Cluster, host: Host) -> None:
    """One frame in twenty is lost in either direction."""
    host.bend(0.0, 0.05)
    cluster.later(STRAINED_SECONDS, host.straighten)


def late(cluster: Cluster, host: Host) -> None:
    """Every frame takes a tenth of a second."""
    host.bend(0.1, 0.0)
    cluster.later(STRAINED_SECONDS, host.straighten)


def slow(cluster: Cluster, host: Host) -> None:
    """Four megabits a second."""
    host.limit("4mbit")
    cluster.later(STRAINED_SECONDS, host.unlimit)


def disk(cluster: Cluster, host: Host) -> None:
    """No byte is left on a host's own disk."""
    host.inside("sh", "-c", "dd if=/dev/zero of=/tmp/full bs=64k 2>/dev/null; test -s /tmp/full")

    def free() -> None:
        if host.alive:
            host.inside("rm", "-f", "/tmp/full")

    cluster.later(STRAINED_SECONDS, free)


def head(cluster: Cluster, host: Host) -> None:
    """The head ends with everything that it knew, and comes back empty."""
    cluster.head.power_off()
    cluster.later(BOOT_SECONDS, lambda: cluster.boot(cluster.head))


KINDS: dict[str, Strike] = {
    "kill": kill, "power": power, "cut": cut, "away": away, "drop": drop, "late": late, "slow": slow, "disk": disk,
    "head": head,
}  # fmt: skip


TOKEN, BLIND, WHEEL = "token", "blind", "wheel"  # no strikes: what is refused, and a job from a wheel
EVERYTHING = (TOKEN, BLIND, WHEEL, *KINDS)


def fault(kind: str, strike: Strike) -> Callable[[Run, random.Random], str]:
    """A strike as `draw` gives it; none while an earlier one is being mended."""

    def struck(run: Run, rng: random.Random) -> str:
        assert isinstance(run, JobRun) and run.cluster is not None
        cluster = run.cluster
        if any(timer.is_alive() for timer in cluster._waiting) or len(cluster.alive()) <= WORKERS:
            return ""
        busy = [one for one in cluster.workers if one.alive and any(mark in one.titles() for mark in WORKING)]
        host = cluster.head if strike is head else rng.choice(busy or cluster.workers)
        strike(cluster, host)
        return f"{kind} of {host.name}"

    return struck


def unknown_refused(cluster: Cluster) -> list[int]:
    """What the job server answers to who has no token: asked for its jobs, and given one."""
    cluster.gather()
    job = json.dumps({"entrypoint": "true"})
    return [cluster.ask("/api/jobs/", token=False)[0], cluster.ask("/api/jobs/", token=False, body=job)[0]]


def blind_refused(cluster: Cluster) -> dict[str, Any]:
    """What becomes of a job where one host does not see the common folder."""
    blind = cluster.workers[-1]
    seeing = blind.views
    blind.power_off()
    blind.views = replace(seeing, shared=None)
    log = cluster.folder / "blind.log"
    run = JobRun(cluster.folder / "shared" / "blind", recipe_words(IMAGE), log, cluster=cluster)
    run.start(2)
    assert run.process is not None
    code = run.process.wait()
    said = sorted({line for line in run.log.read_text().splitlines() if line.startswith("error: ")})
    blind.power_off()
    blind.views = seeing
    return {"exit": code, "said": said, "stages_begun": sum(path.is_dir() for path in run.root.glob("*/*"))}


def main(arguments: Sequence[str]) -> int:
    """The table of all runs; 1 when one of them differs, 2 where hosts cannot be made."""
    given = dict(word.split("=", 1) for word in arguments)
    unknown = given.keys() - {"N", "JOB", "ROOT", "KINDS", "STRIKES", "AT", "SEED", "FOLDER"}
    job, root = given.get("JOB", "demo"), given.get("ROOT", "shared")
    kinds = given["KINDS"].split(",") if given.get("KINDS") else list(KINDS if job == "sweep" else EVERYTHING)
    if unknown or not set(kinds) <= set(EVERYTHING) or root not in ("shared", "s3") or job not in ("demo", "sweep"):
        sys.stderr.write(
            f"error: {sorted(unknown) or (job, root, kinds)}: kinds are {','.join(EVERYTHING)}\n{__doc__}\n"
        )
        return 2
    if not possible():
        sys.stderr.write("error: hosts are made of namespaces, which takes root and /dev/net/tun\n")
        return 2
    count, seed, strikes = int(given.get("N", 15)), int(given.get("SEED", 0)), int(given.get("STRIKES", 3))
    at = given["AT"].split(",") if "AT" in given else list(STAGES)
    folder = Path(given.get("FOLDER") or tempfile.mkdtemp(prefix="hosts-"))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # no host is left behind
    cluster = make_cluster(folder, root == "s3")
    try:
        if job == "sweep":
            return _sweeps(cluster, kinds, count, seed)
        return _table(cluster, kinds, count, strikes, at, seed)
    finally:
        cluster.switch.remove()


def _table(cluster: Cluster, kinds: Sequence[str], count: int, strikes: int, at: Sequence[str], seed: int) -> int:
    folder, none = cluster.folder, random.Random(0)
    untouched = Run(folder / "untouched", recipe_words(folder / "image"), folder / "untouched.log")
    alone = draw(untouched, none, [], [2], [])
    assert not alone.restarts and not alone.differences, f"read {untouched.log}"
    alike = Disk(untouched.root)
    facts = {path.parent.parent.name: json.loads(path.read_text())["facts"]
             for path in untouched.root.glob("*/*/manifest.json")}  # fmt: skip
    work = {stage: facts[stage].get("step", 0) or facts[stage]["utterances"] for stage in at}
    print(f"one machine: {alone.seconds:.0f} s, {len(checksums(alike))} files; under {folder}", flush=True)
    result: dict[str, Any] = {}
    if TOKEN in kinds:
        result[TOKEN] = unknown_refused(cluster)
    if BLIND in kinds and cluster.store is None:
        result[BLIND] = blind_refused(cluster)
    print(f"refused: {json.dumps(result)}", flush=True)

    faults: Mapping[str, Any] = {kind: fault(kind, strike) for kind, strike in KINDS.items()}
    print(f"{'run':<8}{'starts':>7}{'seconds':>9}{'lost':>6}  struck; result")

    def one(name: str, own: Sequence[str], moments: list[tuple[str, int]], wheel: Path | None = None) -> Outcome:
        root, log = folder / "shared" / name, folder / f"{name}.log"
        run = JobRun(root, recipe_words(IMAGE), log, cluster=cluster, wheel=wheel)
        outcome = draw(run, random.Random(f"{seed}:{name}"), own, [2], moments, (), faults)
        if not outcome.differences:
            outcome.differences = differences(alike, run.seen)
        print(
            f"{name:<8}{outcome.restarts + 1:>7}{outcome.seconds:>9.0f}{outcome.lost_steps:>6}  "
            f"{', '.join(outcome.struck) or 'nothing struck'}; {'; '.join(outcome.differences) or 'the same'}",
            flush=True,
        )
        return outcome

    outcomes = []
    if WHEEL in kinds:
        outcomes.append(one(WHEEL, [], [], make_wheel(folder)))
        result[WHEEL] = outcomes[0].differences or "the same"
    striking = [kind for kind in kinds if kind in KINDS]
    for number in range(count if striking else 0):
        rng = random.Random(f"{seed}:{number}")
        first = number * strikes % len(striking)
        stages = [at[strike % len(at)] for strike in range(strikes)]
        moments = [(stage, rng.randrange(work[stage])) for stage in stages]
        moments.sort(key=lambda moment: (at.index(moment[0]), moment[1]))
        outcomes.append(one(f"run-{number}", striking[first:] + striking[:first], moments))
    struck = [(strike.split()[0], not one.differences) for one in outcomes for strike in one.struck]
    result["strikes"] = {
        kind: {"in_all": sum(one == kind for one, _ in struck), "came_to_the_same": struck.count((kind, True))}
        for kind in striking
    }
    print(json.dumps(result))
    return int(any(one.differences for one in outcomes))


def _sweeps(cluster: Cluster, kinds: Sequence[str], count: int, seed: int) -> int:
    folder = cluster.folder
    varied = (*VARIED, "sweep.seeds")

    def words(image: Path) -> list[str]:
        given = [*recipe_words(image), *SWEEP]
        return [word for word in given if not word.startswith(varied) or word in SWEEP] + ["sweep.seeds=[0]"]

    untouched = Run(folder / "untouched", words(folder / "image"), folder / "untouched.log", "jobs/sweep.py")
    alone = draw(untouched, random.Random(0), [], [1], [])
    assert not alone.restarts, f"read {untouched.log}"
    expected = sweep_table(Disk(untouched.root))
    print(f"one machine: {alone.seconds:.0f} s, {len(expected)} trials; under {folder}", flush=True)
    print(f"{'run':<12}{'starts':>7}{'seconds':>9}  struck; result")
    same = dict.fromkeys(kinds, 0)
    for kind, number in [(kind, number) for kind in kinds for number in range(count)]:
        name, rng = f"{kind}-{number}", random.Random(f"{seed}:sweep:{kind}:{number}")
        run = JobRun(folder / "shared" / name, words(IMAGE), folder / f"{name}.log", "jobs/sweep.py", cluster=cluster)
        steps, began, struck = rng.randrange(1, 60), time.monotonic(), ""
        run.start(1)
        while True:
            assert run.process is not None
            if not struck and run.steps("pretrained") >= steps:
                host = fault(kind, KINDS[kind])(run, rng)
                struck = host and f"{host} at pretrained {steps}"
            code = run.process.poll()
            if code == 0:
                break
            if code is not None:
                run.stop_all()
                assert run.starts < 4, f"does not end: read {run.log}"
                run.start(1)
            time.sleep(run.look_seconds)
        alike = sweep_table(run.seen) == expected
        same[kind] += alike
        print(
            f"{name:<12}{run.starts:>7}{time.monotonic() - began:>9.0f}  {struck or 'nothing struck'}; "
            f"{'the same' if alike else 'ANOTHER TABLE'}",
            flush=True,
        )
    print(json.dumps({"sweep": {kind: {"runs": count, "the_same": same[kind]} for kind in kinds}}))
    return int(any(found < count for found in same.values()))


def sweep_table(root: Root) -> list[dict[str, Any]]:
    """The sweep's rows without what a clock decides."""
    (name,) = root.names("sweep/*/runs.parquet")
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(root.read(name))).to_pylist()
    return [{key: value for key, value in row.items() if key != "train_seconds"} for row in rows]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
