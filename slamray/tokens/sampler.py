"""Which rows a step reads: pure functions of (seed, step), whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from slamray.tokens.vocabulary import Ints


def batch_rows(seed: int, step: int, n_rows: int, rows_per_step: int) -> Ints:
    """Row indices of the global batch of `step` (from 0): a pure function of its arguments.

    Epochs are permutations that follow each other without a gap, so a batch may hold the end of one and the start of
    the next, and every row is read once in every epoch.
    """
    return _in_epochs((seed,), _positions(step, rows_per_step), n_rows)


@dataclass(frozen=True)
class MixedSource:
    """A source of a mixture: its rows are first .. first + rows, and a round reads `per_round` of them."""

    name: str
    first: int
    rows: int
    per_round: int


def mixed_rows(seed: int, step: int, sources: Sequence[MixedSource], rows_per_step: int) -> Ints:
    """Row indices of the global batch of `step` from a mixture: a pure function of its arguments.

    Rounds follow each other without a gap. A round is a permutation of as many places for each source as it is to give
    rows, and a source's places are filled from its own epochs, so that no row of a source comes again before all its
    others have come, however often or seldom the source is read.
    """
    position = _positions(step, rows_per_step)
    per_round = sum(source.per_round for source in sources)
    place = _in_epochs((seed, 0), position, per_round)
    rows = np.empty_like(position)
    first_place = 0
    for number, source in enumerate(sources, start=1):
        here = (first_place <= place) & (place < first_place + source.per_round)
        read = position[here] // per_round * source.per_round + place[here] - first_place
        rows[here] = source.first + _in_epochs((seed, number), read, source.rows)
        first_place += source.per_round
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
