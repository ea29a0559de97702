"""What several tests share: one Ray cluster for the session, tiny models in the published formats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import tiny
from support.object_store import BUCKET, CREDENTIALS, ROOT, Gate, free_port, serve

from slamray.config.compute import Compute
from slamray.runtime.engine import Engine
from slamray.stage.objects import Objects


def pytest_configure(config: pytest.Config) -> None:
    """Tests run on the CPU, where a GPU is visible too; Ray's workers know, too, where `gate` opens an object store."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ |= {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An engine on a real local Ray cluster, one for all tests."""
    engine = Engine(Compute(cpus_per_worker=1))
    engine.connect()  # by the main thread: a cluster ends with the thread that started it
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def _gate() -> Iterator[Gate]:
    with serve() as address:
        gate = Gate(address)
        with gate.open(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])):
            yield gate


@pytest.fixture
def gate(_gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """An object store with an empty bucket, and a cache of this test's own."""
    monkeypatch.setenv("SLAMRAY_CACHE", str(tmp_path / "cache"))
    _gate.asked.clear()
    yield _gate
    _gate.trouble = lambda method, path: ""
    Objects(f"s3://{BUCKET}/{ROOT}").remove("")


@pytest.fixture(scope="session")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A gloo group of one, as Ray Train makes it; one for all tests, for DeepSpeed remembers the first it meets."""
    import torch.distributed as dist
    from support.processes import join_group

    patch = pytest.MonkeyPatch()
    join_group(patch.setenv, 0, 1, tmp_path_factory.mktemp("group") / "store")
    yield
    dist.destroy_process_group()
    patch.undo()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_encoder(tmp_path_factory.mktemp("hubert"))


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="session")
def tiny_vocoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_vocoder(tmp_path_factory.mktemp("vocoder"))


@pytest.fixture(scope="session")
def tiny_words(tiny_encoder: Path, tiny_lm: Path, tiny_vocoder: Path) -> list[str]:
    return tiny.words(tiny_encoder, tiny_lm, tiny_vocoder)
