"""How fast pre-training is, against transformers' Trainer, and what Ray and DeepSpeed cost around the loop.

    python benchmarks/pretraining.py [against=padded|packed|bare] [shape=small|opt] [steps=6] [pairs=5] [a.b=c ...]

Documents of random units, about 700 long as spoken TinyStories are; tokens that are no padding a second of optimiser
steps after the first, on two threads. The anchor is the Trainer on padded documents, cut at the context as slamkit
cuts them, or on packed rows of one context, across whose pieces its attention goes; it runs where ours does, without
Ray.
against=bare: the anchor is a plain torch loop over the same batches, attention and optimiser, and ours runs under Ray
Train. All take the same model and as many tokens a step. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import alone
import numpy as np
from pairs import Result, measure
from pydantic import Field

from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings
from slamray.config.compute import Compute
from slamray.config.load import load_recipe
from slamray.config.training import PretrainSettings
from slamray.runtime.engine import Engine
from slamray.stage.work import METRICS
from slamray.train.spent import fit_micro_batch

TOKENS = 400_000  # of the documents
CONTEXT = {"small": 512, "opt": 1024}
ROWS = {"small": 8, "opt": 2}  # of an optimiser step; the peer's micro-batch, which was as fast as smaller ones
CONTEXTS_PER_ROW = {"small": 1, "opt": 2}  # of ours: as many as a step has, which leaves less of it empty


class Words(Settings):
    """Words of this benchmark."""

    shape: Literal["small", "opt"] = Field("small", description="3 or 86 million parameters")
    against: Literal["padded", "packed", "bare"] = Field("padded", description="what the anchor is, see above")
    steps: int = Field(6, ge=1, description="optimiser steps that are timed in each measurement")
    pairs: int = Field(5, ge=1, description="how often each is measured")


def main(words: Sequence[str]) -> int:
    """The whole benchmark: 0, or 2 with one line where a word is at fault."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, others = split_words(words, Words)
    recipe = load_recipe(["profile=laptop", *others])
    compute = recipe.compute.model_copy(update={"report_every_steps": 1, "checkpoint_every_seconds": 1e9})
    settings = PretrainSettings(
        budget=f"steps:{own.steps + 1}",
        tokens_per_step=ROWS[own.shape] * CONTEXT[own.shape],
        validations=1,
        validation_rows=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        alone.write_unit_lm(root / "model", own.shape)
        documents = write_documents(root, CONTEXT[own.shape], CONTEXTS_PER_ROW[own.shape])
        if own.against == "bare":
            result = compare_bare(own, settings, compute, root)
        else:
            result = compare_trainer(own, settings, compute, root, documents)
    print(json.dumps(asdict(result)))
    return 0


def compare_trainer(
    own: Words, settings: PretrainSettings, compute: Compute, root: Path, documents: list[list[int]]
) -> Result:
    """Against transformers' Trainer, in this process."""
    alone.begin()
    packed = own.against == "packed"
    rows = packed_rows(root / "peer") if packed else padded_rows(documents, CONTEXT[own.shape])
    return measure(
        f"pre-training, {own.shape} model, {compute.precision}, tokens/s: against HF Trainer on "
        + ("packed rows" if packed else "padded documents"),
        lambda: trainer_rate(root, rows, own, compute.precision),
        lambda: our_rate(root, settings, compute),
        own.pairs,
    )


def compare_bare(own: Words, settings: PretrainSettings, compute: Compute, root: Path) -> Result:
    """Against a plain loop, under Ray Train."""
    import torch

    torch.set_num_threads(alone.THREADS)
    engine = Engine(compute)
    try:
        engine.connect()  # by the main thread: a cluster ends with the thread that started it
        return measure(
            f"Ray and DeepSpeed around pre-training, {own.shape} model, {compute.precision}, tokens/s: "
            "against a plain torch loop",
            lambda: bare_rate(root, settings, compute),
            lambda: rate_on_ray(root, settings, compute, engine),
            own.pairs,
        )
    finally:
        engine.close()


def write_documents(root: Path, context: int, contexts_per_row: int) -> list[list[int]]:
    """Documents as token ids; packed in `rows`, and as the Trainer takes them, in rows of one context, in `peer`."""
    from slamray.tokens.documents import Document, unit_document
    from slamray.tokens.packing import pack
    from slamray.tokens.rows import write_rows
    from slamray.tokens.vocabulary import Vocabulary

    rng, vocabulary = np.random.default_rng(0), Vocabulary.of_units(alone.UNITS)
    documents: list[Document] = []
    while sum(len(document) for document in documents) < TOKENS:
        documents.append(unit_document(rng.integers(0, alone.UNITS, max(60, round(rng.normal(700, 200)))), vocabulary))
    lengths = np.array([len(document) for document in documents])
    write_rows(root / "rows", documents, vocabulary, pack(lengths, context, context * contexts_per_row))
    write_rows(root / "peer", documents, vocabulary, context)
    return [document.ids.tolist() for document in documents]


def padded_rows(documents: Sequence[Sequence[int]], context: int) -> list[dict[str, list[int]]]:
    """Documents cut at the context, in random order; the Trainer's collator pads them."""
    pieces = [ids[start : start + context] for ids in documents for start in range(0, len(ids), context)]
    order = np.random.default_rng(1).permutation(len(pieces))
    return [{"input_ids": list(pieces[place])} for place in order]


def packed_rows(folder: Path) -> list[dict[str, list[int]]]:
    """Packed rows, padding at their ends."""
    from slamray.tokens.rows import RowStore

    store = RowStore(folder)
    return [{"input_ids": row.tolist()} for row in store.tokens_RC]


def our_rate(root: Path, settings: PretrainSettings, compute: Compute) -> float:
    """Tokens a second of `pretrain`."""
    from slamray.train.pretrain import pretrain

    reports: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=root) as out:
        pretrain(settings, compute, root / "model", root / "rows", root / "rows", Path(out), reports.append)
    return rate_of(reports)


