"""How fast DPO is, against TRL's trainer as people use it.

    python benchmarks/preference.py [shape=small|opt] [precomputed=true] [steps=6] [pairs=5] [a.b=c ...]

Pairs of random units, prompts of 60 to 100 and sides of 30 to 60; pairs a second of optimiser steps after the first, in
one process on two threads, without Ray. The anchor is TRL's DPOTrainer with the reference in memory, or with
precomputed=true its log-likelihoods beforehand, which both leave out of the time; it is given token ids, its own
batches and the larger micro-batch. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import alone
import numpy as np
from pairs import measure
from pydantic import Field

from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings
from slamray.config.load import load_recipe
from slamray.tokens.vocabulary import Vocabulary

PAIRS = 256
PEER_MICRO_BATCH = {"small": 8, "opt": 4}  # the faster ones of 4, 8 and 16
STEP = {"small": 32, "opt": 8}  # pairs of an optimiser step


class Words(Settings):
    """Words of this benchmark."""

    shape: Literal["small", "opt"] = Field("small", description="3 or 86 million parameters")
    precomputed: bool = Field(False, description="TRL computes the reference beforehand too")
    steps: int = Field(6, ge=1, description="optimiser steps that are timed in each measurement")
    pairs: int = Field(5, ge=1, description="how often each is measured")


def main(words: Sequence[str]) -> int:
    """The whole benchmark: 0, or 2 with one line where a word is at fault."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, others = split_words(words, Words)
    recipe = load_recipe(["profile=laptop", *others])
    alone.begin()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        alone.write_unit_lm(root / "model", own.shape)
        pairs = random_pairs()
        dtype = recipe.compute.precision
        result = measure(
            f"DPO, {own.shape} model, {dtype}, pairs/s: against TRL, reference "
            + ("precomputed" if own.precomputed else "in memory"),
            lambda: trl_rate(root, pairs, own, dtype),
            lambda: our_rate(root, pairs, own, recipe),
            own.pairs,
        )
    print(json.dumps(asdict(result)))
    return 0


def random_pairs() -> list[dict[str, Any]]:
    """The same for both."""
    rng = np.random.default_rng(0)

    def units(least: int, most: int) -> list[int]:
        return rng.integers(0, alone.UNITS, rng.integers(least, most + 1)).tolist()

    return [
        {"pair_id": f"{number:04d}", "prompt": units(60, 100), "chosen": units(30, 60), "rejected": units(30, 60)}
        for number in range(PAIRS)
    ]


def our_rate(root: Path, pairs: list[dict[str, Any]], own: Words, recipe: Any) -> float:
    """Pairs a second of `train_dpo`."""
    from slamray.config.training import DpoSettings
    from slamray.train.dpo.align import train_dpo

    ends: list[float] = []
    settings = DpoSettings(budget=f"steps:{own.steps + 1}", pairs_per_step=STEP[own.shape], context=1024)
    changes = {"report_every_steps": 1, "checkpoint_every_seconds": 1e9}
    compute = recipe.compute.model_copy(update=changes)
    with tempfile.TemporaryDirectory(dir=root) as out:
        train_dpo(settings, compute, root / "model", pairs, [], Path(out), lambda _: ends.append(time.perf_counter()))
    return own.steps * STEP[own.shape] / alone.steady(ends)


def trl_rate(root: Path, pairs: list[dict[str, Any]], own: Words, dtype: str) -> float:
    """Pairs a second of TRL's trainer."""
    import datasets
    from transformers import AutoModelForCausalLM
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from slamray.train.dpo.align import special_tokens
    from slamray.train.dpo.pairs import to_pair_tokens

    class Plain(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset  # tokens already

        def _send_telemetry(self) -> None:
            pass

    tokens, _ = to_pair_tokens(pairs, Vocabulary.of_units(alone.UNITS), 1024)
    parts = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = datasets.Dataset.from_dict({part: [getattr(pair, part) for pair in tokens] for part in parts})
    model, reference = (AutoModelForCausalLM.from_pretrained(root / "model") for _ in range(2))
    clock, ends = alone.step_clock()
    with tempfile.TemporaryDirectory(dir=root) as out, alone.outside_the_group():
        arguments = DPOConfig(
            output_dir=out,
            use_cpu=True,
            bf16=dtype == "bfloat16",
            max_length=None,
            precompute_ref_log_probs=own.precomputed,
            per_device_train_batch_size=PEER_MICRO_BATCH[own.shape],
            gradient_accumulation_steps=STEP[own.shape] // PEER_MICRO_BATCH[own.shape],
            max_steps=own.steps + 1,
            learning_rate=5e-5,
            max_grad_norm=0.5,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=10,
            activation_checkpointing=False,
        )
        Plain(
            model=model,
            ref_model=None if own.precomputed else reference,
            args=arguments,
            train_dataset=rows,
            processing_class=special_tokens(Vocabulary.of_units(alone.UNITS)),
            callbacks=[clock],
        ).train()
    return own.steps * STEP[own.shape] / alone.steady(ends)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
