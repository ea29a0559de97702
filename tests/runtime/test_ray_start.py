"""A Ray cluster that does not answer, or cannot start, is one line that says what to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.object_store import free_port

from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.runtime import session

ROOT = Path(__file__).parents[2]


def test_an_address_where_nobody_answers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(session, "LISTENING_SECONDS", 0.3)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    said = rf"^RAY_ADDRESS=127\.0\.0\.1:{port}: no Ray cluster answers there \(.*refused\); .*unset RAY_ADDRESS"
    with pytest.raises(BadInput, match=said):
        session.connect(Compute())


def test_a_head_that_starts_just_now_is_waited_for() -> None:
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        listening = threading.Timer(0.5, head.listen)
        began = time.monotonic()
        listening.start()
        session.await_listener(f"ray://127.0.0.1:{head.getsockname()[1]}")
        assert 0.5 <= time.monotonic() - began < session.LISTENING_SECONDS
        listening.join()


@pytest.mark.parametrize("address", ["auto", "local", "HEAD:port", "127.0.0.1:0"])
def test_other_forms_of_an_address_are_left_to_ray(address: str) -> None:
    session.await_listener(address)  # asks nobody


def test_a_folder_that_ray_cannot_write_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [
        sys.executable,
        ROOT / "jobs" / "slam.py",
        "recipe=demo",
        f"root={tmp_path}/runs",
        "tracking.enabled=false",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["RAY_TMPDIR"] = str(tmp_path / "file")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: Ray did not start on this machine ("), done.stderr
    assert f"; see that {tmp_path}/file/ray can be written" in last and "Traceback" not in done.stderr
