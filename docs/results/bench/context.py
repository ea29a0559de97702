"""Does a story help to foresee its own ending? The same ending after its own passage and after another story's.

    python docs/results/bench/context.py ROOT

ROOT is the root of a run of units alone, of docs/results/bench/longer.yaml say, with items of one kind.

Topic cloze compares two endings after one passage, so most of a pair's difference is how likely each ending is by
itself. Its wrong endings are the right ones of others, so each ending can be compared with itself: its log-likelihood
after its own passage less that after the passage which it was put to. One line for each model. Nats a unit are what the
report of a model of text and speech tells as S -> S: of the ending alone, among units alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from slamray import store
from slamray.model.log_likelihood import log_likelihoods
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.unit_lm import load_unit_lm
from slamray.tokens.documents import Document, join_units, unit_document
from slamray.tokens.vocabulary import Vocabulary


def main(root: Path) -> None:
    """n, nats an ending, nats a unit and the share of endings that gain, each with a 95 % bootstrap interval."""
    torch.set_num_threads(1)
    (items,) = root.glob("items/*/items.json")
    pairs = [pair for pair in store.read_json(items)["pairs"] if pair["metric"] == "topic_cloze"]
    table = pq.read_table(items.parent / "units", columns=["utterance_id", "units"]).to_pydict()
    units = {key: np.array(value) for key, value in zip(table["utterance_id"], table["units"], strict=True)}
    put_to = {tuple(pair["rejected"]): pair["prompt"] for pair in pairs}
    pairs = [pair for pair in pairs if tuple(pair["chosen"]) in put_to]
    print(f"{'model':<18}{'n':>5}  {'nats an ending':<26}{'nats a unit':<26}endings likelier after their own passage")
    for manifest in sorted(root.glob("pretrained/*/manifest.json")):
        model = load_unit_lm(manifest.parent / "model").eval()
        vocabulary = read_unit_vocabulary(manifest.parent / "model", str(root))
        own, other = (
            [continued([units[k] for k in prompt], [units[k] for k in ending], vocabulary) for prompt, ending in sides]
            for sides in (
                [(pair["prompt"], pair["chosen"]) for pair in pairs],
                [(put_to[tuple(pair["chosen"])], pair["chosen"]) for pair in pairs],
            )
        )
        sums, counts = log_likelihoods(model, [*own, *other], drawn=vocabulary.unit_ids)
        (own_N, other_N), (lengths_N, others_N) = sums.reshape(2, -1), counts.reshape(2, -1)
        drawn = np.random.default_rng(0).integers(0, len(own), (4000, len(own)))
        texts = []
        for values_N in (own_N - other_N, own_N / lengths_N - other_N / others_N, own_N > other_N):
            low, high = np.percentile(values_N[drawn].mean(1), [2.5, 97.5])
            texts.append(f"{values_N.mean():.3f} [{low:.3f}, {high:.3f}]")
        print(f"{manifest.parent.name:<18}{len(own):>5}  {texts[0]:<26}{texts[1]:<26}{texts[2]}", flush=True)


def continued(prompt: Sequence[np.ndarray], ending: Sequence[np.ndarray], vocabulary: Vocabulary) -> Document:
    """A passage and an ending, of which the ending's units alone are targets."""
    whole, passage = (unit_document(join_units(parts), vocabulary) for parts in ([*prompt, *ending], prompt))
    mask = np.zeros(len(whole), np.bool_)
    mask[len(passage) - 1 : -1] = True  # without the <S> at the end of each
    return Document(whole.ids, mask)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
