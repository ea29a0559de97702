"""The store of packed rows: written once, read by row index through a memory map.

Legend: R rows, C context (tokens of a row), P pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slamray import store
from slamray.errors import BadInput
from slamray.tokens.packing import Packing, pack
from slamray.tokens.sampler import Part, batch_rows, mixed_rows
from slamray.tokens.vocabulary import PAD, Ints, Tokens

IGNORE = -100  # torch's cross_entropy leaves such targets out
MIXTURE = "mixture.json"  # beside packed rows: the parts of a mixture
_COPY_ROWS = 4096  # rows filled at once: bounds memory at about 100 MB for context 1024 (chosen, not tuned)


def write_rows(
    folder: Path,
    tokens: Tokens,
    document_lengths: npt.NDArray[np.integer],
    context: int,
    packing: Packing | None = None,
) -> dict[str, float]:
    """Pack concatenated documents into `folder`; the same input gives the same bytes. Returns facts for the manifest.

    packing: where the pieces go, if it was decided before; else best fit over all documents.

    tokens.npy (R, C) uint16 or uint32, PAD at the end of a row; lengths.npy (P,) int32 of the pieces in row order;
    offsets.npy (R + 1,) int64: the pieces of row r are lengths[offsets[r] : offsets[r + 1]].
    """
    assert len(tokens) == int(np.sum(document_lengths, dtype=np.int64)), "lengths do not add up to the tokens"
    packing = packing or pack(document_lengths, context)
    folder.mkdir(parents=True, exist_ok=True)
    shape = (packing.rows, context)
    rows_RC = np.lib.format.open_memmap(folder / "tokens.npy", mode="w+", dtype=tokens.dtype, shape=shape)
    pieces_R = np.bincount(packing.row_P, minlength=packing.rows)
    offsets = np.concatenate([[0], np.cumsum(pieces_R)]).astype(np.int64)
    for first in range(0, packing.rows, _COPY_ROWS):
        last = min(first + _COPY_ROWS, packing.rows)
        these = slice(offsets[first], offsets[last])
        length_P = packing.length_P[these]
        within = np.arange(length_P.sum()) - np.repeat(np.cumsum(length_P) - length_P, length_P)
        block = np.full((last - first) * context, PAD, dtype=tokens.dtype)
        target_P = (packing.row_P[these] - first) * context + packing.column_P[these]
        block[np.repeat(target_P, length_P) + within] = tokens[np.repeat(packing.source_P[these], length_P) + within]
        rows_RC[first:last] = block.reshape(-1, context)
    rows_RC.flush()
    np.save(folder / "lengths.npy", packing.length_P.astype(np.int32))
    np.save(folder / "offsets.npy", offsets)
    targets = len(tokens) - len(packing.length_P)
    return {
        "rows": packing.rows,
        "context": context,
        "documents": len(document_lengths),
        "pieces": len(packing.length_P),
        "tokens": len(tokens),
        "targets": targets,
        "padding_share": 1.0 - len(tokens) / (packing.rows * context),
    }


@dataclass(frozen=True)
class Batch:
    """Rows ready for a model: int64 arrays (rows, context).

    targets are the next token inside the same piece, else IGNORE: a first token is never a target, padding neither.
    positions restart with each piece, which is how transformers tells pieces apart; padding goes on counting.
    """

    inputs: Ints
    targets: Ints
    positions: Ints


class RowStore:
    """A folder written by `write_rows`, read by row index through a memory map."""

    def __init__(self, folder: Path) -> None:
        try:
            self.tokens_RC: Tokens = np.load(folder / "tokens.npy", mmap_mode="r")
            self.lengths_P: npt.NDArray[np.int32] = np.load(folder / "lengths.npy", mmap_mode="r")
            self.offsets: Ints = np.load(folder / "offsets.npy")
        except (OSError, ValueError) as error:
            raise BadInput(f"{folder} is not a folder of packed rows ({error}); run the pack stage again") from error
        self.rows, self.context = self.tokens_RC.shape
        pieces_R = np.diff(self.offsets)
        assert int(pieces_R.min()) > 0, "a row without pieces"
        self.tokens_R: Ints = np.add.reduceat(self.lengths_P.astype(np.int64), self.offsets[:-1])
        self.targets_R: Ints = self.tokens_R - pieces_R
        mixed = folder / MIXTURE
        self.parts = tuple(Part(**part) for part in store.read_json(mixed)) if mixed.exists() else ()

    def rows_of_step(self, seed: int, step: int, rows_per_step: int) -> Ints:
        """Row indices of the global batch of `step` (from 0), by the mixture where the folder has one."""
        if self.parts:
            return mixed_rows(seed, step, self.parts, rows_per_step)
        return batch_rows(seed, step, self.rows, rows_per_step)

    def batch(self, rows: Ints) -> Batch:
        """The given rows, in the given order."""
        inputs = self.tokens_RC[rows].astype(np.int64)
        targets = np.full_like(inputs, IGNORE)
        positions = np.empty_like(inputs)
        for place, row in enumerate(rows):
            column = 0
            for length in self.lengths_P[self.offsets[row] : self.offsets[row + 1]]:
                end = column + int(length)
                targets[place, column : end - 1] = inputs[place, column + 1 : end]
                positions[place, column:end] = np.arange(length)
                last, column = column, end
            positions[place, last:] = np.arange(self.context - last)
        return Batch(inputs, targets, positions)
