"""Budgets: what the words mean and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from slamray.config.budget import Budget, parse_budget
from slamray.errors import BadInput
from slamray.train.budget import Spent, accumulation_steps, progress


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


def test_accumulation_is_what_remains_of_the_global_batch() -> None:
    # Table 4: 128 sequences of 1024 tokens in micro-batches of 8 on one GPU, and the same batch on two.
    assert accumulation_steps(131_072, 8, 1024, 1, "keys") == 16
    assert accumulation_steps(131_072, 8, 1024, 2, "keys") == 8


@pytest.mark.parametrize(("tokens", "micro", "workers"), [(131_072, 3, 1), (131_072, 8, 3), (4096, 8, 1)])
def test_a_batch_that_does_not_divide_is_refused_with_the_numbers(tokens: int, micro: int, workers: int) -> None:
    with pytest.raises(BadInput, match=f"tokens_per_step={tokens}.*{micro} x context 1024 x workers {workers}"):
        accumulation_steps(tokens, micro, 1024, workers, "pretrain.tokens_per_step")


def test_budgets_import_without_torch() -> None:
    code = "import sys, slamray.train.budget; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
