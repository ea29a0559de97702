"""Tensors in parts: what any number of ranks wrote, any number reads; streamed files are safetensors' own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from slamray.errors import BadInput
from slamray.train.ranges import share
from slamray.train.sharded import Saved, write_part, write_streamed

SHAPES = {"body.weight": (7, 5), "body.bias": (5,), "norm": (1,), "step": (), "cube": (2, 3, 4)}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in SHAPES.items()}


def write(folder: Path, tensors: dict[str, torch.Tensor], world: int) -> Path:
    for rank in range(world):
        held = {name: tensor.flatten()[slice(*share(tensor.numel(), rank, world))] for name, tensor in tensors.items()}
        write_part(folder, held, SHAPES, rank, world)
    return folder


@pytest.mark.parametrize("writers", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_any_number_of_ranks_reads_its_ranges_of_what_any_number_wrote(
    tmp_path: Path, tensors: dict[str, torch.Tensor], writers: int, readers: int
) -> None:
    """0 writers: whole tensors in one file, as a checkpoint has them that was written without ZeRO 3."""
    if writers:
        saved = Saved(write(tmp_path / "parts", tensors, writers))
    else:
        save_file(tensors, tmp_path / "whole.safetensors")
        saved = Saved(tmp_path / "whole.safetensors")
    assert saved.shapes == SHAPES
    for name, tensor in tensors.items():
        assert torch.equal(saved.whole(name), tensor)
        for rank in range(readers):
            wanted = share(tensor.numel(), rank, readers)
            assert torch.equal(saved.read(name, wanted), tensor.flatten()[slice(*wanted)])


def test_a_part_holds_its_share_and_no_more(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    folder = write(tmp_path / "parts", tensors, 8)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    held = [Saved(folder / f"part-{rank:05d}.safetensors").shapes for rank in range(8)]
    sizes = [sum(math.prod(shape) for shape in shapes.values()) for shapes in held]
    assert sum(sizes) == numbers and max(sizes) <= numbers / 8 + len(tensors)


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(BadInput, match="2 tensors are missing, the first is head"):
        Saved(write(tmp_path / "parts", tensors, 2)).require(["norm", "head", "tail"])


def test_a_streamed_file_is_the_one_that_safetensors_writes(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    write_streamed(tmp_path / "ours", SHAPES, ((name, tensors[name]) for name in sorted(tensors)))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
