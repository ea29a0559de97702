"""Tensors in parts: every rank writes the ranges that it holds, and any number of ranks reads its own again.

A folder of parts:
    part-00003.safetensors   what rank 3 held of each tensor, flat, under the tensor's name
    parts.json               of each tensor its shape, and where the range of each part ends
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slamray import store
from slamray.errors import BadInput
from slamray.train.ranges import Range, cuts, ends, rows_of

LAYOUT = "parts.json"
Shapes = Mapping[str, tuple[int, ...]]


def part_name(rank: int) -> str:
    """Without an ending."""
    return f"part-{rank:05d}"


def write_part(folder: Path, held: Mapping[str, torch.Tensor], shapes: Shapes, rank: int, world: int) -> None:
    """Write a rank's part into a folder that is made where there is none; rank 0 writes the layout besides.

    held: flat, the ranges of ranges.share. shapes: of the whole tensors.
    """
    folder.mkdir(exist_ok=True)
    kept = {name: tensor.contiguous() for name, tensor in held.items() if len(tensor)}
    save_file(kept, folder / f"{part_name(rank)}.safetensors")
    if rank == 0:
        layout = {name: {"shape": shape, "ends": ends(math.prod(shape), world)} for name, shape in shapes.items()}
        (folder / LAYOUT).write_text(json.dumps(layout))


class Saved:
    """Tensors of a folder, read range by range: a folder of parts, or of safetensors files with whole tensors."""

    def __init__(self, place: Path) -> None:
        """place: the folder, or one safetensors file."""
        self.place = place
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._ends: dict[str, list[int]] = {}
        self._files: dict[Path, safe_open] = {}
        self._where: dict[str, Path] = {}  # of whole tensors
        if (place / LAYOUT).is_file():
            for name, one in store.read_json(place / LAYOUT).items():
                self.shapes[name], self._ends[name] = tuple(one["shape"]), one["ends"]
            return
        for path in sorted(place.glob("*.safetensors")) if place.is_dir() else [place]:
            file = self._open(path)
            for name in file.offset_keys():
                self.shapes[name], self._where[name] = tuple(file.get_slice(name).get_shape()), path

    def read(self, name: str, wanted: Range) -> torch.Tensor:
        """Numbers wanted[0] .. wanted[1] of a tensor, flat, and not much more is read."""
        if name in self._ends:
            found = [torch.empty(0)]
            for cut in cuts(self._ends[name], wanted):
                part = self._open(self.place / f"{part_name(cut.part)}.safetensors")
                found.append(part.get_slice(name)[cut.begin : cut.end])
            return torch.cat(found)
        shape, file = self.shapes[name], self._open(self._where[name])
        if len(shape) < 2:
            return file.get_tensor(name).reshape(-1)[wanted[0] : wanted[1]]
        (first, last), (begin, end) = rows_of(wanted, math.prod(shape[1:]))
        return file.get_slice(name)[first:last].reshape(-1)[begin:end]

    def whole(self, name: str) -> torch.Tensor:
        """A tensor in its shape."""
        shape = self.shapes[name]
        return self.read(name, (0, math.prod(shape))).view(shape)

    def require(self, names: Iterable[str]) -> None:
        """BadInput where one of them is missing."""
        if missing := sorted(set(names) - self.shapes.keys()):
            raise BadInput(f"{self.place}: {len(missing)} tensors are missing, the first is {missing[0]}")

    def _open(self, path: Path) -> safe_open:
        if path not in self._files:
            self._files[path] = safe_open(path, "pt")
        return self._files[path]


def write_streamed(path: Path, shapes: Shapes, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """A safetensors file of float32 tensors that come one at a time, sorted by name: as save_file would write it.

    The format, of github.com/huggingface/safetensors: 8 bytes of the header's length, the header in JSON, the numbers.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        begin, end = end, end + 4 * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for expected, (name, tensor) in zip(sorted(shapes), tensors, strict=True):
            assert name == expected and tuple(tensor.shape) == tuple(shapes[name]), (name, expected)
            file.write(tensor.detach().float().contiguous().cpu().numpy().data)
