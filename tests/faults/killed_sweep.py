"""Kill a sweep with -9 at random moments, give the same command again, and compare its table with the untouched one's.

    python tests/faults/killed_sweep.py [KILLS=3] [SEED=0] [ROOT=folder]

Two shares of the DPO budget x two seeds with tiny models; one worker a trial, so the tables must be equal bit for bit
in all but the seconds.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from chaos import Run, demo_words

VARIED = ("pretrain.budget", "dpo.budget", "evaluate.items")
SWEEP = [
    "recipe=dpo_budget_laptop", "sweep.space.total=tokens:65536", "sweep.space.shares=[0, 0.25]", "sweep.seeds=[0, 1]",
    "sweep.metrics=[perplexity, topic_cloze]", "sweep.objective=[topic_cloze, sentence_order]",
    "evaluate.items.topic_cloze=4", "evaluate.items.sentence_order=4", "evaluate.items.words_in_sentence=0",
]  # fmt: skip


def table(root: Path) -> list[dict[str, Any]]:
    """The sweep's rows without what a clock decides."""
    (path,) = root.glob("sweep/*/runs.parquet")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [{key: value for key, value in row.items() if key != "train_seconds"} for row in rows]


def trials(root: Path) -> int:
    return len(list(root.glob("scores_*/*/manifest.json")))


def main(arguments: Sequence[str]) -> int:
    """What was struck when, and whether the tables are equal."""
    given = dict(word.split("=", 1) for word in arguments)
    kills, rng = int(given.get("KILLS", 3)), random.Random(int(given.get("SEED", 0)))
    root = Path(given.get("ROOT") or tempfile.mkdtemp(prefix="killed-sweep-"))
    words = [word for word in demo_words(root / "models") if not word.startswith(VARIED)] + SWEEP
    untouched, struck = (
        Run(root / name, words, root / f"{name}.log", "jobs/sweep.py") for name in ("untouched", "struck")
    )
    began = time.monotonic()
    untouched.start(1)
    assert untouched.process is not None and untouched.process.wait() == 0, f"read {untouched.log}"
    seconds = time.monotonic() - began
    print(f"untouched: {seconds:.0f} s, {trials(untouched.root)} trials; roots under {root}", flush=True)
    for number in range(kills):
        struck.start(1)
        after = rng.uniform(0, seconds / 2)
        time.sleep(after)
        assert struck.process is not None
        ended = struck.process.poll() is not None
        struck.stop_all()
        said = "had ended" if ended else "killed"
        print(f"start {number + 1}: {said} after {after:.0f} s, {trials(struck.root)} trials done", flush=True)
    struck.start(1)
    assert struck.process is not None and struck.process.wait() == 0, f"read {struck.log}"
    same = table(untouched.root) == table(struck.root)
    print(f"start {kills + 1}: ended well; {'the same table' if same else 'ANOTHER table'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
