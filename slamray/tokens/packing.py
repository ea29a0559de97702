"""Pack documents into fixed rows: where each piece goes. Pure functions of numbers.

Legend: P pieces, D documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from slamray.errors import BadInput

Ints = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]  # rows, columns and lengths: millions of pieces are held at once


@dataclass(frozen=True)
class Packing:
    """Where each piece goes; pieces are in the order of their rows and places.

    context: most tokens of a piece; row_tokens: of a row. source_P: first token of the piece in the concatenated
    documents; column_P: its first column in the row.
    """

    context: int
    row_tokens: int
    rows: int
    source_P: Ints
    length_P: Places
    row_P: Places
    column_P: Places


def pack(document_lengths: npt.NDArray[np.integer], context: int, row_tokens: int | None = None) -> Packing:
    """Cut documents into pieces of at most `context` tokens and place them by best fit, longest first.

    row_tokens: length of a row, at least a context, which it is by default.

    The remainder of a document is its own piece and specials are not repeated (docs/paper.md 1.6). Work grows with the
    number of different lengths, not of pieces.
    """
    row_tokens = row_tokens or context
    assert row_tokens >= context, "a row holds the longest piece"
    lengths_D = np.asarray(document_lengths, dtype=np.int64)
    if len(lengths_D) == 0 or lengths_D.min() < 1:
        raise BadInput("pack: there are no documents, or one is empty; check the stage before")
    source_P, length_P = _pieces(lengths_D, context)

    longest_first = np.argsort(-length_P, kind="stable")
    row_P = np.empty(len(length_P), np.int32)
    column_P = np.empty(len(length_P), np.int32)
    counts = np.bincount(length_P, minlength=context + 1)
    open_rows: list[list[int]] = [[] for _ in range(row_tokens + 1)]  # by free tokens
    rows = placed = 0
    for length in range(context, 0, -1):
        left = int(counts[length])
        free = length
        while left:
            while free < row_tokens and not open_rows[free]:
                free += 1
            if not open_rows[free]:  # only when free == row_tokens: nothing fits, so open a row
                open_rows[row_tokens].append(rows)
                rows += 1
            row = open_rows[free].pop()
            # Best fit puts the next piece of this length into the same row while it fits: no row is fuller.
            fitting = min(left, free // length)
            these = longest_first[placed : placed + fitting]
            row_P[these] = row
            column_P[these] = row_tokens - free + length * np.arange(fitting)
            open_rows[free - fitting * length].append(row)
            placed += fitting
            left -= fitting
    del longest_first
    in_place = np.lexsort((column_P, row_P))
    return Packing(
        context, row_tokens, rows, source_P[in_place], length_P[in_place], row_P[in_place], column_P[in_place]
    )


def _pieces(lengths_D: Ints, context: int) -> tuple[Ints, Places]:
    """First token and length of each piece."""
    pieces_D = -(-lengths_D // context)
    before_P = np.arange(pieces_D.sum()) - np.repeat(np.cumsum(pieces_D) - pieces_D, pieces_D)
    before_P *= context  # tokens of its document before it
    length_P = np.minimum(context, np.repeat(lengths_D, pieces_D) - before_P).astype(np.int32)
    return before_P + np.repeat(np.cumsum(lengths_D) - lengths_D, pieces_D), length_P


def pack_apart(
    document_lengths: npt.NDArray[np.integer], documents: Sequence[int], context: int, row_tokens: int
) -> list[Packing]:
    """Pack the first documents[0] documents into rows of their own, then the next documents[1], and so on.

    Rows and tokens are counted through, so that the packings are the stretches of one store.
    """
    found: list[Packing] = []
    row = token = 0
    for lengths in np.split(np.asarray(document_lengths), np.cumsum(documents)[:-1]):
        own = pack(lengths, context, row_tokens)
        found.append(replace(own, source_P=own.source_P + token, row_P=own.row_P + row))
        row, token = row + own.rows, token + int(lengths.sum())
    return found


def join_packings(packings: Sequence[Packing]) -> Packing:
    """The packings of `pack_apart` as one."""
    arrays = {
        name: np.concatenate([getattr(packing, name) for packing in packings])
        for name in ("source_P", "length_P", "row_P", "column_P")
    }
    first = packings[0]
    return Packing(first.context, first.row_tokens, sum(packing.rows for packing in packings), **arrays)
