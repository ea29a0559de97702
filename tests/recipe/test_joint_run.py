"""A recipe of text and speech from the corpus to the report, on tiny models in one process; then its checkpoints again.

`jobs/evaluate.py` measures them anew, and docs/side_by_side.py prints its stories by both sources of speech.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import published_sets, tiny
from support.machine import InProcess

from slamray.config.load import load_recipe
from slamray.evaluate.metrics import CORPUS_ITEMS, METRICS, PairMetric
from slamray.recipe.evaluation import build, show
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_text_and_speech_go_from_the_corpus_to_four_way_scores(
    tmp_path: Path, tiny_encoder: Path, tiny_vocoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published_sets.write_across(tmp_path / "cross_tSC", 2)
    published_sets.write_swuggy(tmp_path / "lexical")
    words = [
        *(word for word in tiny.words(tiny_encoder, Path("unused"), tiny_vocoder) if not word.startswith("model.base")),
        "recipe=interleaved_laptop", "joint.text=null", "joint.synthetic_documents=6", "joint.text_documents=20",
        "joint.text_to_token.pretrain.budget=steps:20", "joint.text_to_token.pretrain.tokens_per_step=1024",
        "joint.text_to_token.sampling.top_k=1000", "joint.interleave.span_pieces=4", "evaluate.perplexity_tokens=2000",
        "evaluate.questions.stories=4", "evaluate.task_sentences=2",
        f"evaluate.sets={{cm_tsc: {tmp_path / 'cross_tSC'}, swuggy: {tmp_path / 'lexical'}}}",
    ]  # fmt: skip
    command = [sys.executable, str(ROOT / "tests" / "support" / "run_here.py"), str(tmp_path), *words]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    facts = found["facts"]
    kinds = {(row["kind"], row["split"]): row for row in facts["documents"]["kinds"]}
    assert {kind for kind, _ in kinds} == {"text", "speech", "interleaved", "asr", "tts"}
    assert all(row["documents"] and row["tokens"] > row["targets"] > 0 for row in kinds.values())
    sources = facts["packed"]["train"]["sources"]
    assert sources.keys() == {"text", "speech", "interleaved", "synthetic", "asr", "tts"}
    assert all(abs(source["token_share"] - source["weight"]) < 0.05 for source in sources.values())
    own = {name: row for name, row in METRICS.items() if CORPUS_ITEMS in row.needs}
    across = {name for name, row in own.items() if isinstance(row, PairMetric) and row.across}
    for checkpoint in ("untrained", "pretrained", "aligned"):
        figures = facts[f"scores_{checkpoint}"]["figures"]
        assert across <= figures.keys() and figures["topic_cloze_st"]["n"] == figures["topic_cloze"]["n"] == 4
        assert facts[f"scores_{checkpoint}"]["gains"]["topic_cloze_tt"]["n"] == 4
        if checkpoint != "untrained":
            shares = facts[f"answers_{checkpoint}"]["shares"]
            assert {(row["way"], row["rule"], row["n"]) for row in shares if row["kind"] == "all"} == {
                (way, rule, 4) for way in ("st", "tt") for rule in ("contains", "exact")
            }
        forgotten = facts[f"scores_{checkpoint}"]["figures"]["text_perplexity"]
        assert forgotten["base_loss"] > 0 and forgotten["targets"] > 100
    page = Path(found["report"]).read_text()
    assert "Topic cloze S→T" in page and "nats gained" in page and "evaluate.scored=continuation" in page
    written = facts["scores_aligned"]["figures"]["text_continuations"]
    assert written["continuations"] == len(written["samples"]) == 4  # two heard, two read
    assert "What it writes" in page and "after a text that it read" in page
    rates = facts["text_to_token_quality"]["rates"]
    assert rates.keys() == {"text_to_token", "voice", "real_units"} and rates["voice"]["sentences"] == 2
    assert facts["tasks_aligned"]["rates"].keys() == {"asr", "tts"}
    assert "Speech to text, text to speech" in page and "ASR, after DPO" in page
    assert "What was read" in page and "<td>synthetic</td>" in page
    assert "Spoken questions" in page and "stories: what" in page
    sets = facts["evaluation"]["checkpoints"]["aligned"]["figures"]
    assert {name: found["n"] for name, found in sets.items()} == {
        "cm_tsc_ss": 2, "cm_tsc_st": 2, "cm_tsc_ts": 2, "cm_tsc_tt": 2, "swuggy": 5}  # fmt: skip
    assert "cm tsc st" in page or "cm_tsc_st" in page
    _measure_again(tmp_path, words, facts, capsys)
    _print_both_sources(tmp_path, environment)


def _measure_again(folder: Path, words: list[str], facts: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The job's figures are those of the run, of its own checkpoints and of one that lies anywhere."""
    asked = {"metrics": "[topic_cloze_st, text_perplexity, cm_tsc, questions, tasks]"}
    recipe = load_recipe([*words, f"root={folder / 'runs'}"])
    root = Folder(recipe.root)
    (aligned,) = (folder / "runs" / "aligned").glob("*/model")
    for more in ({}, {"checkpoints": f"{{mine: {aligned}}}"}):
        targets = build(recipe, {**asked, **more})
        materialise(targets, root, InProcess(recipe.compute), {"words": words})
        name = "mine" if more else "aligned"
        by_stage = {stage.name: stage.manifest(root)["facts"] for stage in targets}
        figures = by_stage["evaluation"]["checkpoints"][name]["figures"]
        expected = facts["scores_aligned"]["figures"] | facts["evaluation"]["checkpoints"]["aligned"]["figures"]
        for metric in ("topic_cloze_st", "text_perplexity", "cm_tsc_ts"):
            assert figures[metric] == expected[metric]
        assert by_stage[f"answers_{name}"]["shares"] == facts["answers_aligned"]["shares"]
        assert by_stage[f"tasks_{name}"]["rates"] == facts["tasks_aligned"]["rates"]
        capsys.readouterr()
        show(root, targets)
        shown = capsys.readouterr().out
        assert "cm_tsc_st" in shown and "Scored is the ending alone" in shown and f"ASR, {name}" in shown
        assert "S→T" in shown or "st" in shown


def _print_both_sources(folder: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, str(ROOT / "docs" / "side_by_side.py"), f"root={folder / 'runs'}", "stories=1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    row = next(line for line in done.stdout.splitlines() if "`<units " in line and line.startswith("| "))
    sound, said = row.removeprefix("| ").removesuffix(" |").split(" | ")
    text = done.stdout.split("## Story 1\n\n")[1].splitlines()[0]
    for cell in (sound, said):  # what is not spoken is the story's own words, in their order
        assert "`<units " in cell
        words = [word for part in re.split(r"`<units \d+>`(?: \*[^*]*\*)?", cell) for word in part.split()]
        rest = iter(text.split())
        assert words and all(word in rest for word in words)
