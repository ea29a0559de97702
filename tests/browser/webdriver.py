"""A headless Chromium through its driver: the few commands of W3C WebDriver that pages are looked at with.

Plain HTTP to a chromedriver on loopback, as Debian's package chromium-driver brings it; no other package is needed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEEDED = "needs chromium and chromedriver: apt-get install chromium chromium-driver"
PHONE = 600  # pixels; a narrower window is a phone's
MAX_HEIGHT = 16_000  # pixels of a picture: what Chromium draws at once


class Browser:
    """One window. Every command waits for its answer."""

    def __init__(self, address: str) -> None:
        flags = ["--headless=new", "--hide-scrollbars", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
        options = {"args": flags, "binary": _program("chromium", "chromium-browser", "google-chrome")}
        always = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        started = _ask(f"{address}/session", {"capabilities": {"alwaysMatch": always}})
        self._session = f"{address}/session/{started['sessionId']}"

    def open(self, url: str, width: int, height: int = 900) -> None:
        """Show an address in a window of this size in pixels."""
        self._resize(width, height)
        self._do("url", {"url": url})

    def run(self, script: str) -> Any:
        """What a function body of JavaScript returns in the page."""
        return self._do("execute/sync", {"script": script, "args": []})

    def wait(self, script: str, what: str, seconds: float = 90.0) -> Any:
        """The first answer of the script that is true. TimeoutError that says what was waited for."""
        deadline = time.monotonic() + seconds
        while not (answer := self.run(script)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not there after {seconds:g} s")
            time.sleep(0.5)
        return answer

    def press(self, key: str) -> None:
        """A key, as a person presses it."""
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._do("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def messages(self) -> list[str]:
        """Errors that the page has logged since the last call."""
        return [entry["message"] for entry in self._do("se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]

    def picture(self, path: Path, width: int, height: int = 0) -> None:
        """A PNG of the window, or of the whole page where no height is given."""
        tall = height or min(MAX_HEIGHT, int(self.run("return document.documentElement.scrollHeight")))
        self._resize(width, tall)
        time.sleep(1.0)  # what is drawn after a change of size
        taken = self._do("goog/cdp/execute", {"cmd": "Page.captureScreenshot", "params": {"format": "png"}})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        _ask(self._session, None, "DELETE")

    def _resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < PHONE}
        self._do("goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})

    def _do(self, command: str, body: dict[str, Any]) -> Any:
        return _ask(f"{self._session}/{command}", body)


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own; SystemExit that says what to install where there is none."""
    port = free_port()
    driver = subprocess.Popen(
        [_program("chromedriver"), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port)
        window = Browser(f"http://127.0.0.1:{port}")
        yield window
        window.close()
    finally:
        driver.terminate()
        driver.wait(30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for_port(port: int, seconds: float = 600.0) -> None:
    """Until somebody listens there on loopback."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nobody listens on port {port} after {seconds:g} s")


def _program(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    raise SystemExit(f"{names[0]}: not found; {NEEDED}")


def _ask(address: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(json.load(error)["value"]["message"]) from error
