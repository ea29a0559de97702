"""Ranges of tensors: every number is held once, and any number of workers finds its own again."""

from __future__ import annotations

import numpy as np
import pytest

from slamray.train.ranges import Cut, cuts, ends, rows_of, share


@pytest.mark.parametrize("numbers", [0, 1, 7, 64, 1000])
@pytest.mark.parametrize("world", [1, 2, 3, 64])
def test_every_number_is_held_by_one_worker(numbers: int, world: int) -> None:
    held = [share(numbers, rank, world) for rank in range(world)]
    assert [n for begin, end in held for n in range(begin, end)] == list(range(numbers))
    assert len({end - begin for begin, end in held if end - begin}) <= 2  # all are alike but the last


def test_shares_are_those_of_a_hand_calculation() -> None:
    assert [share(10, rank, 4) for rank in range(4)] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert [share(5, rank, 4) for rank in range(4)] == [(0, 2), (2, 4), (4, 5), (5, 5)]  # one is left without
    assert ends(5, 4) == [2, 4, 5, 5]


def test_a_range_over_three_parts_is_taken_from_each() -> None:
    assert cuts([3, 6, 9, 10], (2, 8)) == [Cut(0, 2, 3), Cut(1, 0, 3), Cut(2, 0, 2)]
    assert cuts([3, 6, 9, 10], (3, 6)) == [Cut(1, 0, 3)]
    assert cuts([2, 2, 4, 5, 5], (2, 5)) == [Cut(2, 0, 2), Cut(3, 0, 1)]  # empty parts give nothing
    assert cuts([4], (4, 4)) == []


@pytest.mark.parametrize("writers", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("readers", [1, 2, 3, 7])
def test_any_number_of_workers_reads_what_any_number_wrote(writers: int, readers: int) -> None:
    whole = np.random.default_rng(writers).integers(0, 1000, 101)
    parts = [whole[slice(*share(101, rank, writers))] for rank in range(writers)]
    for rank in range(readers):
        wanted = share(101, rank, readers)
        found = [parts[cut.part][cut.begin : cut.end] for cut in cuts(ends(101, writers), wanted)]
        assert np.array_equal(np.concatenate([whole[:0], *found]), whole[slice(*wanted)])


def test_rows_hold_a_range_of_a_matrix() -> None:
    matrix = np.arange(35).reshape(7, 5)
    for wanted in [(0, 35), (4, 6), (5, 10), (11, 12), (13, 29)]:
        (first, last), (begin, end) = rows_of(wanted, 5)
        assert np.array_equal(matrix[first:last].ravel()[begin:end], np.arange(*wanted))
        assert last - first <= (wanted[1] - wanted[0]) // 5 + 2  # and little more is read
