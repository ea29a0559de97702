"""No compiler is needed: DeepSpeed, which would build an extension for each engine on a CPU, is kept from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STEP = """
import os, sys, tempfile
import torch
from support.processes import join_group
from transformers import AutoModelForCausalLM, Qwen2Config
from pathlib import Path
from slamray.config.compute import Compute
from slamray.config.training import PretrainSettings
from slamray.train.pretrain import make_engine
join_group(os.environ.__setitem__, 0, 1, Path(tempfile.mkdtemp()) / "store")
shape = Qwen2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                    intermediate_size=64, vocab_size=64)
engine, _ = make_engine(AutoModelForCausalLM.from_config(shape), PretrainSettings(), Compute(), 1)
import deepspeed
assert deepspeed.comm.comm.cdb.shm_comm_op is None
print("trains")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.slow
def test_an_engine_is_made_where_there_is_no_compiler(tmp_path: Path) -> None:
    paths = os.pathsep.join(sys.path)
    bare = {"PATH": str(tmp_path), "TORCH_EXTENSIONS_DIR": str(tmp_path / "built"), "PYTHONPATH": paths}
    environment = os.environ | bare | {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.stdout.endswith("trains\n"), done.stderr[-3000:]
    assert not (tmp_path / "built").exists()
