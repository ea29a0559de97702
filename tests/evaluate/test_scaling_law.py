"""Scaling laws: the fit, the optimum, repeats. Numbers of the published law are docs/paper.md 5.1's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import huber as scipy_huber

from slamray.evaluate.scaling_law import (
    HUBER_DELTA,
    SPEECH,
    Law,
    Observation,
    effective,
    error,
    expected_topic_cloze,
    fit_law,
    huber,
)

SIZES = (1e5, 4e5, 1.6e6, 6.4e6)
TOKENS = (2.5e5, 1e6, 4e6)


def runs_of(law: Law, noise: float = 0.0) -> list[Observation]:
    rng = np.random.default_rng(0)
    runs = []
    for n, d in itertools.product(SIZES, TOKENS):
        loss = law.e + law.a / n**law.alpha + law.b / d**law.beta
        runs.append(Observation(n, d, loss * np.exp(noise * rng.normal())))
    return runs


@pytest.mark.parametrize("planted", [SPEECH, Law(1.5, 20.0, 60.0, 0.3, 0.28), Law(0.9, 400.0, 150.0, 0.5, 0.34)])
def test_the_fit_recovers_planted_constants(planted: Law) -> None:
    found = fit_law(runs_of(planted))
    assert (found.e, found.alpha, found.beta) == pytest.approx((planted.e, planted.alpha, planted.beta), rel=0.02)
    assert (found.a, found.b) == pytest.approx((planted.a, planted.b), rel=0.1)  # the exponents' error, magnified
    assert error(found, runs_of(planted)) < 1e-4


def test_the_fit_foresees_a_larger_run_through_noise_and_an_outlier() -> None:
    planted = Law(1.5, 20.0, 60.0, 0.3, 0.28)
    runs = runs_of(planted, noise=0.003)
    runs[5] = Observation(runs[5].parameters, runs[5].tokens, 1.3 * runs[5].loss)  # a run that diverged
    larger = planted.predict(1.2e7, 7e6)
    assert fit_law(runs).predict(1.2e7, 7e6).loss == pytest.approx(larger.loss, rel=0.02)


def test_the_error_is_the_root_mean_square_of_relative_errors() -> None:
    flat = Law(2.0, 0.0, 0.0, 1.0, 1.0)  # 2 whatever the run
    assert error(flat, [Observation(1, 1, 2.0), Observation(1, 1, 2.02)]) == pytest.approx(0.01 / 2**0.5, rel=0.01)


def test_the_cost_is_hubers() -> None:
    errors = np.array([-0.2, -0.03, -0.01, 0.0, 0.02, 0.05])
    assert huber(errors) == pytest.approx(scipy_huber(HUBER_DELTA, errors))


@pytest.mark.parametrize("law", [SPEECH, Law(1.5, 20.0, 60.0, 0.3, 0.28)])
@pytest.mark.parametrize("flops", [1e13, 3e18, 4e20])
def test_the_optimum_is_the_least_of_a_grid_of_sizes(law: Law, flops: float) -> None:
    sizes = np.geomspace(1e3, 1e12, 200_001)  # 0.01 % apart
    losses = law.e + law.a / sizes**law.alpha + law.b / (flops / 6 / sizes) ** law.beta
    best = law.optimum(flops)
    assert best.parameters == pytest.approx(sizes[losses.argmin()], rel=2e-3)  # the minimum is flat
    assert best.loss == pytest.approx(losses.min(), rel=1e-9) and best.flops == pytest.approx(flops)


def test_the_published_law_gives_the_papers_two_sizes_at_two_budgets() -> None:
    small = SPEECH.optimum(3.0e18)
    assert (round(small.parameters / 1e6), round(small.tokens / 1e9, 1)) == (59, 8.4)
    assert round(SPEECH.optimum(3.7e18).parameters / 1e6) == 66  # the text of "Slamming"
    assert round(SPEECH.optimum(5.3e18).parameters / 1e6) == 78  # its Table 2


def test_tokens_that_do_not_repeat_are_all_worth_themselves() -> None:
    assert effective(5e8, 5e8, 25.0) == 5e8
    assert effective(5e8, 9e8, float("inf")) == 9e8
    assert SPEECH.predict(1e8, 5e8, unique=5e8) == SPEECH.predict(1e8, 5e8)


def test_repeats_are_worth_less_and_less() -> None:
    # 25 repeats of 100: 100 + 100 x 25 x (1 - 1/e)
    assert effective(100, 2600, 25.0) == pytest.approx(100 + 2500 * (1 - np.exp(-1)))
    assert effective(100, 1e9, 25.0) == pytest.approx(2600)  # never more than 1 + R* epochs
    fresh, again = (SPEECH.predict(5e7, 4e9, unique).loss for unique in (4e9, 1e9))
    assert 0 < again - fresh < 0.05


def test_parameters_beyond_the_best_size_for_the_unique_tokens_count_less() -> None:
    unique = SPEECH.optimum(3e18).tokens
    best = SPEECH.optimum(3e18).parameters
    # at the best size only tokens are discounted; of a larger model the surplus is too
    tokens = effective(unique, 2 * unique, 25.0)
    assert SPEECH.predict(best, 2 * unique, unique).loss == pytest.approx(SPEECH.predict(best, tokens).loss)
    larger = effective(best, 9 * best, 31.0)
    assert SPEECH.predict(9 * best, 2 * unique, unique).loss == pytest.approx(SPEECH.predict(larger, tokens).loss)


def test_topic_cloze_grows_with_the_published_power_through_what_is_known() -> None:
    known = [(6 * 309e6 * 30.4e9, 75.31), (6 * 823e6 * 82e9, 77.93)]
    assert expected_topic_cloze(1e19, known[:1]) == pytest.approx(75.31 * (1e19 / known[0][0]) ** 0.025)
    assert expected_topic_cloze(known[0][0], known) < 75.31 and expected_topic_cloze(known[1][0], known) > 77.93
