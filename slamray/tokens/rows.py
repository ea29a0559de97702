"""The store of packed rows: written once, read by row index through a memory map.

Legend: R rows, C tokens of a row, P pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slamray import store
from slamray.errors import BadInput
from slamray.tokens.documents import Document, Mask, concatenate
from slamray.tokens.packing import Packing, pack
from slamray.tokens.sampler import MixedSource, batch_rows, mixed_rows
from slamray.tokens.vocabulary import Ints, Tokens, Vocabulary, read_vocabulary, write_vocabulary

IGNORE = -100  # torch's cross_entropy leaves such targets out
PACKING = "packing.json"  # beside packed rows: most tokens of a piece
MIXTURE = "mixture.json"  # beside packed rows: the sources of a mixture
_COPY_ROWS = 4096  # rows filled at once: bounds memory at about 100 MB for rows of 1024 tokens (chosen, not tuned)


def write_rows(
    folder: Path,
    documents: Sequence[Document],
    vocabulary: Vocabulary,
    packing: Packing | int,
) -> dict[str, float]:
    """Pack documents into `folder`; the same documents give the same bytes. Returns facts for the manifest.

    packing: where the pieces go, or a context: then by best fit over all documents in rows of that length.

    tokens.npy (R, C) uint16 or uint32, PAD at the end of a row; lengths.npy (P,) int32 of the pieces in row order;
    offsets.npy (R + 1,) int64: the pieces of row r are lengths[offsets[r] : offsets[r + 1]]; vocabulary.json;
    packing.json: {"context": most tokens of a piece}.
    Where a document masks an id out: mask.npy (R, C) bool, True where the token is a target, and targets.npy (R,)
    int64, how many of a row are.
    """
    if isinstance(packing, int):
        packing = pack(np.array([len(document) for document in documents]), packing)
    whole = concatenate(documents)
    folder.mkdir(parents=True, exist_ok=True)
    pieces_R = np.bincount(packing.row_P, minlength=packing.rows)
    offsets = np.concatenate([[0], np.cumsum(pieces_R)]).astype(np.int64)
    _write_packed(folder / "tokens.npy", whole.ids, packing, offsets, vocabulary.pad)
    np.save(folder / "lengths.npy", packing.length_P.astype(np.int32))
    np.save(folder / "offsets.npy", offsets)
    targets = len(whole) - len(packing.length_P)
    if whole.mask is not None:
        mask = whole.mask.copy()
        mask[packing.source_P] = False  # the first token of a piece is no target
        mask_RC = _write_packed(folder / "mask.npy", mask, packing, offsets, False)
        targets_R = np.array([np.count_nonzero(row) for row in mask_RC], np.int64)
        np.save(folder / "targets.npy", targets_R)
        targets = int(targets_R.sum())
    write_vocabulary(folder, vocabulary)
    store.write_json(folder / PACKING, {"context": packing.context})
    return {
        "rows": packing.rows,
        "row_tokens": packing.row_tokens,
        "context": packing.context,
        "documents": len(documents),
        "pieces": len(packing.length_P),
        "tokens": len(whole),
        "targets": targets,
        "padding_share": 1.0 - len(whole) / (packing.rows * packing.row_tokens),
    }


def _write_packed(path: Path, values: npt.NDArray, packing: Packing, offsets: Ints, padding: int) -> npt.NDArray:
    """Values of concatenated tokens, laid out in rows (R, C) as packing says, some thousand rows at once."""
    shape = (packing.rows, packing.row_tokens)
    rows_RC = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=shape)
    for first in range(0, packing.rows, _COPY_ROWS):
        last = min(first + _COPY_ROWS, packing.rows)
        these = slice(offsets[first], offsets[last])
        length_P = packing.length_P[these]
        within = np.arange(length_P.sum()) - np.repeat(np.cumsum(length_P) - length_P, length_P)
        block = np.full((last - first) * packing.row_tokens, padding, dtype=values.dtype)
        place_P = (packing.row_P[these] - first) * packing.row_tokens + packing.column_P[these]
        block[np.repeat(place_P, length_P) + within] = values[np.repeat(packing.source_P[these], length_P) + within]
        rows_RC[first:last] = block.reshape(-1, packing.row_tokens)
    rows_RC.flush()
    return rows_RC


@dataclass(frozen=True)
class Batch:
    """Rows ready for a model: int64 arrays (rows, tokens of a row).

    targets are the next token inside the same piece where the loss mask lets it count, else IGNORE: a first token is
    never a target, padding neither.
    positions restart with each piece, which is how transformers tells pieces apart; padding goes on counting, up to a
    context, and then restarts.
    boundaries are where pieces begin and end when the rows lie one after the other, int32, from 0 to their end;
    padding belongs to the piece before it, up to a context. As many for any rows of a store, the last one repeated.
    context: most tokens of a piece.
    """

    inputs: Ints
    targets: Ints
    positions: Ints
    boundaries: npt.NDArray[np.int32]
    context: int


class RowStore:
    """A folder written by `write_rows`, read by row index through a memory map."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.tokens_RC: Tokens = np.load(folder / "tokens.npy", mmap_mode="r")
            self.lengths_P: npt.NDArray[np.int32] = np.load(folder / "lengths.npy", mmap_mode="r")
            self.offsets: Ints = np.load(folder / "offsets.npy")
            masked = (folder / "mask.npy").exists()
            self.mask_RC: Mask | None = np.load(folder / "mask.npy", mmap_mode="r") if masked else None
            targets_R: Ints | None = np.load(folder / "targets.npy") if masked else None
            self.context: int = store.read_json(folder / PACKING)["context"]  # most tokens of a piece
        except (OSError, ValueError) as error:
            raise BadInput(f"{folder} is not a folder of packed rows ({error}); run the pack stage again") from error
        self.rows, self.row_tokens = self.tokens_RC.shape
        pieces_R = np.diff(self.offsets)
        assert int(pieces_R.min()) > 0, "a row without pieces"
        # of a row, with what pieces padding may make at its end
        self.most_pieces = int(pieces_R.max()) + self.row_tokens // self.context - 1
        self.tokens_R: Ints = np.add.reduceat(self.lengths_P.astype(np.int64), self.offsets[:-1])
        self.targets_R: Ints = self.tokens_R - pieces_R if targets_R is None else targets_R
        self.vocabulary = read_vocabulary(folder)
        mixed = folder / MIXTURE
        self.sources = tuple(MixedSource(**source) for source in store.read_json(mixed)) if mixed.exists() else ()

    def rows_of_step(self, seed: int, step: int, rows_per_step: int) -> Ints:
        """Row indices of the global batch of `step` (from 0), by the mixture where the folder has one."""
        if self.sources:
            return mixed_rows(seed, step, self.sources, rows_per_step)
        return batch_rows(seed, step, self.rows, rows_per_step)

    def batch(self, rows: Ints) -> Batch:
        """The given rows, in the given order."""
        inputs = self.tokens_RC[rows].astype(np.int64)
        targets = np.full_like(inputs, IGNORE)
        positions = np.empty_like(inputs)
        boundaries = np.full(len(rows) * self.most_pieces + 1, inputs.size, np.int32)
        begun = 0
        for place, row in enumerate(rows):
            column = 0
            for length in self.lengths_P[self.offsets[row] : self.offsets[row + 1]]:
                end = column + int(length)
                targets[place, column : end - 1] = inputs[place, column + 1 : end]
                positions[place, column:end] = np.arange(length)
                boundaries[begun] = place * self.row_tokens + column
                begun += 1
                last, column = column, end
            while last < self.row_tokens:  # padding lengthens the last piece up to a context, and is then its own
                end = min(last + self.context, self.row_tokens)
                positions[place, last:end] = np.arange(end - last)
                last = end
                if last < self.row_tokens:
                    boundaries[begun] = place * self.row_tokens + last
                    begun += 1
        if self.mask_RC is not None:  # the target at a place is the token after it, whose mask says whether it counts
            targets[:, :-1][~self.mask_RC[rows][:, 1:]] = IGNORE
        return Batch(inputs, targets, positions, boundaries, self.context)

    def pieces(self) -> list[Document]:
        """The pieces of all rows in their order, each with its mask; padding is left behind."""
        found = []
        for row in range(self.rows):
            ends = np.cumsum(self.lengths_P[self.offsets[row] : self.offsets[row + 1]])
            for first, last in zip([0, *ends[:-1]], ends, strict=True):
                mask = None if self.mask_RC is None else self.mask_RC[row, first:last]
                found.append(Document(self.tokens_RC[row, first:last], mask))
        return found
