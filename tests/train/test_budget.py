"""Budgets: what the words mean and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from slamray.config.budget import Budget, parse_budget
from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.train.spent import Spent, fit_micro_batch, fit_pairs, progress, rows_per_step


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("steps:17625", Budget("steps", 17625)),
        ("tokens:2e6", Budget("tokens", 2_000_000)),
        ("flops:3e18", Budget("flops", 3e18)),
        ("time:23h30m", Budget("time", 84_600)),
        ("time:5m", Budget("time", 300)),
        ("time:90s", Budget("time", 90)),
        ("time:1h2m3s", Budget("time", 3723)),
        (" time:0.5h ", Budget("time", 1800)),
    ],
)
def test_budget_words_mean_what_they_say(text: str, budget: Budget) -> None:
    assert parse_budget(text, "pretrain.budget") == budget


NONSENSE = """200 steps steps: steps:-3 steps:2.5 steps:nan steps:1k tokens:inf epochs:3
time: time:90 time:0s time:1m1h time:24:00 time:-5m"""


@pytest.mark.parametrize("text", ["", *NONSENSE.split()])
def test_nonsense_is_refused_with_the_dotted_key(text: str) -> None:
    with pytest.raises(BadInput, match=r"^pretrain\.budget="):
        parse_budget(text, "pretrain.budget")


def test_progress_is_the_spent_share_and_stops_at_one() -> None:
    spent = Spent().plus(tokens=100, flops=6e3, seconds=2.0).plus(tokens=50, flops=3e3, seconds=1.0)
    assert spent == Spent(2, 150, 9e3, 3.0)
    assert progress(Budget("steps", 8), spent) == 0.25
    assert progress(Budget("tokens", 300), spent) == 0.5
    assert progress(Budget("flops", 9e4), spent) == pytest.approx(0.1)
    assert progress(Budget("time", 2), spent) == 1.0


@pytest.mark.parametrize(
    ("batch", "at_most", "workers", "expected"),
    [
        (128, 8, 1, 8),
        (128, 8, 2, 8),
        (128, 7, 1, 4),
        (128, 8, 3, 8),
        (128, 8, 100, 1),
        (90, 8, 1, 6),
        (7, 8, 1, 7),
        (4, 8, 8, 1),
    ],
)
def test_the_micro_batch_is_the_largest_that_divides_the_batch_and_gives_each_worker_one(
    batch: int, at_most: int, workers: int, expected: int
) -> None:
    assert fit_micro_batch(batch, at_most, workers) == expected


def test_batches_that_cannot_be_cut_are_refused_with_the_numbers() -> None:
    assert rows_per_step(131_072, 1024, "key") == 128  # Table 4
    with pytest.raises(BadInput, match=r"pretrain\.tokens_per_step=1000 is no multiple of a row's 1024 tokens"):
        rows_per_step(1000, 1024, "pretrain.tokens_per_step")


def test_the_pairs_of_a_step_are_shared_evenly() -> None:
    assert fit_pairs(64, Compute(workers=8, dpo_micro_batch=3)) == 2
    with pytest.raises(BadInput, match=r"dpo\.pairs_per_step=64 is no multiple of compute\.workers=3"):
        fit_pairs(64, Compute(workers=3))


def test_budgets_import_without_torch() -> None:
    code = "import sys, slamray.train.spent; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
