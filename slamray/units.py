"""The unit vocabulary, the store of packed rows, and the sampler: pure functions of numbers.

Legend: R rows, C context (tokens of a row), P pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slamray import store
from slamray.errors import BadInput
from slamray.packing import Packing, pack

# recipe.md 1.2: <PAD>=0, <S>=1 is both the first and the last token of a document, units follow: 500 units -> 502 rows.
PAD = 0
BOS = 1
FIRST_UNIT = 2
IGNORE = -100  # torch's cross_entropy leaves such targets out
MIXTURE = "mixture.json"  # beside packed rows: the parts of a mixture

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


def batch_rows(seed: int, step: int, n_rows: int, rows_per_step: int) -> Ints:
    """Row indices of the global batch of `step` (from 0): a pure function of its arguments.

    Epochs are permutations that follow each other without a gap, so a batch may hold the end of one and the start of
    the next, and every row is read once in every epoch.
    """
    return _in_epochs((seed,), _positions(step, rows_per_step), n_rows)


@dataclass(frozen=True)
class Part:
    """A source of a mixture: its rows are first .. first + rows, and a round reads `per_round` of them."""

    name: str
    first: int
    rows: int
    per_round: int


def mixed_rows(seed: int, step: int, parts: Sequence[Part], rows_per_step: int) -> Ints:
    """Row indices of the global batch of `step` from a mixture: a pure function of its arguments.

    Rounds follow each other without a gap. A round is a permutation of as many places for each part as it is to give
    rows, and a part's places are filled from its own epochs, so that no row of a part comes again before all others of
    that part have come, however often or seldom the part is read.
    """
    position = _positions(step, rows_per_step)
    per_round = sum(part.per_round for part in parts)
    place = _in_epochs((seed, 0), position, per_round)
    rows = np.empty_like(position)
    first_place = 0
    for number, part in enumerate(parts, start=1):
        here = (first_place <= place) & (place < first_place + part.per_round)
        read = position[here] // per_round * part.per_round + place[here] - first_place
        rows[here] = part.first + _in_epochs((seed, number), read, part.rows)
        first_place += part.per_round
    return rows


def rows_per_round(weights: Sequence[float], tokens: Sequence[int], rows: Sequence[int]) -> list[int]:
    """How many rows of each source a round reads, so that its share of the *tokens* is its weight, within a row.

    tokens, rows: of each source in the packed store; a row of short documents counts for the tokens it holds. A round
    is as long as the store has rows, or longer where the rarest source would have no row in it.
    """
    share = np.array(weights) * np.array(rows) / np.array(tokens)
    share /= share.sum()
    places = share * max(sum(rows), float(np.ceil(1 / share.min())))
    whole = np.floor(places).astype(np.int64)
    missing = round(places.sum()) - int(whole.sum())
    whole[np.argsort(whole - places, kind="stable")[:missing]] += 1  # the largest remainders
    return [int(count) for count in whole]


def _positions(step: int, rows_per_step: int) -> Ints:
    return np.arange(step * rows_per_step, (step + 1) * rows_per_step, dtype=np.int64)


def _in_epochs(seed: tuple[int, ...], position: Ints, n: int) -> Ints:
    """What stands at the positions of an endless sequence of permutations of 0 .. n - 1."""
    epoch = position // n
    found = np.empty_like(position)
    for number in np.unique(epoch):
        here = epoch == number
        found[here] = _permutation((*seed, int(number)), n)[position[here] % n]
    return found


def rank_micro_batches(rows: Ints, rank: int, world: int, micro_batch: int) -> Iterator[tuple[Ints, float]]:
    """This rank's micro-batches of a global batch, and what each counts: over all ranks every row counts once.

    Where the micro-batches cannot be dealt evenly (a node is gone, and three ranks have what was cut for four), the
    ranks that come short repeat one that counts 0: every rank must take part in as many backward passes.
    """
    groups = rows.reshape(-1, micro_batch)
    for first in range(0, len(groups), world):
        yield (groups[first + rank], 1.0) if first + rank < len(groups) else (groups[rank % len(groups)], 0.0)


def sample_hash(step: int, rows: Ints) -> int:
    """A number below 2^64 for the samples of a step; sums of it, modulo 2^64, tell multisets of samples apart.

    splitmix64 (Steele, Lea and Flood 2014) of (step, row), added up: the same in any order and on any number of ranks.
    """
    mixed = rows.astype(np.uint64) + np.uint64(step) * np.uint64(1 << 32)
    with np.errstate(over="ignore"):
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return int((mixed ^ (mixed >> np.uint64(31))).sum())


def add_hashes(*hashes: int) -> int:
    """The hash of several multisets together."""
    return sum(hashes) % (1 << 64)


@lru_cache(maxsize=20)  # the epoch that ends and the one that begins, of a round and of nine sources
def _permutation(seed: tuple[int, ...], n: int) -> Ints:
    return np.random.default_rng(seed).permutation(n)
