"""Stages: identity, the record written last, and what a second or a killed run does."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from slamray import store
from slamray.errors import BadInput
from slamray.stage.materialise import materialise
from slamray.stage.stage import MANIFEST, Asking, Facts, Folders, Stage, check_bad_share, order
from slamray.stage.work import Pool, Stream


def recording(log: list[str], name: str, fail: bool = False) -> Any:
    def run(folders: Folders, out: Path) -> Facts:
        log.append(name)
        store.write_atomic(out / "data.txt", name.encode())
        if fail:
            raise RuntimeError("killed here")
        return {"inputs": sorted(folders)}

    return run


def chain(log: list[str], value: int = 1, fail: bool = False) -> Stage:
    first = Stage("first", {"value": value}, recording(log, "first"))
    second = Stage("second", {}, recording(log, "second", fail), (first,))
    return Stage("third", {}, recording(log, "third"), (second, first))


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    log: list[str] = []
    materialise([chain(log)], tmp_path, {})
    materialise([chain(log)], tmp_path, {})
    assert log == ["first", "second", "third"]


def test_a_failed_stage_leaves_no_record_and_is_run_again(tmp_path: Path) -> None:
    log: list[str] = []
    with pytest.raises(RuntimeError, match="killed here"):
        materialise([chain(log, fail=True)], tmp_path, {})
    assert not chain(log).inputs[0].is_done(tmp_path)
    materialise([chain(log)], tmp_path, {})
    assert log == ["first", "second", "second", "third"]


def test_a_changed_config_changes_its_stage_and_all_after_it(tmp_path: Path) -> None:
    before, after = order([chain([], 1)]), order([chain([], 2)])
    assert [a.fingerprint == b.fingerprint for a, b in zip(before, after, strict=True)] == [False, False, False]
    third = dataclasses.replace(chain([], 1), config={"new": 1})
    assert third.inputs == chain([], 1).inputs
    assert third.fingerprint != chain([], 1).fingerprint


def test_the_fingerprint_is_pinned() -> None:
    # sha256 of the canonical JSON, computed with the sha256sum command line tool
    stage = Stage("corpus", {"a": 1}, recording([], ""))
    assert stage.fingerprint == "1cacc990d2263fc3"


def test_two_stages_that_are_equal_are_one(tmp_path: Path) -> None:
    log: list[str] = []
    materialise([chain(log), chain(log)], tmp_path, {})
    assert log == ["first", "second", "third"]


def test_the_manifest_says_what_made_it(tmp_path: Path) -> None:
    manifest = materialise([chain([])], tmp_path, {"commit": "abc"})["third"]
    assert manifest["facts"] == {"inputs": ["first", "second"]}
    assert manifest["provenance"] == {"commit": "abc"}
    # sha256sum of the five bytes "third"
    assert manifest["files"]["data.txt"] == {
        "bytes": 5,
        "sha256": "b1e99324505bd32da0e1f85dcf5e19a09db0481e8a15f62c41eb320304a8e927",
    }


def test_independent_stages_run_side_by_side(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=20)

    def meet(folders: Folders, out: Path) -> Facts:
        meeting.wait()  # passes only when both are inside
        return {}

    both = [Stage("left", {}, meet), Stage("right", {}, meet)]
    assert set(materialise(both, tmp_path, {}, parallel=2)) == {"left", "right"}


def asking(pools: int, rows: int, then: str = "") -> Any:
    """A run that asks for one stream through pools named by a number, and may fail before or after it."""

    def run(folders: Folders, out: Path) -> Asking:
        if then == "fails before":
            raise BadInput("nothing to speak")
        yield Stream(out.parent.name, [{"row": i} for i in range(rows)], [Pool(dict, {}, pools)], rows, "rows")
        if then == "fails after":
            raise BadInput("too many bad rows")
        return {"rows": rows}

    return run


def group(*runs: Any) -> Stage:
    names = [chr(ord("a") + i) for i in range(len(runs))]
    stages = tuple(Stage(name, {}, run, actors="speaking") for name, run in zip(names, runs, strict=True))
    return Stage("end", {}, recording([], "end"), stages)


def test_ready_stages_that_share_actors_have_their_streams_joined(tmp_path: Path) -> None:
    sent: list[list[str]] = []

    def send(streams: Sequence[Stream]) -> Iterator[int]:
        sent.append([stream.name for stream in streams])
        for number, stream in enumerate(streams):
            yield from (number for _ in stream.rows)
            assert list((tmp_path / stream.name).glob("*/manifest.json")), (
                "it ends with its last row, not with the rest"
            )

    target = group(asking(1, 3), asking(2, 1), asking(1, 2))
    manifests = materialise([target], tmp_path, {}, send=send)
    assert sent == [["a", "c"], ["b"]]
    assert {name: m["facts"].get("rows") for name, m in manifests.items()} == {"a": 3, "b": 1, "c": 2, "end": None}


def test_a_stage_of_a_group_that_fails_costs_only_itself(tmp_path: Path) -> None:
    def send(streams: Sequence[Stream]) -> Iterator[int]:
        return (number for number, stream in enumerate(streams) for _ in stream.rows)

    for then in ("fails before", "fails after"):
        target = group(asking(1, 3, then), asking(1, 2))
        with pytest.raises(BadInput):
            materialise([target], tmp_path / then, {}, send=send)
        assert [stage.is_done(tmp_path / then) for stage in target.inputs] == [False, True]


def test_a_stream_that_breaks_ends_the_stages_with_rows_left_and_a_second_run_makes_them(tmp_path: Path) -> None:
    def broken(streams: Sequence[Stream]) -> Iterator[int]:
        yield from (0, 0, 0, 1)
        raise RuntimeError("the raylet died")

    target = group(asking(1, 3), asking(1, 2))
    with pytest.raises(RuntimeError, match="the raylet died"):
        materialise([target], tmp_path, {}, send=broken)
    assert [stage.is_done(tmp_path) for stage in target.inputs] == [True, False]
    materialise([target], tmp_path, {}, send=lambda streams: iter([0, 0]))  # locks are free; only b's two rows are left
    assert target.is_done(tmp_path)


def test_a_second_driver_on_the_same_stage_is_refused_by_name(tmp_path: Path) -> None:
    stage = Stage("first", {}, recording([], "first"))
    with store.locked(stage.folder(tmp_path) / ".lock"), pytest.raises(BadInput, match=r"first.*another run"):
        materialise([stage], tmp_path, {})


def test_too_many_bad_rows_fail_with_the_first_reason() -> None:
    check_bad_share(1, 100, 0.01, "corpus.max_bad_share", "a:1: empty")
    with pytest.raises(BadInput, match=r"corpus.max_bad_share: 2 of 100 rows are bad.*a:1: empty"):
        check_bad_share(2, 100, 0.01, "corpus.max_bad_share", "a:1: empty")


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
    def look(folders: Folders, out: Path) -> Facts:
        assert not (out / MANIFEST).exists()
        return {}

    stage = Stage("only", {}, look)
    materialise([stage], tmp_path, {})
    assert stage.is_done(tmp_path)
