"""Checkpoints: whole or absent, the newest whole one wins, and the optimiser's state survives exactly."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from slamray.errors import BadInput
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


def _save(folder: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(folder, step, lambda at: write_state(at, {"step": step, "share": 0.1 + 0.2}), keep)


def test_the_newest_checkpoint_wins_and_old_ones_go(tmp_path: Path) -> None:
    for step in (5, 100, 20_000):
        _save(tmp_path, step)
    newest = newest_complete(tmp_path)
    assert newest is not None and read_state(newest) == {"step": 20_000, "share": 0.1 + 0.2}
    assert len(list(tmp_path.iterdir())) == 2


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "absent") is None
    assert newest_complete(tmp_path) is None


@pytest.mark.parametrize("tear", ["cut", "flip", "no marker", "torn marker", "missing"])
def test_a_torn_checkpoint_is_passed_over_with_a_warning_that_names_it(
    tmp_path: Path, tear: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, torn = _save(tmp_path, 1), _save(tmp_path, 2)
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
        assert newest_complete(tmp_path) == good
    assert torn.name in caplog.text


def test_with_none_whole_training_does_not_begin_again(tmp_path: Path) -> None:
    (_save(tmp_path, 1) / MARKER).unlink()
    with pytest.raises(BadInput, match="none of 1 checkpoints is whole"):
        newest_complete(tmp_path)


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    good = _save(tmp_path, 1)

    def killed(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, killed)
    assert newest_complete(tmp_path) == good
    again = _save(tmp_path, 2)
    assert newest_complete(tmp_path) == again and not (again / "half").exists()


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
