"""What one GPU makes of the project's own kernels and trainings, without Ray: a line of JSON for each figure.

    sh benchmarks/gpu.sh [--out DIR] [--parts dpo,scoring] [--seconds 420] [--toy]

A line is {"what", "unit", "anchor", "ours", "ratio", "low", "high", "commit", "device"} and details. It is printed, and
added to DIR/gpu.jsonl, as soon as it is known, so that a run that is cut off keeps what it has. A line holds gates,
which must hold, and goals, which are only told. The last line names the gates that failed, and the exit code is 1 if
any did. A part ends when its share of the time is over; what one part leaves, the later ones have. `--toy` runs every
part on the CPU at toy size: its figures mean nothing, but it takes the same way through the code.
"""

from __future__ import annotations

import argparse
import logging
import os
import pkgutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gpu_parts.bench import Bench

# Where each part is, and its share of the time.
PARTS = {
    "ceilings": ("gpu_parts.kernels:ceilings", 2),
    "attention": ("gpu_parts.kernels:attention", 5),
    "pretraining": ("gpu_parts.training:pretraining", 45),
    "checkpoint": ("gpu_parts.training:checkpoint", 11),
    "dpo": ("gpu_parts.training:dpo", 17),
    "extraction": ("gpu_parts.speech:extraction", 14),
    "scoring": ("gpu_parts.speech:scoring", 6),
    "spoken_text": ("gpu_parts.spoken:spoken_text", 10),
}


def main(words: Sequence[str]) -> int:
    """The whole benchmark: 0, or 1 where a gate failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of gpu.jsonl")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts, by name")
    parser.add_argument("--seconds", type=float, default=420.0, help="for all parts together, start-up not counted")
    parser.add_argument("--toy", action="store_true", help="toy sizes, on the CPU")
    given = parser.parse_args(words)
    parts = given.parts.split(",")
    if unknown := set(parts) - PARTS.keys():
        parser.error(f"no part is called {' '.join(sorted(unknown))}; there are {' '.join(PARTS)}")
    kind: Literal["cpu", "cuda"] = "cpu" if given.toy else "cuda"
    os.environ["DS_ACCELERATOR"] = kind  # DeepSpeed looks when it is imported, and takes a visible GPU
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import torch
    from gpu_parts.bench import FULL, TOY, Bench
    from gpu_parts.device import Device

    if kind == "cuda" and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no GPU; --toy runs on the CPU")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "gpu.jsonl").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="slamray-gpu-") as folder:
        sizes = TOY if given.toy else FULL
        bench = Bench(Device(kind), sizes, Path(folder), given.out, os.environ.get("COMMIT", "unknown"))
        run(bench, parts, given.seconds)
        return bench.end()


def run(bench: Bench, parts: Sequence[str], seconds: float) -> None:
    """Each part in turn, for at most its share of the seconds that are left."""
    from gpu_parts.bench import OutOfTime

    end = time.monotonic() + seconds
    for place, part in enumerate(parts):
        where, share = PARTS[part]
        function = pkgutil.resolve_name(where)  # imports what it needs: on nobody's clock
        own = share / sum(PARTS[later][1] for later in parts[place:])
        with bench.attempt(part):
            try:
                with bench.limited(max(1.0, own * (end - time.monotonic()))):
                    function(bench)
            except OutOfTime:
                bench.skip(part, "the rest: no time is left")
                bench.failed.append(f"{part}: out of time")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # not through the threads of the process group
