"""A recipe of text and speech from the corpus to the report, on tiny models in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import tiny

from slamray.evaluate.metrics import METRICS, PairMetric

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_text_and_speech_go_from_the_corpus_to_four_way_scores(
    tmp_path: Path, tiny_encoder: Path, tiny_vocoder: Path
) -> None:
    words = [
        *(word for word in tiny.words(tiny_encoder, Path("unused"), tiny_vocoder) if not word.startswith("model.base")),
        "recipe=interleaved_laptop", "joint.text=null", "joint.synthetic_documents=6", "joint.text_documents=20",
        "joint.text_to_token.pretrain.budget=steps:20", "joint.text_to_token.pretrain.tokens_per_step=1024",
        "joint.text_to_token.sampling.top_k=1000", "joint.interleave.span_pieces=4", "evaluate.perplexity_tokens=2000",
        "evaluate.questions.stories=4", "evaluate.task_sentences=2",
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
    across = {name for name, row in METRICS.items() if isinstance(row, PairMetric) and row.across}
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
