"""The report: one file, no request, everything escaped, every section there when it has rows and gone when not."""

from __future__ import annotations

import base64
import io
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

from slamray.evaluate.metrics import METRICS, ScalarMetric
from slamray.report.charts import MAX_POINTS, Series, interval_chart, label, line_chart, make_axis, thin
from slamray.report.page import Clip, ReportData, ScalarTable, as_rows, draw_dpo, duration, write_report

EVIL = '<script>alert("x")</script> & <img src=http://example.com/x.png>'
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)


def scalar_table(metric: str, *rows: dict[str, Any]) -> ScalarTable:
    row = METRICS[metric]
    assert isinstance(row, ScalarMetric)
    return ScalarTable(row, rows)


def full() -> ReportData:
    score = {"metric": "words", "n": 500, "ties": 3, "accuracy": 0.712, "low": 0.671, "high": 0.75}
    difference = {
        "metric": "words",
        "n": 500,
        "before": 0.7,
        "after": 0.712,
        "difference": 0.012,
        "low": -0.01,
        "high": 0.034,
    }
    step = {"run": "pre-training", "tokens": 8192, "seconds": 2.0, "flops": 2.5e11, "loss": 5.1, "validation_loss": 5.2}
    dpo = {
        "step": 1, "loss": 0.69, "accuracy": 0.5, "reward_chosen": 0.0, "reward_rejected": 0.0, "margin": 0.0,
        "logp_chosen": -200.0, "logp_rejected": -210.0,
    }  # fmt: skip
    perplexity = {"checkpoint": "pre-trained", "perplexity": 12.3, "loss": 2.51, "targets": 120_394}
    said = {"checkpoint": "x", "continuations": 16, "empty": 16, "ended": 16, "mean_units": 0.0, "auto_bleu": None}
    genppl = {
        "checkpoint": EVIL,
        "utterances": 9,
        "empty": 9,
        "perplexity": None,
        "token_perplexity": None,
        "auto_bleu": None,
    }
    understood = genppl | {"empty": 0, "perplexity": 161.84, "token_perplexity": 120.0, "auto_bleu": 0.25}
    return ReportData(
        title=f"demo {EVIL}",
        summary=[EVIL],
        scores=[{"checkpoint": "pre-trained", **score}, {"checkpoint": f"after {EVIL}", **score}],
        scalars=[
            scalar_table("perplexity", perplexity),
            scalar_table("unit_auto_bleu", said),
            scalar_table("genppl", genppl, understood),
        ],
        differences=[difference],
        training=[step, step | {"tokens": 16384, "loss": 4.9, "validation_loss": None}],
        dpo=[dpo, dpo | {"step": 2}],
        sounds=[Clip(EVIL, EVIL, TONE, 16_000)],
        examples=[{"metric": "words", "prompt_text": EVIL, "chosen_text": "dog", "rejected_text": "dag"}],
        stages=[{"name": "pack", "fingerprint": "ab12", "status": "made", "seconds": 200.4, "device_seconds": None}],
        config={"name": EVIL, "dpo": {"beta": 0.1}},
        provenance={"command": EVIL},
    )


