"""Connect to a Ray cluster or start a local one, and refuse what it can never run."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time

import ray
from ray.exceptions import RayError

from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.runtime.budget import Devices

HIDE_GPUS = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"  # unless it is set, workers that asked for no GPU see all (Ray 2.60)

# glibc gives every large block that is freed back to the kernel, which clears its pages anew for the next: a fifth of
# the encoder's time on a CPU (docs/LOG.md, 2026-11-27). Larger than any block, so that a worker keeps what it had.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**33)}

# How long a head that was started just now may take to listen; chosen, not tuned. Ray itself waits for over five
# minutes where nobody does.
LISTENING_SECONDS = 30.0


def connect(compute: Compute) -> None:
    """Connect to the cluster of RAY_ADDRESS (set inside `ray job submit`), else start one on this machine.

    Called before the first stage that has work; a second call does nothing. Nothing but a job's end shuts Ray down.
    Raises BadInput when no cluster answers or starts, and when it lacks what `compute` asks for.
    """
    if ray.is_initialized():
        return
    # Workers' own output stays in Ray's log folder: stages report their progress, and errors come back as exceptions.
    address = os.environ.get("RAY_ADDRESS", "")
    for name, value in ({HIDE_GPUS: "1"} | KEEP_MEMORY).items():
        os.environ.setdefault(name, value)  # read by the workers of a cluster that is started here
    if address:
        await_listener(address)
    try:
        ray.init(  # token authentication is Ray's default
            address=None if address else "local",
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except Exception as error:  # Ray raises many kinds, Exception itself for a start that takes too long
        raise not_started(address, error) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    check_resources(compute, devices(compute))


def await_listener(address: str) -> None:
    """BadInput when nothing listens at HOST:PORT for LISTENING_SECONDS; of another form of address Ray is the judge."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        return
    deadline = time.monotonic() + LISTENING_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENING_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise not_started(address, error) from error
        time.sleep(0.2)


def not_started(address: str, error: Exception) -> BadInput:
    """The line of a cluster that cannot be reached at an address, or started on this machine where there is none."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if address:
        return BadInput(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({reason}); start it, correct the address, "
            "or unset RAY_ADDRESS for a cluster on this machine"
        )
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # as Ray looks for it
    return BadInput(
        f"Ray did not start on this machine ({reason}); see that {folder}/ray can be written and its disk is not full, "
        "or name another folder by RAY_TMPDIR. If the machine was busy, run again. Ray's logs lie in "
        f"{folder}/ray/session_latest/logs"
    )


def disconnect() -> None:
    """Leave the cluster; stops it when `connect` started it."""
    ray.shutdown()


def devices(compute: Compute) -> Devices:
    """What the cluster has now, or what its autoscaler may bring it to: open-source Ray does not tell (2.60)."""
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    return Devices(max(cpus, compute.autoscaled_cpus or 0), max(gpus, compute.autoscaled_gpus or 0))


def check_resources(compute: Compute, available: Devices) -> None:
    """BadInput when no stage of this compute could ever be scheduled on a cluster with these resources."""
    gpus, cpus = available.gpus, available.cpus
    workers = compute.min_workers or compute.workers
    needs: list[tuple[str, float, str, float]] = [
        ("compute.tts_actors", compute.tts_actors, "CPU", cpus),
        ("compute.encoder_actors", compute.encoder_actors, "CPU", cpus),
        ("compute.workers x compute.cpus_per_worker", workers * compute.cpus_per_worker, "CPU", cpus),
        ("compute.score_actors", compute.score_actors, "CPU", cpus),
    ]
    if compute.encoder_gpus:
        both = compute.tts_actors + compute.encoder_actors
        needs.append(("compute.tts_actors + compute.encoder_actors", both, "CPU", cpus))
        share = compute.encoder_actors * compute.encoder_gpus
        needs.append(("compute.encoder_actors x compute.encoder_gpus", share, "GPU", gpus))
    if compute.device == "cuda":
        needs.append(("compute.workers with compute.device=cuda", workers, "GPU", gpus))
        needs.append(("compute.score_actors with compute.device=cuda", compute.score_actors, "GPU", gpus))
    for key, need, kind, have in needs:
        if need > have:
            raise BadInput(
                f"{key}: needs {need:g} {kind}s but the cluster has {have:g}; lower it, choose another profile, add "
                f"nodes, or say compute.autoscaled_{kind.lower()}s where an autoscaler adds them"
            )


def user_error(error: BaseException) -> BadInput | None:
    """What a remote worker raised for the user to read (BadInput, or a full disk), dug out of Ray's wrappers."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, BadInput) and not isinstance(current, RayError):
            return current
        full = isinstance(current, OSError) and current.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(current):  # libraries in Rust have errors of their own
            return BadInput(
                f"{getattr(current, 'filename', None) or 'root'}: the disk is full; free some space and run again"
            )
        failures = getattr(current, "worker_failures", None) or {}  # Ray Train's WorkerGroupError: by rank
        pending += [current.__cause__, current.__context__, getattr(current, "cause", None), *failures.values()]
    return None
