"""DeepSpeed's extension: what a process leaves behind that was killed while it loaded it stops nobody."""

from __future__ import annotations

import subprocess
import sys

import pytest

from slamray.runtime.prebuild import _cache


@pytest.mark.slow
def test_a_lock_that_a_killed_process_left_is_not_waited_for() -> None:
    left_behind = _cache() / "deepspeed_shm_comm" / "lock"
    left_behind.parent.mkdir(parents=True, exist_ok=True)
    left_behind.touch()
    # before, torch waited for ever
    subprocess.run([sys.executable, "-m", "slamray.runtime.prebuild"], check=True, timeout=240)
    assert not left_behind.exists()
