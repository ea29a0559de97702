"""Write requirements.lock for a machine without a GPU: `python cluster/cpu_lock.py OUT`.

`make setup CPU_TORCH=INDEX` does so. torch and torchaudio are named by their builds for CPUs, which PyTorch keeps on an
index of its own; what their builds for CUDA bring along, 3.4 GB, is left out. Written for any Python 3, as it runs
before there is an environment.
"""

import os
import re
import sys

BROUGHT = re.compile(r"^(cuda-|nvidia-|triton==)")  # by torch for CUDA alone
BUILT = re.compile(r"^(torch|torchaudio)==(\S+)$")


def without_cuda(lines):
    """The lines of the lock for CPUs."""
    return [BUILT.sub(r"\1==\2+cpu", line) for line in lines if not BROUGHT.match(line)]


if __name__ == "__main__":
    lock = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "requirements.lock")
    with open(lock) as given, open(sys.argv[1], "w") as out:
        out.write("\n".join(without_cuda(given.read().splitlines())) + "\n")
