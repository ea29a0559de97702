"""DeepSpeed's extension: what a process leaves behind that was killed while it loaded it stops nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slamray.runtime.prebuild import _cache


@pytest.mark.slow
def test_a_lock_that_a_killed_process_left_is_not_waited_for_and_another_ninja_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "ninja").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "ninja").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    left_behind = _cache() / "deepspeed_shm_comm" / "lock"
    left_behind.parent.mkdir(parents=True, exist_ok=True)
    left_behind.touch()
    # before, torch waited for ever
    subprocess.run([sys.executable, "-m", "slamray.runtime.prebuild"], env=environment, check=True, timeout=240)
    assert not left_behind.exists()
