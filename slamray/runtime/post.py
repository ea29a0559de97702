"""What training workers tell the driver while they train, and what it asks of them.

All of it is files in one folder. On a disk that all workers see each process opens it by itself. Where there is none,
the folder lies on the driver's machine, and workers reach it through an actor there.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from slamray import store
from slamray.stage.folder import Folder
from slamray.stage.work import METRICS, NOTICE, Metrics

REFUSED = ".refused.json"
POST = ".post"  # in the scratch folder of the driver's machine, which a worker's may be as well
RELAY_SECONDS = 0.5  # between two looks for a notice on another machine; chosen, not tuned


class Desk(Protocol):
    """What a worker does."""

    def tell(self, metrics: Metrics) -> None:
        """Add a line for the driver."""

    def refuse(self, reason: str) -> None:
        """Say what the user did wrong: Ray carries only the text of an exception home."""

    def asked(self) -> bool:
        """Whether a checkpoint is wanted at once."""

    def saved(self) -> None:
        """It is written."""


class Post:
    """The folder, on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Forget what an earlier try left, but for what was told."""
        for name in (REFUSED, NOTICE):
            (self._folder / name).unlink(missing_ok=True)

    def tell(self, metrics: Metrics) -> None:
        with (self._folder / METRICS).open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def refuse(self, reason: str) -> None:
        store.write_json(self._folder / REFUSED, reason)

    def refused(self) -> str:
        """The reason; empty where nobody refused."""
        path = self._folder / REFUSED
        return str(store.read_json(path)) if path.exists() else ""

    def ask(self) -> None:
        """Have a checkpoint written at once."""
        (self._folder / NOTICE).touch()

    def asked(self) -> bool:
        return (self._folder / NOTICE).exists()

    def saved(self) -> None:
        (self._folder / NOTICE).unlink(missing_ok=True)

    @property
    def told(self) -> Path:
        """The file of all that was told."""
        return self._folder / METRICS


def open_post(out: Folder) -> Post:
    """The driver's, of a stage that trains."""
    return Post(out.scratch("" if out.is_shared else POST))


class PostOffice:
    """A worker's way to a `Post` on the driver's machine; what is told does not wait for an answer."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._told: list[Any] = []

    def tell(self, metrics: Metrics) -> None:
        _, self._told = ray.wait(self._told, num_returns=len(self._told), timeout=0) if self._told else ([], [])
        self._told.append(self._actor.tell.remote(metrics))

    def refuse(self, reason: str) -> None:
        ray.get(self._actor.refuse.remote(reason))

    def asked(self) -> bool:
        return bool(ray.get(self._actor.asked.remote()))

    def saved(self) -> None:
        ray.get(self._actor.saved.remote())

    def flush(self) -> None:
        """Wait until all that was told is there."""
        ray.get(self._told)


def open_post_office(out: Folder) -> PostOffice:
    """An actor on this machine that keeps what other workers tell, where `open_post` looks; it ends with the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    post = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Post)
    return PostOffice(post.options(scheduling_strategy=here).remote(out.scratch(POST)))


def relay_notices(office: PostOffice, notice: Path, done: threading.Event) -> None:
    """Put the notice where the loop on this machine looks when the driver asks; say when the loop has removed it."""
    while not done.wait(RELAY_SECONDS):
        try:
            if office.asked():
                notice.touch()
                _wait(lambda: not notice.exists(), done)
                office.saved()
        except RayError:  # the driver is gone, and this worker with it in a moment
            return


def _wait(ended: Callable[[], bool], done: threading.Event) -> None:
    while not ended() and not done.wait(0.05):
        pass
