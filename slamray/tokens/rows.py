"""The store of packed rows: written once, read by row index through a memory map.

Legend: R rows, C tokens of a row, P pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slamray import store
from slamray.errors import BadInput
from slamray.tokens.documents import Document, Documents, Mask, join
from slamray.tokens.packing import Packing, Places, pack
from slamray.tokens.sampler import MixedSource, batch_rows, mixed_rows
from slamray.tokens.vocabulary import Ints, Tokens, Vocabulary, read_vocabulary, write_vocabulary

IGNORE = -100  # torch's cross_entropy leaves such targets out
PACKING = "packing.json"  # beside packed rows: most tokens of a piece
MIXTURE = "mixture.json"  # beside packed rows: the sources of a mixture
Source = Callable[[], Iterable[Documents]]  # gives all documents anew, some at a time, in the same order


def write_rows(
    folder: Path,
    documents: Sequence[Document] | Source,
    vocabulary: Vocabulary,
    packing: Packing | int,
) -> dict[str, float]:
    """Pack documents into `folder`; the same documents give the same bytes. Returns facts for the manifest.

    documents: a list, or a source that gives some at a time, so that they are never all in memory. packing: where the
    pieces go, or a context: then by best fit over all documents in rows of that length.

    tokens.npy (R, C) uint16 or uint32, PAD at the end of a row; lengths.npy (P,) int32 of the pieces in row order;
    offsets.npy (R + 1,) int64: the pieces of row r are lengths[offsets[r] : offsets[r + 1]]; vocabulary.json;
    packing.json: {"context": most tokens of a piece}.
    Where a document masks an id out: mask.npy (R, C) bool, True where the token is a target, and targets.npy (R,)
    int64, how many of a row are.
    """
    source = documents if callable(documents) else partial(_at_once, documents)
    if isinstance(packing, int):
        packing = pack(lengths_of(source), packing)
    folder.mkdir(parents=True, exist_ok=True)
    pieces_R = np.bincount(packing.row_P, minlength=packing.rows)
    offsets = np.concatenate([[0], np.cumsum(pieces_R)]).astype(np.int64)
    np.save(folder / "lengths.npy", packing.length_P)
    np.save(folder / "offsets.npy", offsets)
    written = _Written(folder, packing, vocabulary)
    count = sum(written.add(some) for some in source())
    tokens = int(packing.length_P.sum())
    assert written.tokens == tokens, f"packed {tokens} tokens, and {written.tokens} came"
    write_vocabulary(folder, vocabulary)
    store.write_json(folder / PACKING, {"context": packing.context})
    return {
        "rows": packing.rows,
        "row_tokens": packing.row_tokens,
        "context": packing.context,
        "documents": count,
        "pieces": len(packing.length_P),
        "tokens": tokens,
        "targets": written.close(),
        "padding_share": 1.0 - tokens / (packing.rows * packing.row_tokens),
    }


def lengths_of(source: Source) -> Ints:
    """(D,) tokens of each document."""
    found = [some.lengths_D for some in source()]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _at_once(documents: Sequence[Document]) -> Iterator[Documents]:
    yield join(documents)


class _Written:
    """Rows that are being written, document by document, each piece to its place in a memory map."""

    def __init__(self, folder: Path, packing: Packing, vocabulary: Vocabulary) -> None:
        self._folder, self._packing = folder, packing
        by_source = np.argsort(packing.source_P)
        self._source_P, self._length_P = packing.source_P[by_source], packing.length_P[by_source]
        place_P = packing.row_P.astype(np.int64) * packing.row_tokens + packing.column_P
        self._place_P = place_P[by_source]
        self._ids = self._open("tokens.npy", vocabulary.dtype)
        if vocabulary.pad:
            self._ids[:] = vocabulary.pad
        self._mask: Mask | None = None
        self.tokens = 0

    def _open(self, name: str, dtype: npt.DTypeLike) -> Any:
        shape = (self._packing.rows, self._packing.row_tokens)
        return np.lib.format.open_memmap(self._folder / name, mode="w+", dtype=dtype, shape=shape).reshape(-1)

    def add(self, some: Documents) -> int:
        """Copy these documents' pieces to their places; the number of documents."""
        first, last = np.searchsorted(self._source_P, [self.tokens, self.tokens + len(some.ids)])
        starts = self._source_P[first:last] - self.tokens
        pieces = list(zip(*(a.tolist() for a in (starts, *self._slice(first, last))), strict=True))
        for start, length, place in pieces:
            self._ids[place : place + length] = some.ids[start : start + length]
        if some.mask is not None and self._mask is None:
            self._mask = self._all_targets()
        if some.mask is not None and self._mask is not None:
            for start, length, place in pieces:  # the first token of a piece is no target
                self._mask[place + 1 : place + length] = some.mask[start + 1 : start + length]
        self.tokens += len(some.ids)
        return len(some.lengths_D)

    def _slice(self, first: int, last: int) -> tuple[Places, Ints]:
        return self._length_P[first:last], self._place_P[first:last]

    def _all_targets(self) -> Mask:
        mask: Mask = self._open("mask.npy", np.bool_)
        for length, place in zip(self._length_P.tolist(), self._place_P.tolist(), strict=True):
            mask[place + 1 : place + length] = True
        return mask

    def close(self) -> int:
        """Targets of all rows."""
        self._ids.flush()
        if self._mask is None:
            return self.tokens - len(self._length_P)
        self._mask.flush()  # type: ignore[attr-defined]  # a memory map
        mask_RC = self._mask.reshape(-1, self._packing.row_tokens)
        targets_R = np.array([np.count_nonzero(row) for row in mask_RC], np.int64)
        np.save(self._folder / "targets.npy", targets_R)
        return int(targets_R.sum())


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

    def pieces(self, at_most_tokens: int = 0) -> list[Document]:
        """The pieces of rows in their order, each with its mask; padding is left behind.

        at_most_tokens: of as many rows, evenly spaced, as hold no more, padding counted; 0: of all.
        """
        found = []
        wanted = max(1, at_most_tokens // self.row_tokens) if at_most_tokens else self.rows
        for row in np.unique(np.linspace(0, self.rows - 1, min(wanted, self.rows)).astype(np.int64)):
            ends = np.cumsum(self.lengths_P[self.offsets[row] : self.offsets[row + 1]])
            for first, last in zip([0, *ends[:-1]], ends, strict=True):
                mask = None if self.mask_RC is None else self.mask_RC[row, first:last]
                found.append(Document(self.tokens_RC[row, first:last], mask))
        return found
