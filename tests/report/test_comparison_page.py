"""The page of runs side by side: figures under their runs, what differs, curves over each other, sounds in a row."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from slamray.report.comparison_page import DEFAULT, Beside, cost_rows, differing, label, score_rows, write_comparison
from slamray.report.page import Clip

EVIL = '<script>alert("x")</script>'
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16_000)).astype(np.float32)


def run(name: str, fingerprint: str, topic_cloze: float, margin: float, **params: str) -> Beside:
    return Beside(
        name, fingerprint, "2026-11-30 10:00 UTC", f"One {EVIL}.\n\nTwo.", f"name={name}", "c0ffee1234",
        {
            "topic_cloze": topic_cloze, "perplexity": 9.0, "pretrained/topic_cloze": 0.5, "flops": 1.5e15,
            "heldout_margin": margin, "seconds/units": 65.0, "unknown": 1.0, "pretrained/loss": 2.0,
        },
        params,
        {
            "pretrained/loss": {10: 5.0, 20: 4.0}, "pretrained/tokens": {10: 1000.0, 20: 2000.0},
            "aligned/rewards/margins": {1: 0.0, 2: margin},
        },
    )  # fmt: skip


FIRST, SECOND = run("demo", "aaaaaaaa", 0.6, 0.1), run("demo", "bbbbbbbb", 0.65, 0.4, **{"dpo.beta": "0.2"})


def test_runs_of_one_name_are_told_apart_by_what_they_change() -> None:
    assert label([FIRST, SECOND]) == [f"demo, {DEFAULT}", "demo, dpo.beta=0.2"]
    assert label([FIRST, run("slam", "c", 0.6, 0.1)]) == ["demo", "slam"]
    assert label([FIRST, run("demo", "cccccccc", 0.6, 0.1)]) == [
        f"demo, {DEFAULT} (aaaaaa)",
        f"demo, {DEFAULT} (cccccc)",
    ]


def test_only_settings_that_differ_are_shown_and_what_is_not_named_is_a_default() -> None:
    first = run("a", "a", 0.5, 0.1, **{"pack.context": "512", "dpo.beta": "0.3"})
    second = run("b", "b", 0.5, 0.1, **{"pack.context": "512"})
    assert differing([first, second]) == [("dpo.beta", ["0.3", DEFAULT])]


def test_scores_are_shown_as_readers_know_them_with_the_best_marked_and_ties_not() -> None:
    rows = {title: (values, best) for title, values, best in score_rows([FIRST, SECOND])}
    assert rows["Topic cloze %"] == (["60.0", "65.0"], 1)
    assert rows["validation perplexity"] == (["9.00", "9.00"], -1)
    assert rows["Topic cloze %, before DPO"] == (["50.0", "50.0"], -1)
    assert len(rows) == 3  # curves and what is no metric are no scores


def test_a_lower_perplexity_is_the_better_one() -> None:
    lower = Beside("b", "b", "", "", "", "", {"perplexity": 8.0}, {}, {})
    ((_, values, best),) = score_rows([Beside("a", "a", "", "", "", "", {"perplexity": 9.0}, {}, {}), lower])
    assert (values, best) == (["9.00", "8.00"], 1)


def test_costs_have_the_seconds_of_stages() -> None:
    rows = dict(cost_rows([FIRST, SECOND]))
    assert rows["FLOPs, 6 N D"] == ["1.50e+15"] * 2 and rows["stage units"] == ["1 min 05 s"] * 2


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    heard = {"p1": Clip("Continuation, after DPO", "t", TONE, 16_000, "Once upon a time", f"there was {EVIL}")}
    first = Beside(*[getattr(FIRST, name) for name in FIRST.__dataclass_fields__ if name != "sounds"], sounds=heard)
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_comparison([first, SECOND], path)
    return path.read_text()


def test_curves_of_two_runs_lie_in_one_chart_over_tokens(page: str) -> None:
    (chart,) = re.findall(r'<svg [^>]*aria-label="Loss of pre-training\.(.*?)".*?</svg>', page, re.DOTALL)
    assert "demo, as by default, from 5 at 1000 to 4 at 2000" in chart and "dpo.beta=0.2, from 5" in chart
    assert page.count("<svg") == 2  # of DPO the margin alone was told


def test_every_text_is_escaped_and_nothing_is_asked_for(page: str) -> None:
    assert "<script>" not in page and page.count("&lt;script&gt;") >= 3
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert "default-src 'none'" in page


def test_a_run_without_a_sound_of_a_prompt_says_so(page: str) -> None:
    assert page.count("<audio") == 1 and "no sound of this prompt" in page
    assert "Once upon a time" in page and "as PocketSphinx heard it" in page


def test_it_is_read_by_keyboard_and_by_headings_as_the_report_is(page: str) -> None:
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
    regions = re.findall(r'<div class="scroll"([^>]*)>', page)
    assert len(regions) == 3 and all('tabindex="0"' in one and "aria-label=" in one for one in regions)
    links = re.findall(r'href="#(\w+)"', page)
    assert links == re.findall(r'<h2 id="(\w+)"', page) == ["scores", "costs", "differences", "curves", "sounds"]
