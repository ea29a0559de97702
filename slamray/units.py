"""The unit vocabulary, packing documents into fixed rows, and the sampler: pure functions of numbers.

Legend: R rows, C context (tokens of a row), P pieces, D documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slamray.errors import BadInput

# recipe.md 1.2: <PAD>=0, <S>=1 is both the first and the last token of a document, units follow: 500 units -> 502 rows.
PAD = 0
BOS = 1
FIRST_UNIT = 2
IGNORE = -100  # torch's cross_entropy leaves such targets out

Tokens = npt.NDArray[np.unsignedinteger]
Ints = npt.NDArray[np.int64]

_COPY_ROWS = 4096  # rows filled at once: bounds memory at about 100 MB for context 1024 (chosen, not tuned)


def vocab_size(n_units: int) -> int:
    """Rows of the embedding: units and the two specials."""
    return n_units + FIRST_UNIT


def to_tokens(units: npt.NDArray[np.integer]) -> Tokens:
    """Units (T,) to token ids (T,) uint16."""
    assert int(units.max(initial=0)) + FIRST_UNIT < 2**16
    return (units.astype(np.int64) + FIRST_UNIT).astype(np.uint16)


def join_units(parts: Sequence[npt.NDArray[np.integer]]) -> npt.NDArray[np.integer]:
    """Units of utterances that were encoded one by one, as one sequence: deduplicated across the joins too.

    The same sound goes on over a join (mostly silence), so its unit stands once, as it would in continuous speech.
    """
    units = np.concatenate([np.asarray(part) for part in parts]) if parts else np.zeros(0, np.uint16)
    return units[np.insert(units[1:] != units[:-1], 0, True)] if len(units) else units


def to_document(tokens: Tokens) -> Tokens:
    """`<S> t1 .. tT <S>`, once for a whole document, before it is cut (recipe.md 1.2)."""
    special = np.array([BOS], dtype=tokens.dtype)
    return np.concatenate([special, tokens, special])


@dataclass(frozen=True)
class Packing:
    """Where each piece goes; pieces are in the order of their rows and places.

    source_P: first token of the piece in the concatenated documents; column_P: its first column in the row.
    """

    context: int
    rows: int
    source_P: Ints
    length_P: Ints
    row_P: Ints
    column_P: Ints


def pack(document_lengths: npt.NDArray[np.integer], context: int) -> Packing:
    """Cut documents into pieces of at most `context` tokens and place them by best fit, longest first.

    The remainder of a document is its own piece and specials are not repeated (recipe.md 1.6). Work grows with the
    number of different lengths, not of pieces.
    """
    lengths_D = np.asarray(document_lengths, dtype=np.int64)
    if len(lengths_D) == 0 or lengths_D.min() < 1:
        raise BadInput("pack: there are no documents, or one is empty; check the stage before")
    pieces_D = -(-lengths_D // context)
    document_P = np.repeat(np.arange(len(lengths_D)), pieces_D)
    order_in_document_P = np.arange(len(document_P)) - np.repeat(np.cumsum(pieces_D) - pieces_D, pieces_D)
    start_D = np.cumsum(lengths_D) - lengths_D
    source_P = start_D[document_P] + order_in_document_P * context
    length_P = np.minimum(context, lengths_D[document_P] - order_in_document_P * context)

    longest_first = np.argsort(-length_P, kind="stable")
    row_P = np.empty(len(length_P), dtype=np.int64)
    column_P = np.empty(len(length_P), dtype=np.int64)
    counts = np.bincount(length_P, minlength=context + 1)
    open_rows: list[list[int]] = [[] for _ in range(context + 1)]  # by free tokens
    rows = placed = 0
    for length in range(context, 0, -1):
        left = int(counts[length])
        free = length
        while left:
            while free < context and not open_rows[free]:
                free += 1
            if not open_rows[free]:  # only when free == context: nothing fits, so open a row
                open_rows[context].append(rows)
                rows += 1
            row = open_rows[free].pop()
            # Best fit puts the next piece of this length into the same row while it fits: no row is fuller.
            fitting = min(left, free // length)
            these = longest_first[placed : placed + fitting]
            row_P[these] = row
            column_P[these] = context - free + length * np.arange(fitting)
            open_rows[free - fitting * length].append(row)
            placed += fitting
            left -= fitting
    in_place = np.lexsort((column_P, row_P))
    return Packing(context, rows, source_P[in_place], length_P[in_place], row_P[in_place], column_P[in_place])


def write_rows(
    folder: Path, tokens: Tokens, document_lengths: npt.NDArray[np.integer], context: int
) -> dict[str, float]:
    """Pack concatenated documents into `folder`; the same input gives the same bytes. Returns facts for the manifest.

    tokens.npy (R, C) uint16 or uint32, PAD at the end of a row; lengths.npy (P,) int32 of the pieces in row order;
    offsets.npy (R + 1,) int64: the pieces of row r are lengths[offsets[r] : offsets[r + 1]].
    """
    assert len(tokens) == int(np.sum(document_lengths, dtype=np.int64)), "lengths do not add up to the tokens"
    packing = pack(document_lengths, context)
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


def batch_rows(seed: int, step: int, n_rows: int, rows_per_step: int) -> Ints:
    """Row indices of the global batch of `step` (from 0): a pure function of its arguments.

    Epochs are permutations that follow each other without a gap, so a batch may hold the end of one and the start of
    the next, and every row is read once in every epoch.
    """
    position = np.arange(step * rows_per_step, (step + 1) * rows_per_step, dtype=np.int64)
    epoch = position // n_rows
    rows = np.empty_like(position)
    for number in np.unique(epoch):
        here = epoch == number
        rows[here] = _permutation(seed, int(number), n_rows)[position[here] % n_rows]
    return rows


def rank_micro_batches(rows: Ints, rank: int, world: int, micro_batch: int) -> Iterator[Ints]:
    """This rank's micro-batches of a global batch; over all ranks every row comes once."""
    yield from rows.reshape(-1, micro_batch)[rank::world]


@lru_cache(maxsize=2)  # the epoch that ends and the one that begins
def _permutation(seed: int, epoch: int, n_rows: int) -> Ints:
    return np.random.default_rng([seed, epoch]).permutation(n_rows)
