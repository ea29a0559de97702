"""How long it takes to score several checkpoints on pairs of recordings, against slamkit.

    SLAMKIT=FOLDER python benchmarks/evaluation.py [items=100] [checkpoints=3] [lm_alone=true] [pairs=3] [toy=true]
        [root=runs/bench/evaluation] [a.b=c ...]

SLAMKIT: a clone of slp-rl/slamkit, which wants omegaconf beside requirements.lock, and which encodes every recording
again for every checkpoint. Here they are encoded once, by the stage's own code on Ray (benchmarks/extraction.py says
when that is timed), and each checkpoint scores units. An item is two recordings of 4 to 16 s; the encoder is an
mHuBERT-base of random weights, the LM one of 3 M parameters. Figures are items a second; lm_alone=true compares the LMs
alone. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import alone
import extraction
import numpy as np
import torch
from pairs import Result, measure
from pydantic import Field

from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings
from slamray.config.compute import Compute
from slamray.config.load import load_recipe
from slamray.errors import BadInput
from slamray.model.log_likelihood import log_likelihoods
from slamray.model.unit_lm import load_unit_lm
from slamray.runtime.engine import Engine
from slamray.stages import units
from slamray.tokens.documents import unit_document
from slamray.tokens.vocabulary import Vocabulary

UNITS_OF_A_SIDE = 120, 260  # about 10 s of speech, deduplicated


class Words(Settings):
    """Words of this benchmark."""

    items: int = Field(100, ge=1, description="pairs of recordings")
    checkpoints: int = Field(3, ge=1, description="that are scored on them")
    lm_alone: bool = Field(False, description="from tokens to scores, one checkpoint")
    pairs: int = Field(3, ge=1, description="how often each is measured")
    toy: bool = Field(False, description="a small encoder and 4 s recordings, to see that it works")
    root: str = Field("runs/bench/evaluation", description="folder of the models and the recordings")


def main(words: Sequence[str]) -> int:
    """The whole benchmark: 0, or 2 with one line where a word is at fault."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, others = split_words(words, Words)
    slamkit = os.environ.get("SLAMKIT", "")
    if not slamkit:
        raise BadInput("SLAMKIT: name a clone of slp-rl/slamkit in the environment; this compares with nothing else")
    root = Path(own.root).resolve()
    torch.set_num_threads(alone.THREADS)
    alone.write_unit_lm(root / "lm", "small")
    compare = compare_lms if own.lm_alone else compare_whole
    print(json.dumps(asdict(compare(own, root, Path(slamkit), others))))
    return 0


def compare_lms(own: Words, root: Path, slamkit: Path, others: Sequence[str]) -> Result:
    """From units to scores."""
    rng, given = np.random.default_rng(0), root / "units.json"
    rows = [rng.integers(0, alone.UNITS, rng.integers(*UNITS_OF_A_SIDE)) for _ in range(2 * own.items)]
    given.write_text(json.dumps([row.tolist() for row in rows]))
    return measure(
        f"scoring units, {own.items} items, items/s: against slamkit, batches of {extraction.PEER_BATCH}",
        lambda: own.items / extraction.ask_slamkit(slamkit, "score_units", given, root / "lm"),
        lambda: own.items / scoring_seconds(rows, root, load_recipe(["profile=laptop", *others]).compute),
        own.pairs,
    )


def compare_whole(own: Words, root: Path, slamkit: Path, others: Sequence[str]) -> Result:
    """From audio to the scores of every checkpoint."""
    lengths = np.random.default_rng(0).uniform(extraction.SHORTEST, extraction.LONGEST, 2 * own.items).tolist()
    if own.toy:
        lengths = [extraction.SHORTEST] * len(lengths)
    extraction.write_recordings(root / "recordings", lengths)
    hubert = root / ("toy" if own.toy else "mhubert")
    recipe = load_recipe([*extraction.mhubert_words(hubert, own.toy), *extraction.COMMON, *others])
    engine = Engine(recipe.compute)

    def ours() -> float:
        out, finished = extraction.listen(recipe, engine, root)
        encoding = sum(lengths) / extraction.steady_rate(finished, recipe.compute.encoder_actors)
        return own.items / (
            encoding + own.checkpoints * scoring_seconds(list(units.by_id(out).values()), root, recipe.compute)
        )

    def peers() -> float:
        took = extraction.ask_slamkit(slamkit, "score", hubert, root / "recordings", root / "lm")
        return own.items / (own.checkpoints * took)

    what = f"evaluation of {own.checkpoints} checkpoints from audio, {own.items} items, {recipe.speech.encoder.dtype}"
    try:
        engine.connect()  # by the main thread: a cluster ends with the thread that started it
        return measure(f"{what}, items/s: against slamkit, batches of {extraction.PEER_BATCH}", peers, ours, own.pairs)
    finally:
        engine.close()


def scoring_seconds(rows: Sequence[np.ndarray], root: Path, compute: Compute) -> float:
    """Of one checkpoint, from units, in the batches of a run."""
    model = load_unit_lm(root / "lm")
    vocabulary = Vocabulary.of_units(alone.UNITS)
    documents = [unit_document(row, vocabulary) for row in rows]
    log_likelihoods(model, documents[-2:])
    began = time.perf_counter()
    log_likelihoods(model, documents, compute.score_batch_tokens)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
