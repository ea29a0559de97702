"""Waiting for a server of a test to listen."""

from __future__ import annotations

import socket
import time


def wait_for(port: int) -> None:
    """Until something listens there, or half a minute has gone."""
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
