"""Arbitrary input comes to a row's reason or one line; the same draw each time, and others by `make fuzz`."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from support.fuzzed import PROPERTIES, bounded


@pytest.mark.parametrize("name", PROPERTIES)
def test_whatever_is_given_is_read_or_refused_in_one_line(name: str) -> None:
    one = PROPERTIES[name]
    fixed = settings(
        derandomize=True,
        max_examples=one.examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    fixed(given(one.strategy)(one.check))()


def test_work_beyond_the_bounds_is_noticed() -> None:
    with pytest.raises(MemoryError), bounded():
        bytearray(3 << 30)