class Page(HTMLParser):
    """Tags and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "poster", "action")
        ]


def written(data: ReportData, folder: Path) -> str:
    write_report(data, folder / "report.html")
    return (folder / "report.html").read_text()


def test_the_file_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    text = written(full(), tmp_path)
    page = Page(text)
    assert page.addresses and all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert "default-src 'none'" in text and "@import" not in text and "url(" not in text


def test_every_text_is_escaped(tmp_path: Path) -> None:
    text = written(full(), tmp_path)
    assert "<script>" not in text and "<img src" not in text
    assert text.count("&lt;script&gt;") >= 8


def test_a_table_cell_shows_share_interval_number_and_ties(tmp_path: Path) -> None:
    text = re.sub(r"<[^>]+>|\s+", " ", written(full(), tmp_path))
    text = re.sub(r" +", " ", text)
    assert "71.2 67.1 to 75.0 n 500, ties 3" in text
    assert "+1.2 -1.0 to +3.4" in text
    assert "9 9 - - -" in text and "9 0 161.8 120.0 0.250" in text  # nothing understood is a dash, never a number
    assert "12.30 2.510 120,394" in text  # perplexity, nats per token, tokens
    assert "95 % interval: Wilson&#39;s where every item is one pair, otherwise that of a bootstrap over items" in text
    assert "95 % interval" in text and "dpo.beta" in text and "3 min 20 s" in text


def test_sounds_can_be_decoded_and_have_their_length(tmp_path: Path) -> None:
    (address,) = [a for a in Page(written(full(), tmp_path)).addresses if a.startswith("data:audio/mpeg")]
    audio, rate = soundfile.read(io.BytesIO(base64.b64decode(address.split(",")[1])))
    assert rate == 16_000 and len(audio) == pytest.approx(16_000, abs=2500)  # MP3 pads to whole frames
    assert np.sqrt(np.mean(audio**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.15)


def test_a_section_without_rows_is_left_out(tmp_path: Path) -> None:
    text = written(ReportData(title="nothing yet"), tmp_path)
    assert "<h2" not in text and "<svg" not in text and "<nav" not in text
    assert "Preference" not in written(replace(full(), dpo=[], differences=[]), tmp_path)


def test_a_continuation_stands_with_what_its_prompt_says_and_what_was_heard_marked_as_such(tmp_path: Path) -> None:
    clips = [
        Clip("Continuation", "a", TONE, 16_000, "Once upon a time", f"there {EVIL}"),
        Clip("Continuation", "b", TONE, 16_000, "A little girl", ""),
        Clip("Continuation", "c", TONE, 16_000, "A little girl", None),
    ]
    text = written(ReportData(title="t", sounds=clips), tmp_path)
    assert "<dd>&ldquo;Once upon a time&rdquo;</dd>" in text and "nothing was understood" in text
    assert text.count("as PocketSphinx heard it") == 2  # of the third nobody has listened to
    assert "a small offline recogniser" in text and "<script>" not in text
    none = written(ReportData(title="t", sounds=clips[2:]), tmp_path)
    assert "PocketSphinx" not in none and "A little girl" in none


def test_each_heading_is_one_step_below_the_one_before_and_the_contents_lead_to_all_sections(tmp_path: Path) -> None:
    text = written(full(), tmp_path)
    page = Page(text)
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    links = [address.removeprefix("#") for address in page.addresses if address.startswith("#")]
    assert links == re.findall(r'<h2 id="(\w+)"', text) and "dpo" in links


def test_what_scrolls_and_what_sounds_can_be_reached_by_keyboard_and_has_a_name(tmp_path: Path) -> None:
    text = written(full(), tmp_path)
    regions = re.findall(r'<div class="scroll"([^>]*)>', text)
    assert len(regions) == text.count('class="scroll"') > 5
    assert all('tabindex="0" role="region"' in one and re.search('aria-label="[^"]+"', one) for one in regions)
    assert re.search(r'<audio controls[^>]* aria-label="[^"]+"', text) and 'lang="en"' in text
    heads = re.findall(r"<th(?: [^>]*)?>", text)
    assert heads and all("scope=" in head for head in heads)


def test_a_chart_says_in_words_what_it_shows(tmp_path: Path) -> None:
    chart = line_chart("Loss", "tokens", "loss (nats)", [Series("training", [1000, 20_000], [5.1, 2.25])])
    said = ElementTree.fromstring(chart).get("aria-label")
    assert said == "Loss. loss (nats) over tokens. training, from 5.1 at 1000 to 2.25 at 20k."
    bars = interval_chart("Scores", "accuracy", ["words"], [Series("aligned", [0], [0.6], [0.5], [0.7])], 0.5)
    assert ElementTree.fromstring(bars).get("aria-label") == "Scores. accuracy. aligned, words: 0.600 [0.500, 0.700]."


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_have_the_contrast_of_wcag_aa(tmp_path: Path, scheme: int) -> None:
    assert contrast("000", "fff") == pytest.approx(21) and contrast("767676", "fff") == pytest.approx(4.54, abs=0.01)
    blocks = re.findall(r":root \{(.*?)\}", written(full(), tmp_path), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): #([0-9a-f]{3,6})", blocks[scheme]))
    for ground in ("paper", "panel"):
        for text in ("ink", "soft"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for line in ("c0", "c1", "c2", "c3", "c4"):
            assert contrast(colours[line], colours[ground]) >= 3, (line, ground)
    assert contrast(colours["c0"], colours["paper"]) >= 4.5  # of links


def test_dpo_of_twenty_steps_is_twenty_dots_of_each_line(tmp_path: Path) -> None:
    rows = [full().dpo[0] | {"step": step} for step in range(1, 21)]
    margin = next(chart for chart in draw_dpo(rows) if "Margin" in chart)
    assert margin.count("<circle") == 20


def test_charts_are_well_formed_with_axis_titles_and_legend() -> None:
    series = [Series("train <x>", range(5), [5, 4, 3, 2.5, float("nan")]), Series("validation", [1, 3], [4.2, 2.9])]
    bars = [Series("a", [0, 1], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7])]
    for chart in (
        line_chart("Loss & more", "tokens", "loss", series),
        interval_chart("T", "accuracy", ["x y", "z"], bars, 0.5),
    ):
        root = ElementTree.fromstring(chart)
        assert not re.search(r"nan|inf\b", chart)
        for element in root.iter():  # nothing lies outside the drawing
            for name, limit in (("x", 460), ("cx", 460), ("x1", 460), ("x2", 460)):
                assert 0 <= float(element.get(name, 0)) <= limit
    texts = [
        element.text
        for element in ElementTree.fromstring(line_chart("Loss & more", "tokens", "loss", series)).iter("text")
    ]
    assert {"Loss & more", "tokens", "loss", "train <x>", "validation"} <= set(texts)


def test_a_chart_without_points_is_empty() -> None:
    assert line_chart("t", "x", "y", [Series("a", [], []), Series("b", [1], [float("nan")])]) == ""
    assert interval_chart("t", "y", [], [], 0.5) == ""
    assert line_chart("t", "x", "y", [Series("one point", [3], [2.0])]).count("<circle") == 1


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([0, 10], False, (0, 2, 4, 6, 8, 10)),
        ([0.42, 0.71], False, (0.4, 0.5, 0.6, 0.7, 0.8)),
        ([-3, 1], False, (-3, -2, -1, 0, 1)),
        ([7, 7], False, (6, 8)),
        ([1, 100], True, (1, 2, 5, 10, 20, 50, 100)),
        ([1e3, 1e8], True, (1e3, 1e4, 1e5, 1e6, 1e7, 1e8)),
    ],
)
def test_ticks_are_round_numbers(values: list[float], log: bool, ticks: tuple[float, ...]) -> None:
    axis = make_axis("x", values, log)
    assert axis.ticks == pytest.approx(ticks)
    assert axis.low <= min(values) and axis.high >= max(values)
    assert axis.place(axis.low) == 0 and axis.place(axis.high) == pytest.approx(1)


def test_labels_are_short() -> None:
    assert [label(v) for v in (0, 0.55, -250, 20_000, 1.5e6, 2e9, 3e15)] == [
        "0",
        "0.55",
        "-250",
        "20k",
        "1.5M",
        "2G",
        "3e15",
    ]


def test_long_curves_are_averaged_and_keep_their_mean() -> None:
    curve = Series("loss", range(1000), [float(v) for v in range(1000)])
    thinned = thin(curve, False)
    assert len(thinned.x) <= MAX_POINTS and np.mean(thinned.y) == pytest.approx(499.5)


def test_configuration_is_shown_as_dotted_keys() -> None:
    assert as_rows({"a": {"b": 1, "c": {}}, "d": [1, 2]}) == [("a.b", "1"), ("a.c", "{}"), ("d", "[1, 2]")]


def test_provenance_is_rows_and_the_machine_folds_away(tmp_path: Path) -> None:
    made = {"words": "dpo.beta=0.2", "libraries": {"torch": "2.11.0"}, "compute": {"workers": 2, "device": "cpu"}}
    text = written(ReportData(title="t", provenance=made), tmp_path)
    assert '<th scope="row" class="key">libraries.torch</th><td>2.11.0</td>' in text and "{&#39;" not in text
    assert text.index("2 values of compute") < text.index("compute.workers")


def test_durations_are_readable() -> None:
    assert [duration(s) for s in (None, 1.44, 59.99, 200, 7500)] == ["-", "1.4 s", "60.0 s", "3 min 20 s", "2 h 05 min"]
