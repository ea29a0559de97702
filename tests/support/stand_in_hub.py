"""A model hub on loopback: folders under their published names, served by the routes that huggingface_hub asks for.

Layout: root/models/owner/name/file and root/datasets/owner/name/file. Every revision holds the same files; `main` is
the commit that `commit(name)` gives. Point HF_ENDPOINT at `address` before huggingface_hub is imported.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = re.compile("[0-9a-f]{40}")
_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)(/(?P<what>revision|tree|paths-info)/(?P<rest>.*))?"
)
_FILE = re.compile(r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class Hub:
    """Where the hub answers, and what it was asked."""

    address: str
    asked: list[str] = field(default_factory=list)


def commit(name: str) -> str:
    """The commit of `main` of owner/name."""
    return hashlib.sha1(name.encode()).hexdigest()


@contextmanager
def serve(root: Path, gated: tuple[str, ...] = ()) -> Iterator[Hub]:
    """A hub of the folders below root; `gated`: names that are refused to whoever brings no token."""
    hub = Hub("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, root, gated, hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, gated: tuple[str, ...], hub: Hub, *args: Any) -> None:
        self._root, self._gated, self._hub = root, gated, hub
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, *args: Any) -> None:
        self._hub.asked.append(f"{self.command} {self.path}")

    def _answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        if api := _API.fullmatch(path):
            folder = self._root / api["kind"] / api["name"]
            if not folder.is_dir():
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return self._json(self._about(folder, api["name"], api["what"] or "", api["rest"] or "", body))
        if file := _FILE.fullmatch(path):
            if file["name"] in self._gated and "Authorization" not in self.headers:
                return self._send(403, b"gated", {"X-Error-Code": "GatedRepo"})
            found = self._root / (file["kind"] or "models/") / file["name"] / file["path"]
            if not found.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return self._file(found, file["name"], file["revision"])
        return self._send(404, b"")

    def _about(self, folder: Path, name: str, what: str, rest: str, body: bytes) -> Any:
        revision, _, inner = rest.partition("/")
        sha = revision if COMMIT.fullmatch(revision) else commit(name)
        if what in ("", "revision"):
            files = [{"rfilename": str(path.relative_to(folder))} for path in _files(folder)]
            return {"id": name, "sha": sha, "siblings": files, "private": False, "gated": False}
        if what == "paths-info":
            asked = json.loads(body)["paths"]
            return [_entry(folder, folder / one) for one in asked if (folder / one).exists()]
        recursive = "recursive=true" in self.path.lower()
        below = (folder / inner).rglob("*") if recursive else (folder / inner).iterdir()
        return [_entry(folder, path) for path in sorted(below)]

    def _file(self, path: Path, name: str, revision: str) -> None:
        content = path.read_bytes()
        headers = {
            "X-Repo-Commit": revision if COMMIT.fullmatch(revision) else commit(name),
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first = int(wanted[1])
            last = min(int(wanted[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._send(206, content[first : last + 1], headers)
        return self._send(200, content, headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    name = str(path.relative_to(folder))
    oid = hashlib.sha1(name.encode()).hexdigest()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": oid, "size": 0}
    return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}
