"""A root in an object store: moto's S3 server on loopback, and a gate before it that fails."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.machine import InProcess
from support.object_store import BUCKET, Gate, fetch

from slamray import store
from slamray.errors import BadInput
from slamray.stage import cache, claims, objects
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.objects import Objects
from slamray.stage.stage import MANIFEST, Inputs, Stage, flaws, prune
from slamray.stage.work import Machine

ROOT = f"s3://{BUCKET}/runs"


@pytest.fixture
def root(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(objects, "LONGEST_WAIT_SECONDS", 0.2)
    return Folder(ROOT)


class Work:
    """Two stages that count how often they ran: the second doubles what the first wrote."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.units = Stage("units", self._units, {"n": 3})
        self.packed = Stage("packed", self._packed, {}, (self.units,))

    def _units(self, inputs: Inputs, out: Folder, machine: Machine, n: int) -> dict[str, Any]:
        self.ran.append("units")
        out.write("shards/0.txt", b"21")
        return {}

    def _packed(self, inputs: Inputs, out: Folder, machine: Machine) -> dict[str, Any]:
        self.ran.append("packed")
        doubled = str(2 * int(inputs["units"].fetch("shards/0.txt").read_text()))
        out.write_tree("rows", lambda path: store.write_atomic(path / "rows.txt", doubled.encode()))
        return {"rows": 1}

    def make(self, root: Folder | Path, *targets: Stage) -> dict[str, Any]:
        return materialise(targets, root, InProcess(), {})


ANY = ("GET", "HEAD", "PUT", "DELETE", "POST")


def failing(times: int, how: str, methods: tuple[str, ...] = ANY) -> Any:
    """Trouble for the next so many requests."""
    left = itertools.count(times, -1)
    return lambda method, path: how if method in methods and next(left) > 0 else ""


