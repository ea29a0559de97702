"""On a node with a GPU a CPU profile runs on the CPU, a GPU profile asks its GPUs first, a training keeps its GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import gpu_node


@pytest.mark.slow
@pytest.mark.long
def test_a_visible_gpu_is_used_by_those_who_ask_for_it_alone(tmp_path: Path) -> None:
    """A Ray node of one GPU, and a DeepSpeed that finds one: actors, calls, engine and loop still land on the CPU."""
    (tmp_path / "sitecustomize.py").write_text(gpu_node.PLANT)
    hiding = ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR")  # of the tests themselves
    environment = {key: value for key, value in os.environ.items() if key not in hiding}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    command = [sys.executable, gpu_node.__file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["call with a GPU"] == "0"
    assert found["call"] == found["actor"] == found["loop"].pop("visible") == ""
    assert found["loop"].pop("accelerator without our word") == "cuda"  # the plant is there
    assert found["loop"] == {"accelerator": "cpu", "engine": "cpu", "loss": "cpu"}
    # a training that starts again finds its GPU free, though scoring has waited for one
    assert found["side by side"] == ["trains", "trains", "has trained", "scores"]
    said = found["probe of a CPU"]
    assert said.startswith("1 GPUs on 1 nodes can train: the CPU, ") and said.count("\n") == 1
    assert found["probe of the GPU"].startswith(f"node {found['node']}: torch 2.11")
    assert "cannot use a GPU: " in found["probe of the GPU"] and "\n" not in found["probe of the GPU"]
