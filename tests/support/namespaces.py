"""Several hosts on one machine: each has an address, a name, processes, a disk and a view of the files of its own.

A host is a network namespace on a bridge, and a process that is the first of its own PID, mount and UTS namespaces:
when it is killed all of the host's processes are. Needs root, `ip`, `tc` and /dev/net/tun. Nothing of the machine's own
network is touched.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NETWORK = "10.77.0"
CLONE_NEWNET = 0x40000000
WIRE = Path(__file__).parent / "wire.py"
SHARED, IMAGE = Path("/mnt/shared"), Path("/mnt/image")  # where a host sees the common folder, and what all have alike


def run(*words: str | Path) -> str:
    """The output of a command; its error output in the exception when it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def within(namespace: str, function: Callable[[], Any]) -> Any:
    """What a function returns whose sockets are those of a network namespace: a thread of its own enters it."""
    came: list[Any] = []

    def enter() -> None:
        with open(f"/var/run/netns/{namespace}") as place:
            if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)
        try:
            came.append(function())
        except Exception as error:
            came.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(came[0], Exception):
        raise came[0]
    return came[0]


def possible() -> bool:
    """Whether this process may make hosts."""
    return os.geteuid() == 0 and Path("/dev/net/tun").exists()


@dataclass
class Switch:
    """What the hosts are plugged into; a network namespace with a bridge."""

    name: str
    hosts: list[Host] = field(default_factory=list)

    def __post_init__(self) -> None:
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", self.name, "link", "set", "bridge", "up")

    def add(self, name: str, folder: Path, views: Views) -> Host:
        """A host that is plugged in and does nothing yet."""
        host = Host(self, name, len(self.hosts) + 1, folder, views)
        self.hosts.append(host)
        (folder / "hosts").write_text(
            "".join(f"{one.address} {one.name}\n" for one in self.hosts) + "127.0.0.1 localhost\n"
        )
        return host

    def remove(self) -> None:
        """Nothing of it is left."""
        for host in self.hosts:
            host.power_off()
            run("ip", "netns", "del", host.namespace)
        run("ip", "netns", "del", self.name)


@dataclass(frozen=True)
class Views:
    """What a host sees of the machine's files. All else is the machine's, but for /tmp, /dev/shm and /mnt."""

    shared: Path | None  # becomes SHARED; None: it sees none
    image: Path  # becomes IMAGE, read-only
    hidden: Sequence[Path] = ()  # folders that are empty there
    disk_mb: int = 600  # of its /tmp


@dataclass(eq=False)
class Host:
    """One of them."""

    switch: Switch
    name: str
    number: int
    folder: Path  # for what the harness keeps of it
    views: Views
    process: subprocess.Popen[bytes] | None = None
    _wire: subprocess.Popen[bytes] | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        switch = self.switch.name
        run("ip", "netns", "add", self.namespace)
        run(
            "ip",
            "-n",
            switch,
            "link",
            "add",
            self.port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.namespace,
        )
        run("ip", "-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", self.namespace, "link", "set", device, "up")
        run("ip", "-n", switch, "link", "set", self.port, "up")
        self.plug_in()

    @property
    def namespace(self) -> str:
        return f"{self.switch.name}-{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def port(self) -> str:
        return f"port{self.number}"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def power_on(self, command: str, environment: Mapping[str, str]) -> None:
        """Start the host with a shell command as what it does; its output is added to a file of its name.

        Returns when it has its view of the files.
        """
        assert not self.alive
        ready = ["echo ready", "exec >&2", "set +e"]
        script = "\n".join(["set -e", *self._mounts(), f"hostname {self.name}", *ready, command])
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--pid", "--uts", "--fork",
                 "--kill-child", "--mount-proc", "sh", "-c", script],
                stdout=subprocess.PIPE, stderr=log, env=dict(environment), cwd="/", start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{self.name} does not start: read {self.folder / self.name}.log")

    def _mounts(self) -> list[str]:
        """Commands that give it its view; the machine's own folders are bound before /tmp is covered."""
        lines = ["mount -t tmpfs -o size=16m view /mnt", f"mkdir {IMAGE}"]
        lines += [f"mount --bind -o ro {shlex.quote(str(self.views.image))} {IMAGE}"]
        if self.views.shared:
            lines += [f"mkdir {SHARED}", f"mount --bind {shlex.quote(str(self.views.shared))} {SHARED}"]
        lines += [f"mount --bind {shlex.quote(str(self.folder / 'hosts'))} /etc/hosts"]
        lines += [f"mount -t tmpfs hidden {shlex.quote(str(folder))}" for folder in self.views.hidden]
        return [*lines, f"mount -t tmpfs -o size={self.views.disk_mb}m disk /tmp", "mount -t tmpfs shm /dev/shm"]

    def power_off(self) -> None:
        """Every process of it ends at once, unasked."""
        self.straighten()
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def unplug(self) -> None:
        """What it sends goes nowhere, and nothing reaches it; nobody is told."""
        run("ip", "-n", self.switch.name, "link", "set", self.port, "nomaster")

    def plug_in(self) -> None:
        run("ip", "-n", self.switch.name, "link", "set", self.port, "master", "bridge")

    def limit(self, rate: str) -> None:
        """At most so many bits a second ("4mbit") in either direction."""
        rule = ["root", "tbf", "rate", rate, "burst", "64kb", "latency", "400ms"]
        run("tc", "-n", self.switch.name, "qdisc", "replace", "dev", self.port, *rule)
        run("tc", "-n", self.namespace, "qdisc", "replace", "dev", "eth0", *rule)

    def unlimit(self) -> None:
        run("tc", "-n", self.switch.name, "qdisc", "del", "dev", self.port, "root")
        run("tc", "-n", self.namespace, "qdisc", "del", "dev", "eth0", "root")

    def bend(self, delay_seconds: float, loss: float) -> None:
        """Frames in either direction come late, and a share of them not at all."""
        with self._lock:
            assert self._wire is None
            switch, own, near, far = self.switch.name, f"own{self.number}", f"near{self.number}", f"far{self.number}"
            self._wire = subprocess.Popen(
                ["ip", "netns", "exec", switch, sys.executable, WIRE, near, far, str(delay_seconds), str(loss), "0"],
                stdout=subprocess.PIPE,
            )  # fmt: skip
            assert self._wire.stdout is not None
            assert self._wire.stdout.readline() == b"ready\n"
            run("ip", "-n", switch, "link", "add", own, "type", "bridge")
            for device, bridge in ((self.port, own), (near, own), (far, "bridge")):
                run("ip", "-n", switch, "link", "set", device, "master", bridge, "up")
            run("ip", "-n", switch, "link", "set", own, "up")

    def straighten(self) -> None:
        """The wire is an ordinary one again."""
        with self._lock:
            if self._wire is None:
                return
            if self._wire.poll() is not None:
                raise RuntimeError(f"the wire of {self.name} ended by itself, so the host was cut off")
            self._wire.kill()
            self._wire.wait()
            self._wire = None
            self.plug_in()
            run("ip", "-n", self.switch.name, "link", "del", f"own{self.number}")

    def inside(self, *words: str | Path) -> str:
        """The output of a command that sees the host's files, processes and network."""
        assert self.process is not None
        (first,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return run("nsenter", "-t", first, "--mount", "--pid", "--net", "--uts", *words)

    def titles(self) -> str:
        """What runs on it, a line each."""
        return self.inside("ps", "-eo", "args=")