def rate_on_ray(root: Path, settings: PretrainSettings, compute: Compute, engine: Engine) -> float:
    """The same on a worker of Ray Train."""
    from slamray.train.pretrain import pretrain

    (machine,) = engine.seats(1)
    with tempfile.TemporaryDirectory(dir=root) as out:
        loop = partial(pretrain, settings, compute, root / "model", root / "rows", root / "rows", Path(out))
        machine.train("pretraining", loop, Path(out))
        lines = (Path(out) / METRICS).read_text().splitlines()
    machine.leave()
    return rate_of([json.loads(line) for line in lines])


def rate_of(reports: Sequence[dict[str, Any]]) -> float:
    """Of the steps after the first, whose seconds leave validation, reports and the last checkpoint out."""
    first, last = reports[0], reports[-1]
    return float((last["tokens"] - first["tokens"]) / (last["train_seconds"] - first["train_seconds"]))


def bare_rate(root: Path, settings: PretrainSettings, compute: Compute) -> float:
    """What one writes who needs no checkpoint, no second worker and no report."""
    import torch

    from slamray.model.attention import inside_pieces, register_attention
    from slamray.model.unit_lm import load_unit_lm
    from slamray.tokens.rows import RowStore
    from slamray.train.objective import summed_cross_entropy
    from slamray.train.optim import make_optimiser

    rows, attention = RowStore(root / "rows"), register_attention(compute.packed_attention)
    model = load_unit_lm(root / "model", attention).train()
    optimiser = make_optimiser(model, settings.optim)
    per_step, steps = settings.tokens_per_step // rows.row_tokens, int(settings.budget.partition(":")[2])
    micro_batch = fit_micro_batch(per_step, compute.micro_batch, 1)
    tokens, ends = 0, list[float]()
    for step in range(steps):
        chosen = rows.rows_of_step(settings.seed, step, per_step)
        for start in range(0, per_step, micro_batch):
            batch = rows.batch(chosen[start : start + micro_batch])
            inputs, targets, positions, boundaries = (
                torch.from_numpy(array) for array in (batch.inputs, batch.targets, batch.positions, batch.boundaries)
            )
            inside = inside_pieces(positions, boundaries, batch.context, attention)
            with torch.autocast("cpu", torch.bfloat16, enabled=compute.precision == "bfloat16"):
                logits = model(input_ids=inputs, position_ids=positions, use_cache=False, **inside).logits
            loss = summed_cross_entropy(logits.flatten(0, 1), targets.flatten())
            (loss / int(rows.targets_R[chosen].sum())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.optim.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        tokens += int(rows.tokens_R[chosen].sum()) if ends else 0
        ends.append(time.perf_counter())
    return tokens / alone.steady(ends)


def trainer_rate(root: Path, rows: list[dict[str, list[int]]], own: Words, dtype: str) -> float:
    """Tokens a second of transformers' Trainer."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from slamray.tokens.vocabulary import PAD

    counted: list[int] = []

    def collate(batch: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in batch)
        ids = torch.tensor([[*row["input_ids"], *[PAD] * (longest - len(row["input_ids"]))] for row in batch])
        seen = ids != PAD
        counted.append(int(seen.sum()))
        return {"input_ids": ids, "attention_mask": seen.long(), "labels": ids.masked_fill(~seen, -100)}

    model = AutoModelForCausalLM.from_pretrained(root / "model", attn_implementation="sdpa")
    model.config.use_cache = False
    clock, ends = alone.step_clock()
    with tempfile.TemporaryDirectory(dir=root) as out, alone.outside_the_group():
        arguments = TrainingArguments(
            output_dir=out,
            use_cpu=True,
            bf16=dtype == "bfloat16",
            per_device_train_batch_size=ROWS[own.shape],
            max_steps=own.steps + 1,
            max_grad_norm=0.5,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            remove_unused_columns=False,
        )
        Trainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_list(rows),
            data_collator=collate,
            callbacks=[clock],
        ).train()
    return sum(counted[1 : own.steps + 1]) / alone.steady(ends)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
