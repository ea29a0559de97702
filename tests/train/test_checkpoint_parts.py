"""Checkpoints that every rank writes a part of: there when all parts are, and never else, on a disk and in a store."""

from __future__ import annotations

import itertools
import json
import threading
from functools import partial
from pathlib import Path

import pytest
from support.object_store import BUCKET, ROOT, Gate
from support.processes import run_ranks

from slamray.errors import BadInput
from slamray.stage.folder import Folder, Root
from slamray.train import checkpoint
from slamray.train.checkpoint import MARKER, clear_parts, newest_complete, read_state, save_part, write_state

STORE = f"s3://{BUCKET}/{ROOT}/checkpoints"


def write(step: int, rank: int, at: Path) -> None:
    """A file of each rank in a folder that they share, and on rank 0 one besides."""
    (at / "model").mkdir()
    (at / "model" / f"numbers-{rank}").write_text(f"{rank} at {step}")
    if rank == 0:
        write_state(at, {"step": step})


def save(folder: Root, step: int, world: int) -> str:
    """As `world` ranks do it, the last first."""
    clear_parts(folder, step)
    return [save_part(folder, step, partial(write, step, rank), rank, world) for rank in reversed(range(world))][-1]


def files(folder: Root, name: str) -> set[str]:
    return set((Folder(folder) / name).files())


@pytest.mark.parametrize("world", [1, 2, 5])
def test_any_number_of_ranks_leaves_one_checkpoint_with_the_files_of_all(tmp_path: Path, world: int) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, world)
    name = newest_complete(tmp_path)
    assert name == "step-000000003" and read_state(tmp_path / name) == {"step": 3}
    own = {f"model/numbers-{rank}" for rank in range(world)} | {f"part-{rank:05d}.json" for rank in range(world)}
    assert files(tmp_path, name) == own | {"state.json", MARKER}
    marked = json.loads((tmp_path / name / MARKER).read_text())
    assert set(marked) == {f"model/numbers-{rank}" for rank in range(world)} | {"state.json"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", name]  # two, and nothing hidden


def test_it_is_not_there_before_the_last_part_is(tmp_path: Path) -> None:
    first = threading.Thread(target=save_part, args=(tmp_path, 7, partial(write, 7, 0), 0, 2))
    first.start()
    first.join(1.0)
    assert first.is_alive() and newest_complete(tmp_path) is None
    save_part(tmp_path, 7, partial(write, 7, 1), 1, 2)
    first.join()
    assert newest_complete(tmp_path) == "step-000000007"


def test_a_kill_between_two_parts_leaves_the_one_before_and_its_parts_are_not_met_again(tmp_path: Path) -> None:
    before = save(tmp_path, 1, 2)
    for rank in (1, 2, 3):
        save_part(tmp_path, 2, partial(write, 2, rank), rank, 4)  # and rank 0 did not live to write its own
    assert newest_complete(tmp_path) == before
    again = save(tmp_path, 2, 2)
    assert newest_complete(tmp_path) == again
    assert {name for name in files(tmp_path, again) if "numbers" in name} == {"model/numbers-0", "model/numbers-1"}


def test_a_part_that_does_not_come_is_waited_for_a_bounded_while_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_PART_SECONDS", 0.3)
    save_part(tmp_path, 2, partial(write, 2, 1), 1, 3)
    with pytest.raises(TimeoutError, match=r"1 of 3 parts did not come, .*part-00002\.json is the first"):
        save_part(tmp_path, 2, partial(write, 2, 0), 0, 3)
    assert newest_complete(tmp_path) is None


def test_parts_in_a_store_that_is_cut_off_at_any_request_leave_the_one_before_or_the_new_one(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLAMRAY_STORE_SECONDS", "0")
    folder = Folder(STORE)
    before = save(folder, 1, 2)
    new = []
    for requests in itertools.count(0, 8):
        passed = itertools.count()
        gate.trouble = lambda method, path, last=requests, passed=passed: "denied" if next(passed) >= last else ""
        try:
            save(folder, 2 + requests, 2)
            ended = True
        except BadInput:
            ended = False
        gate.trouble = lambda method, path: ""
        newest = newest_complete(folder)
        assert newest in (before, f"step-{2 + requests:09d}")
        assert read_state(folder.fetch(newest))["step"] == int(newest[-9:])
        new.append(newest != before)
        before = newest
        if ended:
            break
    assert new == sorted(new) and new.count(False) > 1  # once the marker is there the rest may fail
    assert len(folder.names("step-*")) == 2


def together(rank: int, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        heard: list[str] = []
        patch.setattr(checkpoint.log, "warning", lambda text, *words: heard.append(text % words))
        name = newest_complete(folder, together=True)
    (folder / f"told-{rank}").write_text(json.dumps([name, heard]))


@pytest.mark.slow
def test_ranks_that_look_at_a_share_each_pass_over_a_torn_one_together(tmp_path: Path) -> None:
    before, newest, torn = save(tmp_path, 1, 2), save(tmp_path, 2, 2), "model/numbers-1"
    (tmp_path / newest / torn).write_text("x" * len("0 at 2"))
    run_ranks(together, 2, tmp_path)
    told = [json.loads((tmp_path / f"told-{rank}").read_text()) for rank in range(2)]
    assert [name for name, _ in told] == [before, before]
    assert torn in told[0][1][0] and told[1][1] == []  # said once
