"""Fuzz for a while: `python tests/contract/fuzz.py SECONDS=3600 [ONLY=words]`; 1 where something was found.

Rounds go through all properties with a seed of their own, told with what is found, so that SEED=N draws it again.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hypothesis import HealthCheck, Phase, given, seed, settings
from support.fuzzed import PROPERTIES, OutOfTime, Property

ROUND = 4  # times as many examples as the draw of CI


class Over(KeyboardInterrupt):
    """The time is over: Hypothesis neither catches nor shrinks it."""


def draw(one: Property, number: int, tried: list[int], until: float) -> str:
    """What a round of a property found, empty where all was well."""

    def check(value: object) -> None:
        if time.monotonic() > until:
            raise Over
        tried[0] += 1
        try:
            one.check(value)
        except OutOfTime:
            print(f"too long: {value!r}", flush=True)
            raise

    drawn = settings(
        max_examples=ROUND * one.examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=True,
    )
    try:
        seed(number)(drawn(given(one.strategy)(check)))()
    except Over:
        return ""
    except (Exception, OutOfTime) as error:  # whatever it is, it is a finding; the other properties go on
        return "".join(traceback.format_exception(error))
    return ""


def main(words: list[str]) -> int:
    """Rounds until the time is over; a line for each property at the end."""
    asked = dict(word.split("=", 1) for word in words)
    until = time.monotonic() + float(asked.get("SECONDS", "60"))
    names = [name for name in PROPERTIES if asked.get("ONLY", "") in name]
    number = int(asked.get("SEED", str(os.getpid())))
    tried: Counter[str] = Counter()
    found: Counter[str] = Counter()
    while time.monotonic() < until:
        for name in names:
            count = [0]
            trouble = draw(PROPERTIES[name], number, count, until)
            tried[name] += count[0]
            if trouble:
                found[name] += 1
                print(f"--- {name}, SEED={number}\n{trouble}", flush=True)
        number += 1
    for name in names:
        print(f"{name:<26} {tried[name]:>9,} inputs, {found[name]} rounds with a finding", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
