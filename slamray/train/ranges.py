"""Which numbers of a tensor each of several workers holds, and where another number of workers finds its own.

Arithmetic alone. A tensor is taken as flat, in its order in memory; a range is its numbers begin .. end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

Range = tuple[int, int]


def share(numbers: int, rank: int, world: int) -> Range:
    """The range of a tensor that a rank holds under ZeRO 3: equal shares, rounded up; the last are shorter or empty."""
    size = -(-numbers // world)
    return min(rank * size, numbers), min((rank + 1) * size, numbers)


def ends(numbers: int, world: int) -> list[int]:
    """Where each rank's range ends; the next one's begins there."""
    return [share(numbers, rank, world)[1] for rank in range(world)]


@dataclass(frozen=True)
class Cut:
    """Numbers begin .. end of what one part holds, counted from the part's first."""

    part: int
    begin: int
    end: int


def cuts(part_ends: Sequence[int], wanted: Range) -> list[Cut]:
    """What to take of which part, so that one after the other they are the wanted range."""
    begin, end = wanted
    assert 0 <= begin <= end <= part_ends[-1], (wanted, part_ends)
    found = []
    part = bisect_right(part_ends, begin)
    while begin < end:
        first, last = part_ends[part - 1] if part else 0, min(end, part_ends[part])
        if begin < last:
            found.append(Cut(part, begin - first, last - first))
        begin, part = last, part + 1
    return found


def rows_of(wanted: Range, width: int) -> tuple[Range, Range]:
    """The rows of a matrix that hold a range, and the range counted from the first of these rows."""
    first, last = wanted[0] // width, -(-wanted[1] // width)
    return (first, last), (wanted[0] - first * width, wanted[1] - first * width)