def test_a_machine_with_an_empty_cache_goes_on_where_another_stopped(
    root: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work()
    work.make(root, work.units)
    monkeypatch.setenv("SLAMRAY_CACHE", str(tmp_path / "another machine's"))
    work.make(root, work.packed)
    assert work.ran == ["units", "packed"]
    assert work.packed.folder(root).read("rows/rows.txt") == b"42"
    work.make(root, work.packed)
    assert work.ran == ["units", "packed"]


def test_a_store_holds_what_a_disk_would(root: Folder, tmp_path: Path) -> None:
    work = Work()
    there, here = work.make(root, work.packed), work.make(tmp_path / "runs", work.packed)
    for name in ("units", "packed"):
        assert there[name]["files"] == here[name]["files"] and len(there[name]["files"]) == 1
        assert there[name]["fingerprint"] == here[name]["fingerprint"]
    assert list((tmp_path / "cache" / "roots").glob("*/scratch/*")) == []
    assert flaws(work.packed, root) == []
    assert [name for name in Objects(ROOT).sizes() if ".locks" in name] == []


@pytest.mark.parametrize("place", ["disk", "store"])
def test_a_folder_does_the_same_on_a_disk_and_in_a_store(root: Folder, tmp_path: Path, place: str) -> None:
    folder = (root if place == "store" else Folder(tmp_path)) / "stage" / "0123"
    assert not folder.exists("a") and folder.names("*") == [] and folder.files() == {}
    assert not folder.fetch("a").exists()
    with pytest.raises(FileNotFoundError):
        folder.read("a")
    hidden, steps = "parts/.hidden", ["steps/step-1/x", "steps/step-2/x"]
    parts = ["parts/part-00000.txt", "parts/part-00001.txt"]
    for name in (*reversed(parts), hidden, *reversed(steps), "a"):
        folder.write(name, name.encode())
    assert folder.names("parts/part-*.txt") == parts
    assert folder.names("steps/step-*") == ["steps/step-1", "steps/step-2"]
    assert (folder / "steps").names("step-*") == ["step-1", "step-2"]
    assert folder.parent.names("*/a") == ["0123/a"]
    assert list(folder.files()) == ["a", *parts, *steps]
    assert folder.files()["a"] == 1
    assert folder.fetch("steps/step-1").joinpath("x").read_text() == "steps/step-1/x"
    folder.write_tree("steps", lambda path: store.write_atomic(path / "new" / "y", b"y"))
    assert folder.names("steps/*") == ["steps/new"]
    assert [path.name for path in folder.fetch("steps").rglob("*") if path.is_file()] == ["y"]
    folder.remove("parts")
    folder.remove("parts")
    assert list(folder.files()) == ["a", "steps/new/y"]
    assert Folder(str(folder)) == folder and folder.name == "0123"
    folder.write("bad.json", b"{")
    with pytest.raises(BadInput, match=r"0123/bad.json: not JSON"):
        folder.read_json("bad.json")


def test_a_file_that_rots_in_the_store_is_named(root: Folder) -> None:
    work = Work()
    work.make(root, work.units)
    folder = work.units.folder(root)
    folder.write("shards/0.txt", b"22")
    assert flaws(work.units, root) == [f"{folder}/shards/0.txt: does not match its checksum"]
    assert prune(work.units, root, "shards") == 2
    assert folder.names("*") == [MANIFEST]


# What fails for a while


# What each fault strikes, and what its line names.
FAULTS = {
    "500": (ANY, "HTTP status 500"),
    "slow": (ANY, "imeout"),
    "refused": (ANY, "NETWORK_CONNECTION"),
    "torn": (("GET",), ""),
    "flipped": (("GET",), "what came does not match its checksum"),
    "denied": (ANY, "Access Denied"),
    "full": (("PUT", "POST"), "Storage backend has reached its minimum free drive threshold"),
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_hiccup_of_the_store_costs_no_work(
    root: Folder, gate: Gate, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(objects, "TIMEOUT_SECONDS", 0.5)
    work = Work()
    gate.trouble, gate.slow_seconds = failing(5, how, FAULTS[how][0]), 1.0
    work.make(root, work.packed)
    assert work.packed.folder(root).read("rows/rows.txt") == b"42"
    assert work.ran == ["units", "packed"] and flaws(work.packed, root) == flaws(work.units, root) == []


@pytest.mark.parametrize("how", ["torn", "flipped"])
def test_what_comes_torn_is_never_used(root: Folder, gate: Gate, how: str) -> None:
    content = bytes(range(256)) * 100
    root.write("model", content)
    gate.trouble = failing(3, how, ("GET",))
    assert root.fetch("model").read_bytes() == content
    gate.trouble = failing(3, how, ("GET",))
    assert root.read("model") == content


@pytest.mark.parametrize("how", FAULTS)
def test_a_store_that_goes_on_failing_is_one_line_and_the_same_command_goes_on(
    root: Folder, gate: Gate, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("SLAMRAY_STORE_SECONDS", "0.5")
    monkeypatch.setattr(objects, "TIMEOUT_SECONDS", 0.5)
    work, (methods, said) = Work(), FAULTS[how]

    def breaks(inputs: Inputs, out: Folder, machine: Machine) -> dict[str, Any]:
        gate.trouble, gate.slow_seconds = failing(10_000, how, methods), 1.0
        return work._packed(inputs, out, machine)

    with pytest.raises(BadInput, match=rf"^root={ROOT}\S*: .*; the store has failed for 0 s; .* goes on$") as told:
        work.make(root, dataclasses.replace(work.packed, work=breaks))
    assert "\n" not in str(told.value) and said in str(told.value)
    gate.trouble = lambda method, path: ""
    assert flaws(work.units, root) == [] and not work.packed.is_done(root)
    work.make(root, work.packed)
    assert work.ran == ["units", "packed", "packed"]
    assert work.packed.folder(root).read("rows/rows.txt") == b"42"


@pytest.mark.parametrize("how", ["500", "refused", "slow", "denied", "full"])
def test_a_store_that_fails_before_any_work_is_named_at_once(
    root: Folder, gate: Gate, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(objects, "TIMEOUT_SECONDS", 0.5)
    gate.trouble, gate.slow_seconds = failing(10_000, how, FAULTS[how][0]), 2.0
    with pytest.raises(BadInput, match=rf"^root={ROOT}: .*; mend the store or its credentials$"):
        root.check()


def test_a_bucket_that_is_not_there_is_named(root: Folder) -> None:
    root.check()
    assert Objects(ROOT).sizes() == {}
    with pytest.raises(BadInput, match=r"^root=s3://nobody/runs: there is no bucket nobody; make it, or mend"):
        Folder("s3://nobody/runs").check(writes=False)


# The cache


def gets(gate: Gate, name: str) -> int:
    return sum(method == "GET" and path.split("?")[0].endswith(name) for method, path in gate.asked)


def test_processes_of_a_machine_fetch_a_file_once(root: Folder, gate: Gate) -> None:
    root.write("model", bytes(3_000_000))
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=fetch, args=(f"{ROOT}/model", 3_000_000, 2)) for _ in range(2)]
    for one in others:
        one.start()
    for one in others:
        one.join()
        assert one.exitcode == 0
    assert gets(gate, "/runs/model") == 1
    root.write("model", bytes(2_999_999))
    assert len(root.fetch("model").read_bytes()) == 2_999_999


def test_the_cache_keeps_to_its_size_and_to_what_was_used_last(
    root: Folder, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLAMRAY_CACHE_GB", "0.0025")
    for name in "abc":
        root.write(name, bytes(1_000_000))
    monkeypatch.setattr(cache, "IN_USE_SECONDS", 0.0)
    root.fetch("a"), root.fetch("b"), root.fetch("a"), root.fetch("c")
    assert [Objects(ROOT).cached(name).exists() for name in "abc"] == [True, False, True]
    with root.fetch("b").open("rb") as opened:  # "a" goes
        monkeypatch.setattr(cache, "IN_USE_SECONDS", 600.0)
        root.fetch("a")  # nothing goes: all was asked for in the last minutes
        assert len(opened.read()) == 1_000_000
    assert [Objects(ROOT).cached(name).exists() for name in "abc"] == [True, True, True]


# Claims


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT_SECONDS": 1.0, "SILENT_SECONDS": 3.0, "LOOK_SECONDS": 0.3}.items():
        monkeypatch.setattr(claims, name, seconds)


def leave_claim(folder: Folder, **who: Any) -> Callable[[], None]:
    """Another driver's claim of a stage's folder; what puts it anew."""
    known = {"host": "node-7", "pid": 41, "began": "1", "holds": True, **who}
    put = lambda: folder.write(".locks/other", json.dumps(known).encode())  # noqa: E731
    put()
    return put


def test_a_second_driver_on_this_machine_is_refused_by_name_at_once(root: Folder) -> None:
    work = Work()
    pid = os.getppid()
    leave_claim(work.units.folder(root), host=socket.gethostname(), pid=pid, began=claims._began(pid))
    with pytest.raises(BadInput, match=rf"units/.*: process {pid} on \S+ writes here; another run is writing"):
        work.make(root, work.units)
    assert work.ran == []


def test_a_driver_that_died_on_this_machine_is_not_waited_for(root: Folder) -> None:
    work = Work()
    process = subprocess.Popen([sys.executable, "-c", "0"])
    process.wait()
    leave_claim(work.units.folder(root), host=socket.gethostname(), pid=process.pid)
    began = time.monotonic()
    work.make(root, work.units)
    assert work.ran == ["units"] and time.monotonic() - began < 2


def test_a_driver_of_another_machine_that_lives_is_refused_by_name(
    root: Folder, quick: None, capfd: pytest.CaptureFixture[str]
) -> None:
    work, done = Work(), threading.Event()
    beat = leave_claim(work.units.folder(root))

    def live() -> None:
        while not done.wait(1.0):
            beat()

    threading.Thread(target=live, daemon=True).start()
    try:
        with pytest.raises(BadInput, match=r"units/.*: process 41 on node-7 writes here; another run is writing here"):
            work.make(root, work.units)
    finally:
        done.set()
    assert work.ran == []
    assert capfd.readouterr().err.count("last heard of") == 1


def test_a_driver_of_another_machine_that_died_loses_its_claim(root: Folder, quick: None) -> None:
    work = Work()
    leave_claim(work.units.folder(root))
    began = time.monotonic()
    work.make(root, work.units)
    assert work.ran == ["units"] and 2 < time.monotonic() - began < 10


def test_drivers_that_wait_take_turns(root: Folder, quick: None) -> None:
    inside, most, turns = [0], [0], [0]
    count = threading.Lock()

    def take_turn() -> None:
        with (root / "stage").claim(wait=True):
            with count:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                turns[0] += 1
            time.sleep(0.2)
            with count:
                inside[0] -= 1

    drivers = [threading.Thread(target=take_turn) for _ in range(4)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(60)
    assert turns == [4] and most == [1]


def test_a_driver_that_was_taken_for_dead_records_nothing(
    root: Folder, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work()
    monkeypatch.setattr(claims, "BEAT_SECONDS", 60.0)

    def sleeps(inputs: Inputs, out: Folder, machine: Machine, n: int) -> dict[str, Any]:
        time.sleep(3.5)
        out.remove(".locks")  # another has taken over
        return {}

    with pytest.raises(BadInput, match=r"this driver was silent for more than 3 s, and another has taken over"):
        work.make(root, dataclasses.replace(work.units, work=sleeps))
    assert not work.units.is_done(root)


def test_a_process_that_ends_at_once_gives_its_claims_up(root: Folder) -> None:
    (root / "stage").claim().__enter__()
    claims.give_up_all()
    with (root / "stage").claim():
        assert [name for name in Objects(ROOT).sizes("stage/.locks") if name] != []
