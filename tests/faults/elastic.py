"""A node goes in the middle of pre-training and comes back: the run goes on with one worker, then with two again.

    python tests/faults/elastic.py [folder]

A cluster of two Ray nodes of one CPU each on this machine, and the demo recipe with tiny models on it, with
compute.workers=2 compute.min_workers=1. Prints the sizes of the groups of workers that trained; 0 when they were
2, then 1, and every sample was trained on as by the untouched run on one worker.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chaos import Run, allow, compare, demo_words

STEPS = 2000


def wait(until: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
    """Until something has come about; RuntimeError when it does not."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def main(root: Path) -> int:
    """The sizes and whether all came to the same."""
    from ray.cluster_utils import Cluster

    words = [*demo_words(root / "models"), f"pretrain.budget=steps:{STEPS}", "dpo.budget=null", "compute.min_workers=1"]
    whole = [Run(root / f"untouched-{n}", words, root / f"untouched-{n}.log") for n in (1, 2)]
    for n, one in enumerate(whole, start=1):
        one.start(n)
        assert one.process is not None and one.process.wait() == 0, f"see {one.log}"

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    run = Run(root / "elastic", words, root / "elastic.log")
    try:
        run.start(2)
        wait(lambda: (run.work_in("pretrained") or 0) >= STEPS // 6, "the first steps")
        cluster.remove_node(node, allow_graceful=False)
        gone_at = run.work_in("pretrained") or 0
        wait(lambda: (run.work_in("pretrained") or 0) >= gone_at + STEPS // 10, "steps on one worker")
        cluster.add_node(num_cpus=1)
        assert run.process is not None
        code = run.process.wait(timeout=600)
    finally:
        run.stop_all()
        cluster.shutdown()
    (path,) = run.root.glob("pretrained/*/metrics.jsonl")
    each = [json.loads(line)["workers"] for line in path.read_text().splitlines()]
    sizes = [size for size, before in zip(each, [0, *each], strict=False) if size != before]
    differences = compare(whole[0].root, run.root, allow(whole[0].root, whole[1].root))
    print(
        f"exit {code}; groups of {sizes} workers; node gone at step {gone_at} of {STEPS}; {differences or 'the same'}"
    )
    return int(code != 0 or bool(differences) or sizes[:2] != [2, 1])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="elastic-"))))
