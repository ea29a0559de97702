"""A slow or lossy network cable: passes Ethernet frames between two TAP devices, late, and not all of them.

    python wire.py NEAR FAR DELAY_SECONDS LOSS SEED

In the network namespace where it is started; the devices are made, and are gone when it ends. For kernels without
netem.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
MOST_FRAMES = 4096  # on their way in one direction; more are dropped, as a switch does
FRAME_BYTES = 65600


def open_tap(name: str) -> int:
    """A TAP device without offloads: the kernel hands out frames that are complete and no longer than the MTU."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def main(words: Sequence[str]) -> None:
    near, far = open_tap(words[0]), open_tap(words[1])
    delay, loss, rng = float(words[2]), float(words[3]), random.Random(words[4])
    under_way: dict[int, deque[tuple[float, bytes]]] = {near: deque(), far: deque()}  # by the device they go to
    other = {near: far, far: near}
    print("ready", flush=True)
    while True:
        due = [queue[0][0] for queue in under_way.values() if queue]
        patience = max(0.0, min(due) - time.monotonic()) if due else None
        for tap in select.select([near, far], [], [], patience)[0]:
            queue = under_way[other[tap]]
            try:
                while True:
                    frame = os.read(tap, FRAME_BYTES)
                    if rng.random() >= loss and len(queue) < MOST_FRAMES:
                        queue.append((time.monotonic() + delay, frame))
            except BlockingIOError:  # all that were there are read
                continue
        now = time.monotonic()
        for tap, queue in under_way.items():
            while queue and queue[0][0] <= now:
                frame = queue.popleft()[1]
                with suppress(OSError):  # the device is not up yet, or no longer: lost, as on a port that is off
                    os.write(tap, frame)


if __name__ == "__main__":
    main(sys.argv[1:])
