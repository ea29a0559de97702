"""The copy in an object store, against moto's S3 server on loopback, and a server that answers 500."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.machine import InProcess

from slamray.errors import BadInput
from slamray.stage import mirror as mirrors
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.mirror import DRIVER, Mirror, Store
from slamray.stage.stage import MANIFEST, Inputs, Stage, order
from slamray.stage.work import Machine

ADDRESS = "s3://bucket/runs"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    import boto3

    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**credentials, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.resource("s3")
    s3.create_bucket(Bucket="bucket")
    yield Store(ADDRESS)
    s3.Bucket("bucket").objects.all().delete()
    s3.Bucket("bucket").delete()


class Work:
    """Two stages that count how often they ran: the second doubles what the first wrote."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.units = Stage("units", self._units, {"n": 3})
        self.packed = Stage("packed", self._packed, {}, (self.units,))

    def _units(self, inputs: Inputs, out: Folder, machine: Machine, n: int) -> dict[str, Any]:
        self.ran.append("units")
        out.write("shards/0.txt", b"21")
        return {}

    def _packed(self, inputs: Inputs, out: Folder, machine: Machine) -> dict[str, Any]:
        self.ran.append("packed")
        out.write("rows.txt", str(2 * int(inputs["units"].fetch("shards/0.txt").read_text())).encode())
        return {}

    def make(self, root: Path, *targets: Stage, address: str = ADDRESS) -> None:
        wanted = order(targets)
        with Mirror(address, root, wanted) as mirror:
            materialise(targets, root, InProcess(), {}, lambda event, stage, record: mirror.observe(event, stage))


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_a_machine_with_an_empty_root_goes_on_where_another_stopped(tmp_path: Path, bucket: Store, kind: str) -> None:
    address = ADDRESS if kind == "s3" else f"file://{tmp_path}/store"
    work = Work()
    work.make(tmp_path / "first", work.units, address=address)
    work.make(tmp_path / "second", work.packed, address=address)
    assert work.ran == ["units", "packed"]
    assert (work.packed.folder(tmp_path / "second").path / "rows.txt").read_text() == "42"
    names = Store(address).sizes()
    assert f"packed/{work.packed.fingerprint}/{MANIFEST}" in names and DRIVER not in names


def test_what_a_stage_has_finished_so_far_is_there_for_the_next_machine(tmp_path: Path, bucket: Store) -> None:
    work = Work()
    root, stage = tmp_path / "first", work.units
    mirror = Mirror(ADDRESS, root, [stage])
    mirror.observe("start", stage)
    for step in (1, 2):
        checkpoint = stage.folder(root).path / "checkpoints" / f"step-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_text("w")
        (checkpoint / "complete.json").write_text("{}")
    (stage.folder(root).path / ".partial-step-3").mkdir()
    (stage.folder(root).path / ".partial-step-3" / "weights").write_text("half")
    mirror.send()
    (stage.folder(root).path / "checkpoints" / "step-1" / "weights").unlink()
    (stage.folder(root).path / "checkpoints" / "step-1" / "complete.json").unlink()
    mirror.send()
    Store(ADDRESS).delete(DRIVER)  # the machine is gone
    Mirror(ADDRESS, tmp_path / "second", [stage])
    folder = stage.folder(tmp_path / "second").path
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert found == ["checkpoints/step-2/complete.json", "checkpoints/step-2/weights"]


def test_shards_are_kept_until_the_part_that_they_are_merged_into_is_there(tmp_path: Path, bucket: Store) -> None:
    work = Work()
    root, stage = tmp_path / "first", work.units
    folder = stage.folder(root)
    mirror = Mirror(ADDRESS, root, [stage])
    mirror.observe("start", stage)
    for number in range(3):
        folder.write(f"shards/shard-{number}.arrow", b"units")
    mirror.send()
    names = [name.partition(f"{stage.fingerprint}/")[2] for name in bucket.sizes() if name != DRIVER]
    assert names == [f"shards/shard-{number}.arrow" for number in range(3)]
    folder.write("units/part-00000.parquet", b"units of two")
    for number in range(2):
        folder.remove(f"shards/shard-{number}.arrow")
    mirror.send()
    names = [name.partition(f"{stage.fingerprint}/")[2] for name in bucket.sizes() if name != DRIVER]
    assert sorted(names) == ["shards/shard-2.arrow", "units/part-00000.parquet"]


