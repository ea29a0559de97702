"""Stages: identity, the record written last, and what a second or a killed run does."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.machine import InProcess

from slamray import store
from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.runtime import data, session
from slamray.runtime.budget import Devices
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.stage import MANIFEST, Inputs, Stage, order
from slamray.stage.tables import check_bad_share
from slamray.stage.work import Machine, Pool


def recording(log: list[str], name: str, fail: bool = False) -> Any:
    def run(inputs: Inputs, out: Folder, machine: Machine, **settings: Any) -> dict[str, Any]:
        log.append(name)
        out.write("data.txt", name.encode())
        if fail:
            raise RuntimeError("killed here")
        return {"inputs": sorted(inputs)}

    return run


def chain(log: list[str], value: int = 1, fail: bool = False) -> Stage:
    first = Stage("first", recording(log, "first"), {"value": value})
    second = Stage("second", recording(log, "second", fail), {}, (first,))
    return Stage("third", recording(log, "third"), {}, (second, first))


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    log: list[str] = []
    materialise([chain(log)], tmp_path, InProcess(), {})
    materialise([chain(log)], tmp_path, InProcess(), {})
    assert log == ["first", "second", "third"]


def test_a_failed_stage_leaves_no_record_and_is_run_again(tmp_path: Path) -> None:
    log: list[str] = []
    with pytest.raises(RuntimeError, match="killed here"):
        materialise([chain(log, fail=True)], tmp_path, InProcess(), {})
    assert not chain(log).inputs[0].is_done(tmp_path)
    materialise([chain(log)], tmp_path, InProcess(), {})
    assert log == ["first", "second", "second", "third"]


def test_a_changed_config_changes_its_stage_and_all_after_it(tmp_path: Path) -> None:
    before, after = order([chain([], 1)]), order([chain([], 2)])
    assert [a.fingerprint == b.fingerprint for a, b in zip(before, after, strict=True)] == [False, False, False]
    third = dataclasses.replace(chain([], 1), settings={"new": 1})
    assert [s.fingerprint for s in third.inputs] == [s.fingerprint for s in chain([], 1).inputs]
    assert third.fingerprint != chain([], 1).fingerprint


def test_the_fingerprint_is_pinned() -> None:
    # sha256 of the canonical JSON, computed with the sha256sum command line tool
    stage = Stage("corpus", recording([], ""), {"a": 1})
    assert stage.fingerprint == "acd115190f7c75aa"


def test_two_stages_that_are_equal_are_one(tmp_path: Path) -> None:
    log: list[str] = []
    materialise([chain(log), chain(log)], tmp_path, InProcess(), {})
    assert log == ["first", "second", "third"]


def test_the_manifest_says_what_made_it(tmp_path: Path) -> None:
    manifest = materialise([chain([])], tmp_path, InProcess(), {"commit": "abc"})["third"]
    assert manifest["facts"] == {"inputs": ["first", "second"]}
    assert manifest["provenance"] == {"commit": "abc"}
    # sha256sum of the five bytes "third"
    assert manifest["files"]["data.txt"] == {
        "bytes": 5,
        "sha256": "b1e99324505bd32da0e1f85dcf5e19a09db0481e8a15f62c41eb320304a8e927",
    }


def test_independent_stages_run_side_by_side(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=20)

    def meet(inputs: Inputs, out: Folder, machine: Machine) -> dict[str, Any]:
        meeting.wait()  # passes only when both are inside
        return {}

    both = [Stage("left", meet, {}), Stage("right", meet, {})]
    assert set(materialise(both, tmp_path, InProcess(), {}, parallel=2)) == {"left", "right"}


Came = tuple[int, dict[str, Any]]  # who sent a row, and what came of it


def asking(pools: int, rows: int, then: str = "") -> Any:
    """A run that sends rows through pools named by a number, and may fail before or after it."""

    def run(inputs: Inputs, out: Folder, machine: Machine) -> dict[str, Any]:
        if then == "fails before":
            raise BadInput("nothing to speak")
        name = out.parent.name
        machine.rows(name, list(range(rows)), [Pool("unused", {}, pools)], rows, "rows")
        if then == "fails after":
            raise BadInput("too many bad rows")
        return {"rows": rows}

    return run


def group(*runs: Any) -> Stage:
    names = [chr(ord("a") + i) for i in range(len(runs))]
    stages = tuple(Stage(name, run, {}, group="speaking") for name, run in zip(names, runs, strict=True))
    return Stage("end", recording([], "end"), {}, stages)


def engine_that(monkeypatch: pytest.MonkeyPatch, stream: Any) -> Engine:
    """An engine whose rows go to `stream` in place of Ray."""
    monkeypatch.setattr(data, "stream", stream)
    monkeypatch.setattr(Engine, "connect", lambda self: None)
    return Engine(Compute())


def test_rows_of_stages_side_by_side_go_out_together_where_their_pools_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[int]] = []

    def stream(senders: Sequence[Sequence[Any]], pools: Sequence[Pool]) -> Iterator[Came]:
        sent.append([len(own) for own in senders])
        for number, own in enumerate(senders):
            yield from ((number, {}) for _ in own)

    target = group(asking(1, 3), asking(2, 1), asking(1, 2))
    manifests = materialise([target], tmp_path, engine_that(monkeypatch, stream), {})
    assert sorted(sent) == [[1], [2, 3]] or sorted(sent) == [[1], [3, 2]]
    assert {name: m["facts"].get("rows") for name, m in manifests.items()} == {"a": 3, "b": 1, "c": 2, "end": None}


def test_a_stage_ends_with_its_last_row_and_not_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(senders: Sequence[Sequence[Any]], pools: Sequence[Pool]) -> Iterator[Came]:
        short = min(range(2), key=lambda number: len(senders[number]))
        yield from ((short, {}) for _ in senders[short])
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob("b/*/manifest.json")):  # made while a's rows are still on their way
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield from ((1 - short, {}) for _ in senders[1 - short])

    materialise([group(asking(1, 3), asking(1, 2))], tmp_path, engine_that(monkeypatch, stream), {})
    assert list(tmp_path.glob("a/*/manifest.json"))


def test_a_stage_of_a_group_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(senders: Sequence[Sequence[Any]], pools: Sequence[Pool]) -> Iterator[Came]:
        return ((number, {}) for number, own in enumerate(senders) for _ in own)

    for then in ("fails before", "fails after"):
        target = group(asking(1, 3, then), asking(1, 2))
        with pytest.raises(BadInput):
            materialise([target], tmp_path / then, engine_that(monkeypatch, stream), {})
        assert [stage.is_done(tmp_path / then) for stage in target.inputs] == [False, True]


def test_a_stream_that_breaks_ends_the_stages_with_rows_left_and_a_second_run_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(senders: Sequence[Sequence[Any]], pools: Sequence[Pool]) -> Iterator[Came]:
        short = min(range(2), key=lambda number: len(senders[number]))
        yield from ((short, {}) for _ in senders[short])
        raise RuntimeError("the raylet died")

    target = group(asking(1, 3), asking(1, 2))
    with pytest.raises(RuntimeError, match="the raylet died"):
        materialise([target], tmp_path, engine_that(monkeypatch, broken), {})
    assert [stage.is_done(tmp_path) for stage in target.inputs] == [False, True]
    sent: list[int] = []

    def whole(senders: Sequence[Sequence[Any]], pools: Sequence[Pool]) -> Iterator[Came]:
        sent.extend(len(own) for own in senders)
        return ((number, {}) for number, own in enumerate(senders) for _ in own)

    materialise([target], tmp_path, engine_that(monkeypatch, whole), {})  # locks are free; only a's rows are left
    assert target.is_done(tmp_path) and sent == [3]


@pytest.mark.parametrize(("cores", "overlaps"), [(4, True), (3, False)])
def test_training_begins_beside_the_speech_that_it_needs_not_where_both_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, overlaps: bool
) -> None:
    """Two cores speak, two train; units are spoken before pairs."""
    trains, spoken = threading.Event(), threading.Event()

    def stream(senders: Sequence[Sequence[Any]], pools: Sequence[Pool]) -> Iterator[Came]:
        first = min(range(2), key=lambda number: len(senders[number]))
        yield from ((first, {}) for _ in senders[first])
        assert trains.wait(20 if overlaps else 0.3) == overlaps
        yield from ((1 - first, {}) for _ in senders[1 - first])
        spoken.set()

    def call(name: str, function: Any, gpus: float, cpus: float) -> Any:
        assert spoken.is_set() != overlaps
        trains.set()

    def train(inputs: Inputs, out: Folder, machine: Machine) -> dict[str, Any]:
        machine.call("training", lambda: None, cpus=2)
        return {}

    engine = engine_that(monkeypatch, stream)
    monkeypatch.setattr(data, "call", call)
    monkeypatch.setattr(session, "devices", lambda compute: Devices(cpus=cores))
    units, pairs = (Stage(name, asking(2, n), {}, group="speaking") for name, n in (("units", 2), ("pairs", 3)))
    pretrained = Stage("pretrained", train, {}, (units,))
    aligned = Stage("aligned", recording([], "aligned"), {}, (pretrained, pairs))
    assert "aligned" in materialise([aligned], tmp_path, engine, {}, parallel=2)


def test_a_second_driver_on_the_same_stage_is_refused_by_name(tmp_path: Path) -> None:
    stage = Stage("first", recording([], "first"), {})
    with store.locked(stage.folder(tmp_path).fetch(".lock")), pytest.raises(BadInput, match=r"first.*another run"):
        materialise([stage], tmp_path, InProcess(), {})


def test_too_many_bad_rows_fail_with_the_first_reason() -> None:
    bad = [{"id": "a:1", "reason": "empty"}, {"id": "a:2", "reason": "long"}]
    check_bad_share(bad[:1], 100, 0.01, "corpus.max_bad_share")
    with pytest.raises(BadInput, match=r"corpus.max_bad_share: 2 of 100 rows are bad.*a:1: empty"):
        check_bad_share(bad, 100, 0.01, "corpus.max_bad_share")


def test_a_torn_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store.write_json(path, {"whole": True})
    with pytest.raises(TypeError):
        store.write_json(path, {"not": object()})
    assert store.read_json(path) == {"whole": True}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_one_line_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"stage units needs about 1000000000000 MB but .* MB are free"):
        store.require_space(tmp_path / "not" / "there", 10**18, "stage units")


def test_manifest_is_written_after_everything_else(tmp_path: Path) -> None:
    def look(inputs: Inputs, out: Folder, machine: Machine) -> dict[str, Any]:
        assert not out.exists(MANIFEST)
        return {}

    stage = Stage("only", look, {})
    materialise([stage], tmp_path, InProcess(), {})
    assert stage.is_done(tmp_path)


def test_what_inputs_already_tell_is_said_before_any_stage_of_the_group_starts(tmp_path: Path) -> None:
    log: list[str] = []

    def refuse(inputs: Inputs) -> None:
        assert list(inputs) == ["first"] and inputs["first"].exists("manifest.json")
        raise BadInput("too few documents")

    first = Stage("first", recording(log, "first"), {})
    long = Stage("long", recording(log, "long"), {}, (first,), group="speaking")
    short = Stage("short", recording(log, "short"), {}, (first,), group="speaking", check=refuse)
    with pytest.raises(BadInput, match="too few documents"):
        materialise([long, short], tmp_path, InProcess(), {})
    assert log == ["first"]
