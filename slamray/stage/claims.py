"""Who writes a folder of an object store: a claim in place of the lock that a disk has.

Each driver that wants a folder puts an object of its own name beside the others' and lists them. It holds the folder
when its list shows no other: of two that put theirs, the later one's list shows the earlier, for a store lists what was
put before. Who finds another takes its own away, waits, and tries again. A holder puts its claim anew every few
seconds; one that does so lives, and one that was silent for SILENT_SECONDS, by the store's clock, or whose process has
ended on this machine, is dead: its claim is removed.

What remains: a driver whose machine was suspended, or cut off from the store, for longer than that is taken for dead.
It finds out when it comes back, and gives up before it records anything; what it wrote in the moment before was of the
same bytes, but for a checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from slamray.console import say
from slamray.errors import BadInput

BEAT_SECONDS = 10.0  # between two signs of life; chosen, not tuned
SILENT_SECONDS = 45.0  # after which a driver is dead
LOOK_SECONDS = 2.0  # between two looks at a claim of others

log = logging.getLogger(__name__)


class Found(Protocol):
    """What a listing says; see objects.py."""

    @property
    def changed(self) -> int: ...


class Files(Protocol):
    """The folder of the claims; see objects.py."""

    def sizes(self) -> dict[str, Any]: ...

    def exists(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None: ...


class Claim:
    """Holds a folder, as a context manager; BadInput with the holder's name where another does and it does not wait."""

    def __init__(self, files: Files, wait: bool) -> None:
        self._files, self._wait = files, wait
        self._name = uuid.uuid4().hex
        self._seen: dict[str, int] = {}  # claims of others, and when they were put last
        self._told = False
        self._beat: _Beat | None = None

    def __enter__(self) -> Claim:
        while not self._try():
            time.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))  # else two that meet would meet again
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._beat is not None
        try:
            self._beat.give_up()
        except BadInput as trouble:  # it ends by itself; what went wrong before matters more
            log.warning("%s", trouble)

    def check(self) -> None:
        """BadInput when another driver may have taken the folder since."""
        if self._beat is not None and self._beat.lost():
            raise BadInput(
                f"{self._files}: this driver was silent for more than {SILENT_SECONDS:.0f} s, and another has taken "
                "over; let it go on"
            )

    def _try(self) -> bool:
        """Put a claim and look at the others; whether there were none."""
        self._files.write(self._name, _who(holds=False))
        now, others = self._others()
        dead = [name for name, one in others.items() if self._is_dead(name, one, now)]
        for name in dead:
            self._files.remove(name)
        if dead:
            now, others = self._others()
        if not others:
            self._beat = _Beat(self._files, self._name)
            self._beat.start()
            self._files.write(self._name, _who(holds=True))
            return True
        self._files.remove(self._name)
        for name, one in others.items():
            self._meet(name, one, now)
        return False

    def _others(self) -> tuple[int, dict[str, Found]]:
        """The time by the store's clock, and the claims of others."""
        found: dict[str, Found] = self._files.sizes()
        mine = found.pop(self._name, None)
        if mine is None:  # taken for dead in this moment, by one that holds the folder now
            self._files.write(self._name, _who(holds=False))
            return self._others()
        return mine.changed, found

    def _is_dead(self, name: str, one: Found, now: int) -> bool:
        if now - one.changed > SILENT_SECONDS * 1e9:
            return True
        who = self._read(name)
        return who is not None and who["host"] == socket.gethostname() and not _lives(name, who)

    def _meet(self, name: str, one: Found, now: int) -> None:
        """Say who holds the folder, once; BadInput when that one lives and it is not to be waited for."""
        before, self._seen[name] = self._seen.get(name), one.changed
        who = self._read(name)
        if who is None or not who["holds"]:
            return
        lives = before not in (None, one.changed) or (who["host"] == socket.gethostname() and _lives(name, who))
        said = f"{self._files}: process {who['pid']} on {who['host']} writes here"
        if lives and not self._wait:
            raise BadInput(f"{said}; another run is writing here: wait for it or choose another root")
        if not self._told:
            self._told = True
            silent = (now - one.changed) / 1e9
            say(f"{said}, last heard of {silent:.0f} s ago; looking whether it goes on")

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            who: dict[str, Any] = json.loads(self._files.read(name))
        except FileNotFoundError:  # gone in the meantime
            return None
        return who


class _Beat(threading.Thread):
    """Signs of life of a claim that is held; its thread's name is the claim's."""

    def __init__(self, files: Files, name: str) -> None:
        super().__init__(daemon=True, name=name)
        self._files = files
        self._done = threading.Event()
        self._at = time.monotonic()  # of the last sign, from before it was given
        self._lost = False

    def run(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            now = time.monotonic()
            try:
                if self.lost():
                    return
                self._files.write(self.name, _who(holds=True))
                self._at = now
            except BadInput as error:  # the next try may do; what is written meanwhile fails by itself
                log.warning("%s", error)

    def lost(self) -> bool:
        """Whether others may have taken this driver for dead: it was silent, and its claim is gone."""
        if not self._lost and time.monotonic() - self._at > SILENT_SECONDS:
            self._lost = not self._files.exists(self.name)
        return self._lost

    def give_up(self) -> None:
        self._done.set()
        self.join(LOOK_SECONDS)  # a sign that it gives now would outlive the claim
        self._files.remove(self.name)


def give_up_all() -> None:
    """Give up every claim of this process, which ends in a moment without leaving their contexts."""
    leaving = [
        threading.Thread(target=beat.give_up, daemon=True) for beat in threading.enumerate() if isinstance(beat, _Beat)
    ]
    for thread in leaving:
        thread.start()
    for thread in leaving:
        thread.join(LOOK_SECONDS)  # a store that fails must not keep the process


def _who(holds: bool) -> bytes:
    return json.dumps(
        {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid()), "holds": holds}
    ).encode()


def _lives(claim: str, who: dict[str, Any]) -> bool:
    """Whether that process of this machine is still there, and not another of the same number.

    This process knows its own claims: one that it could not take away, as the store failed, is dead.
    """
    if who["pid"] == os.getpid() and who["holds"] and claim not in {thread.name for thread in threading.enumerate()}:
        return False
    return _began(who["pid"]) == who["began"]


def _began(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where there is none of that number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