def test_a_file_that_was_written_anew_in_the_same_size_is_sent_anew(tmp_path: Path, bucket: Store) -> None:
    work = Work()
    root, stage = tmp_path / "first", work.units
    mirror = Mirror(ADDRESS, root, [stage])
    mirror.observe("start", stage)
    path = stage.folder(root).path / "model" / "weights"
    path.parent.mkdir(parents=True)
    for content in (b"half", b"full"):
        path.write_bytes(content)
        mirror.send()
    assert bucket.read(path.relative_to(root).as_posix()) == b"full"


def test_a_copy_that_does_not_match_its_manifest_is_refused_by_name(tmp_path: Path, bucket: Store) -> None:
    work = Work()
    work.make(tmp_path / "first", work.packed)
    bucket.write(f"units/{work.units.fingerprint}/shards/0.txt", b"22")
    with pytest.raises(BadInput, match=r"units/.*0.txt: does not match its checksum; delete it there to have it made"):
        work.make(tmp_path / "second", work.packed)
    assert not work.units.is_done(tmp_path / "second")


def test_a_second_driver_is_refused_by_name_and_a_dead_one_is_not_waited_for(tmp_path: Path, bucket: Store) -> None:
    work = Work()
    bucket.write(DRIVER, json.dumps({"host": "node-7", "pid": 41, "unix_seconds": time.time()}).encode())
    with pytest.raises(BadInput, match=r"mirror=s3://bucket/runs: process 41 on node-7 writes there"):
        work.make(tmp_path / "here", work.units)
    assert work.ran == []
    bucket.write(DRIVER, json.dumps({"host": "node-7", "pid": 41, "unix_seconds": time.time() - 3600}).encode())
    work.make(tmp_path / "here", work.units)
    assert work.ran == ["units"]


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers 500 to everything, after a while."""

    wait_seconds = 0.0

    def do_GET(self) -> None:
        time.sleep(self.wait_seconds)
        self.send_response(500)
        self.end_headers()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *words: object) -> None:
        """Silence: what it was asked is of no interest."""


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Refusing]]:
    handler = type("Handler", (Refusing,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{refusing.server_port}")
        yield handler
        refusing.shutdown()


@pytest.mark.parametrize("wait_seconds", [0.0, 3.0], ids=["refuses", "hangs"])
def test_a_store_that_fails_at_the_start_is_named_before_any_work(
    tmp_path: Path, bucket: Store, refusing: type[Refusing], monkeypatch: pytest.MonkeyPatch, wait_seconds: float
) -> None:
    monkeypatch.setattr(mirrors, "TIMEOUT_SECONDS", 1.0)
    refusing.wait_seconds = wait_seconds
    work = Work()
    with pytest.raises(BadInput, match=r"^mirror=s3://bucket/runs: .*; mend the store, or give mirror=null$"):
        work.make(tmp_path / "root", work.units)
    assert work.ran == []


def test_a_store_that_fails_later_does_not_stop_the_run_and_gets_the_rest_afterwards(
    tmp_path: Path, bucket: Store, server: str, refusing: type[Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = mirrors.os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    work, root = Work(), tmp_path / "root"

    def break_store(event: str, stage: Stage, record: object) -> None:
        mirror.observe(event, stage)
        if event == "start" and stage is work.packed:
            mirror._store._fs = mirrors.fs.S3FileSystem(endpoint_override=refused)

    mirror = Mirror(ADDRESS, root, [work.units, work.packed])
    with (
        pytest.raises(
            BadInput, match=r"all is made in .*, but not all of it is in s3://bucket/runs: .*sends the rest$"
        ),
        mirror,
    ):
        materialise([work.packed], root, InProcess(), {}, break_store)
    assert work.packed.is_done(root)
    work.make(root, work.packed)
    assert work.ran == ["units", "packed"]
    assert f"packed/{work.packed.fingerprint}/{MANIFEST}" in bucket.sizes()
