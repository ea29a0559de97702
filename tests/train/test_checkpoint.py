"""Checkpoints: whole or absent, the newest whole one wins, and the optimiser's state survives exactly."""

from __future__ import annotations

import itertools
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from support.object_store import BUCKET, ROOT, Gate

from slamray import store
from slamray.errors import BadInput
from slamray.stage.folder import Folder, Root
from slamray.train.checkpoint import (
    MARKER,
    gather_optimiser,
    newest_complete,
    read_optimiser,
    read_state,
    save_checkpoint,
    write_optimiser,
    write_state,
)


def _save(folder: Root, step: int, keep: int = 2) -> str:
    return save_checkpoint(folder, step, lambda at: write_state(at, {"step": step, "share": 0.1 + 0.2}), keep)


def _newest(folder: Path) -> Path | None:
    name = newest_complete(folder)
    return folder / name if name else None


def test_the_newest_checkpoint_wins_and_old_ones_go(tmp_path: Path) -> None:
    for step in (5, 100, 20_000):
        _save(tmp_path, step)
    newest = _newest(tmp_path)
    assert newest is not None and read_state(newest) == {"step": 20_000, "share": 0.1 + 0.2}
    assert len(list(tmp_path.iterdir())) == 2


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "absent") is None
    assert newest_complete(tmp_path) is None


@pytest.mark.parametrize("tear", ["cut", "flip", "no marker", "torn marker", "missing"])
def test_a_torn_checkpoint_is_passed_over_with_a_warning_that_names_it(
    tmp_path: Path, tear: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, torn = (tmp_path / _save(tmp_path, step) for step in (1, 2))
    file = torn / "state.json"
    if tear == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif tear == "flip":
        file.write_bytes(b"x" + file.read_bytes()[1:])
    elif tear == "missing":
        file.unlink()
    elif tear == "no marker":
        (torn / MARKER).unlink()
    else:
        (torn / MARKER).write_text('{"state.json"')
    with caplog.at_level(logging.WARNING):
        assert _newest(tmp_path) == good
    assert torn.name in caplog.text


def test_with_none_whole_training_does_not_begin_again(tmp_path: Path) -> None:
    (tmp_path / _save(tmp_path, 1) / MARKER).unlink()
    with pytest.raises(BadInput, match="none of 1 checkpoints is whole"):
        newest_complete(tmp_path)


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    good = tmp_path / _save(tmp_path, 1)

    def killed(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, killed)
    assert _newest(tmp_path) == good
    again = tmp_path / _save(tmp_path, 2)
    assert _newest(tmp_path) == again and not (again / "half").exists()


STORE = f"s3://{BUCKET}/{ROOT}/checkpoints"


def test_a_save_to_a_store_that_is_cut_off_at_any_request_leaves_the_one_before_or_the_new_one(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLAMRAY_STORE_SECONDS", "0")
    folder = Folder(STORE)

    def write(step: int, at: Path) -> None:
        write_state(at, {"step": step})
        store.write_atomic(at / "model" / "weights", b"w" * 1000)

    before = save_checkpoint(folder, 1, partial(write, 1))
    new = []
    for requests in itertools.count(0, 3):
        passed = itertools.count()
        gate.trouble = lambda method, path, last=requests, passed=passed: "denied" if next(passed) >= last else ""
        try:
            save_checkpoint(folder, 2 + requests, partial(write, 2 + requests))
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
    assert new == sorted(new) and new.count(False) > 2  # once the marker is there the rest may fail
    assert len(folder.names("step-*")) == 2


def test_a_torn_checkpoint_of_a_store_is_passed_over(gate: Gate) -> None:
    folder = Folder(STORE)
    names = [_save(folder, step) for step in (1, 2)]
    folder.write(f"{names[1]}/state.json", b"{}")
    assert newest_complete(folder) == names[0]
    folder.write(f"{names[0]}/state.json", b"{}")
    with pytest.raises(BadInput, match="none of 2 checkpoints is whole"):
        newest_complete(folder)


def test_a_first_checkpoint_that_was_cut_off_on_its_way_to_a_store_is_none(gate: Gate) -> None:
    folder = Folder(STORE)
    folder.write("step-000000001/state.json", b"{}")
    assert newest_complete(folder) is None
    _save(folder, 2)
    assert folder.names("step-*") == ["step-000000002"]


def test_adamw_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def model_and_optimiser() -> tuple[torch.nn.Module, torch.optim.AdamW]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    def step(model: torch.nn.Module, optimiser: torch.optim.AdamW) -> None:
        model(torch.ones(2, 4)).pow(2).sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    model, optimiser = model_and_optimiser()
    step(model, optimiser)
    write_optimiser(tmp_path, gather_optimiser(optimiser, model, 0))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, optimiser)

    again, optimiser_again = model_and_optimiser()
    again.load_state_dict(weights)
    read_optimiser(tmp_path, optimiser_again, again, 0)
    step(again, optimiser_again)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
