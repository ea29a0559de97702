"""What a command imports before there is work: a plan loads no voice and no model library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"hibari", "onnx", "torch", "transformers"}


def imported(code: str, *words: str) -> set[str]:
    """Which of the heavy packages the code has imported when it ends, in an interpreter of its own."""
    code = f"import json, sys\n{code}\nprint(json.dumps([name for name in {sorted(HEAVY)} if name in sys.modules]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(json.loads(done.stdout.splitlines()[-1]))


PLAN = """
from slamray.commands.run import main
from slamray.recipe.slam import build
assert main(sys.argv[1:], build) == 0
"""
BUILD = """
from slamray.config.load import load_recipe
from slamray.recipe.slam import build
from slamray.stage.stage import order
stages = order(build(load_recipe(sys.argv[1:])))
print([stage.fingerprint for stage in stages])
"""
FINISH = f"""{BUILD}
from pathlib import Path
from slamray.stage.stage import MANIFEST
for stage in stages:
    stage.folder(Path(sys.argv[2].removeprefix("root="))).write_json(MANIFEST, {{}})
"""


@pytest.mark.parametrize("backend", ["hibari", "fastspeech2", "kokoro"])
def test_stages_and_their_fingerprints_are_known_without_voices_and_models(backend: str) -> None:
    words = ["profile=laptop", f"speech.tts.backend={backend}", f"speech.tts.{backend}.revision=0123456789abcdef"]
    assert imported(BUILD, *(words if backend != "hibari" else words[:2])) == set()


def test_a_plan_of_a_finished_run_imports_no_voice_and_no_model(tmp_path: Path) -> None:
    words = ["profile=laptop", f"root={tmp_path}"]
    imported(FINISH, *words)
    assert imported(PLAN, *words, "--plan") == set()


def test_a_plan_imports_no_voice(tmp_path: Path) -> None:
    """The memory that training will need is found with torch, on tensors that have shapes alone."""
    assert imported(PLAN, "profile=laptop", f"root={tmp_path}", "--plan") <= {"torch", "transformers"}
