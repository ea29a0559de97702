"""An S3 server on loopback (moto's), and a gate before it that fails as it is told."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BUCKET, ROOT = "bucket", "runs"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
REFUSALS = {  # status, S3's name of the error, and its words; a disk that is full as MinIO says it
    "500": (500, "", ""),
    "denied": (403, "AccessDenied", "Access Denied"),
    "full": (507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."),
}
HOP_BY_HOP = {"connection", "transfer-encoding", "date", "server", "content-length"}


def free_port() -> int:
    """A port of this machine that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(address: str, size: int, times: int) -> None:
    """What a process does that reads a file of the store, and finds it whole."""
    from slamray.stage.folder import Folder

    for _ in range(times):
        assert Folder(address).fetch().stat().st_size == size


@contextmanager
def serve() -> Iterator[str]:
    """The server's address; it holds an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    address = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket=BUCKET)
    yield address
    moto.stop()


@dataclass
class Gate:
    """A server before another: it hands on what it is asked, and what comes back, unless `trouble` names a failure.

    trouble(method, path): "" for none; "500", "denied" and "full": the answer, see REFUSALS; "refused": the connection
    is closed; "torn": half of the body comes; "flipped": a byte of it is another one; "slow": it takes `slow_seconds`.
    """

    behind: str
    trouble: Callable[[str, str], str] = lambda method, path: ""
    slow_seconds: float = 3.0
    asked: list[tuple[str, str]] = field(default_factory=list)  # method and path of every request

    @contextmanager
    def open(self, port: int = 0) -> Iterator[str]:
        """The gate's address; 0: any free port."""
        gate = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                gate._hand_on(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

            def log_message(self, *words: object) -> None:
                """Silence: `asked` holds what is of interest."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    def _hand_on(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = _body(request)
        self.asked.append((request.command, request.path))
        trouble = self.trouble(request.command, request.path)
        if trouble == "slow":
            time.sleep(self.slow_seconds)
        if trouble in REFUSALS:
            status, code, said = REFUSALS[trouble]
            told = f"<Error><Code>{code}</Code><Message>{said}</Message></Error>".encode() if code else b""
            request.send_response(status)
            request.send_header("Content-Type", "application/xml")
            request.send_header("Content-Length", str(len(told)))
            request.end_headers()
            if request.command != "HEAD":
                request.wfile.write(told)
            return
        if trouble == "refused":
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        inner = http.client.HTTPConnection(self.behind.removeprefix("http://"), timeout=30)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "transfer-encoding"}
        inner.request(request.command, request.path, body, headers | {"Content-Length": str(len(body))})
        answer = inner.getresponse()
        content = answer.read()
        length = answer.headers.get("Content-Length", str(len(content)))
        request.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                request.send_header(name, value)
        request.send_header("Content-Length", length if request.command == "HEAD" else str(len(content)))
        request.end_headers()
        if trouble == "flipped" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        if request.command != "HEAD":
            request.wfile.write(content[: len(content) // 2] if trouble == "torn" else content)
        if trouble == "torn":
            request.wfile.flush()
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
        inner.close()


def _body(request: http.server.BaseHTTPRequestHandler) -> bytes:
    """What was sent, in one piece or in chunks."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    chunks = []
    while size := int(request.rfile.readline().split(b";")[0], 16):
        chunks.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(chunks)
