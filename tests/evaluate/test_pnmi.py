"""Phone-normalised mutual information and purity."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from slamray.evaluate.pnmi import frame_phones, pnmi
from slamray.speech.spans import Span


def test_units_that_name_their_phone_score_one() -> None:
    scores = pnmi(["a", "b", "a", "c"], [4, 7, 4, 9])
    assert scores["pnmi"] == pytest.approx(1)
    assert scores["phone_purity"] == scores["cluster_purity"] == pytest.approx(1)


def test_units_that_know_nothing_of_the_phone_score_zero() -> None:
    assert pnmi(["a", "a", "b", "b"], [0, 1, 0, 1])["pnmi"] == pytest.approx(0)


def test_scores_worked_out_by_hand() -> None:
    # joint shares: (a, 0) 2/4, (a, 1) 1/4, (b, 1) 1/4; H(phone) 0.5623 nats, I 0.2158 nats
    scores = pnmi(["a", "a", "a", "b"], [0, 0, 1, 1])
    assert scores["pnmi"] == pytest.approx(0.21576 / 0.56234, abs=1e-4)
    assert scores["phone_purity"] == pytest.approx(3 / 4)
    assert scores["cluster_purity"] == pytest.approx(3 / 4)
    assert (scores["frames"], scores["phones"], scores["units"]) == (4, 2, 2)


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    phones = rng.integers(40, size=5000)
    units = (phones * 12 + rng.integers(60, size=5000)) % 500
    shares = np.bincount(phones) / 5000
    expected = mutual_info_score(phones, units) / -(shares * np.log(shares)).sum()
    assert pnmi([str(p) for p in phones], units)["pnmi"] == pytest.approx(expected)


def test_frames_of_left_out_phones_do_not_count() -> None:
    assert pnmi(["a", " ", "b", " "], [1, 1, 2, 2], without={" "}) == pnmi(["a", "b"], [1, 2])


def test_a_frame_has_the_phone_at_its_middle() -> None:
    phones = [Span("_", 0.0, 0.05), Span("a", 0.05, 0.1), Span("b", 0.1, 0.175)]
    # middles: 0.02 0.06 0.10 0.14 0.18; a span holds its start and not its end
    assert frame_phones(phones, 5, 0.04) == ["_", "a", "b", "b", "b"]
