"""DeepSpeed's CPU communication extension: built at installation by `python -m slamray.runtime.prebuild`, then loaded.

DeepSpeed would build it at the first start of training (about 40 s; needs g++) and caches it all the same.
"""

import os
import shutil
import sys
from pathlib import Path

from slamray import store

FLOCK = "slamray.lock"


def load_extension() -> None:
    """Load the extension into this process, where it stays; build it where it is not built. Needs no GPU.

    torch guards every load by a file that a process killed there leaves behind, and everyone after it would wait for
    that file for ever. Processes come here one at a time under a lock that the kernel drops, so a file that is found
    was left behind.
    """
    import ninja
    from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder

    # torch calls the first ninja of PATH. Another version takes what this one has built for stale, and builds it again.
    if shutil.which("ninja") != os.path.join(ninja.BIN_DIR, "ninja"):
        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", os.defpath)])
    builder = ShareMemCommBuilder()
    folder = _cache() / builder.name
    with store.locked(folder / FLOCK, wait=True):
        (folder / "lock").unlink(missing_ok=True)  # torch.utils.cpp_extension's name for it
        builder.load(verbose=False)


def _cache() -> Path:
    """Where torch caches extensions: in this virtual environment. In the user's one cache, two environments undo each
    other's builds, and every change of environment costs the 40 s again."""
    from torch.utils.cpp_extension import get_default_build_root

    if os.access(sys.prefix, os.W_OK):
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(sys.prefix, "torch_extensions"))
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"  # whatever is visible
    load_extension()
