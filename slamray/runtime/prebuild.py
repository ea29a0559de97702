"""Build DeepSpeed's CPU communication extension once, at installation: `python -m slamray.runtime.prebuild`.

DeepSpeed would build it at the first start of training (about 40 s; needs g++ and ninja) and caches it all the same.
"""

from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder

if __name__ == "__main__":
    ShareMemCommBuilder().load(verbose=False)
