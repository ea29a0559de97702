"""Build DeepSpeed's CPU communication extension once, at installation: `python -m slamray.runtime.prebuild`.

DeepSpeed would build it at the first start of training (about 40 s; needs g++ and ninja) and caches it all the same.
"""

import os
import sys


def keep_extensions_in_environment() -> None:
    """Have torch cache extensions in this virtual environment: in the user's one cache, two environments undo each
    other's builds, and every change of environment costs the 40 s again."""
    if os.access(sys.prefix, os.W_OK):
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(sys.prefix, "torch_extensions"))


if __name__ == "__main__":
    keep_extensions_in_environment()
    from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)
