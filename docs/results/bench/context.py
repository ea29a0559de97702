"""Does a story help to foresee its own ending? The same ending after its own passage and after another story's.

    python docs/results/bench/context.py ROOT

ROOT is the root of a run of docs/results/bench/longer.yaml or longer_budget.yaml, or of any recipe of units alone.

Topic cloze compares two endings after one passage, so most of a pair's difference is how likely each ending is by
itself. Its wrong endings are a permutation of the right ones, so each ending can be compared with itself: its
log-likelihood after its own passage less that after the passage which it was put to. One line for each model. Nats a
unit are what the report of a model of text and speech tells as S -> S.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from slamray import store
from slamray.evaluate.pair_scores import sequence_tokens, token_log_likelihoods
from slamray.model.unit_lm import load_unit_lm


def main(root: Path) -> None:
    """n, nats an ending, nats a unit and the share of endings that gain, each with a 95 % bootstrap interval."""
    torch.set_num_threads(1)
    (items,) = root.glob("items/*/items.json")
    pairs = [pair for pair in store.read_json(items)["pairs"] if pair["metric"] == "topic_cloze"]
    table = pq.read_table(items.parent / "units", columns=["utterance_id", "units"]).to_pydict()
    units = {key: np.array(value) for key, value in zip(table["utterance_id"], table["units"], strict=True)}
    put_to = {tuple(pair["rejected"]): pair["prompt"] for pair in pairs}
    passages = [[p["prompt"] for p in pairs], [put_to[tuple(p["chosen"])] for p in pairs]]
    whole = [
        sequence_tokens([units[k] for k in [*q, *p["chosen"]]])
        for side in passages
        for q, p in zip(side, pairs, strict=True)
    ]
    lengths = np.array([sum(len(units[k]) for k in p["chosen"]) for p in pairs])
    alone = [sequence_tokens([units[k] for k in prompt])[:-1] for side in passages for prompt in side]
    print(f"{'model':<18}{'n':>5}  {'nats an ending':<24}{'nats a unit':<24}endings likelier after their own passage")
    for manifest in sorted(root.glob("pretrained/*/manifest.json")):
        model = load_unit_lm(manifest.parent / "model").eval()
        sums = token_log_likelihoods(model, [*whole, *alone])[0].reshape(2, 2, -1)  # whole or alone; own or other
        gained = (sums[0] - sums[1])[0] - (sums[0] - sums[1])[1]
        drawn = np.random.default_rng(0).integers(0, len(gained), (4000, len(gained)))
        texts = []
        for values in (gained, gained / lengths, gained > 0):
            low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
            texts.append(f"{values.mean():.3f} [{low:.3f}, {high:.3f}]")
        print(f"{manifest.parent.name:<18}{len(gained):>5}  {texts[0]:<24}{texts[1]:<24}{texts[2]}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
