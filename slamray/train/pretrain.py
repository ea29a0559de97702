"""Pre-training of a language model over any token ids, on every profile: the trainable and its entry.

Legend: B rows of a micro-batch, C tokens of a row, V vocabulary.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.config.training import PretrainSettings
from slamray.errors import BadInput
from slamray.model.attention import inside_pieces, register_attention
from slamray.model.saved_vocabulary import adopt_vocabulary
from slamray.model.unit_lm import count_parameters, flops_per_token, recompute_layers, save_unit_lm
from slamray.stage.folder import Folder, Root
from slamray.stage.work import CHECKPOINTS, Report
from slamray.tokens.rows import Batch, RowStore
from slamray.tokens.sampler import add_hashes, rank_micro_batches, sample_hash
from slamray.tokens.vocabulary import Ints
from slamray.train import checkpoint, zero
from slamray.train.loop import Run, Step, Write, train
from slamray.train.objective import summed_cross_entropy
from slamray.train.optim import make_optimiser, set_schedules
from slamray.train.ranks import add_over_ranks, rank_and_world
from slamray.train.spent import Spent, fit_rows, rows_per_step
from slamray.train.trunk_schedule import branch_optim

MODEL = checkpoint.MODEL  # of what is left at the end, too
KEY = "pretrain.tokens_per_step"


@dataclass(frozen=True)
class Part:
    """Which part of a run is trained, where it is not the whole.

    after: the checkpoint that another part left. until: the budget at whose end it stops, before its own; then it
    leaves `out/state`, a checkpoint, in place of a model.
    """

    after: Path | None = None
    until: str | None = None


def pretrain(
    config: PretrainSettings,
    compute: Compute,
    model_folder: Path,
    train_rows: Path,
    validation_rows: Path,
    out: Root,
    report: Report,
    part: Part = Part(),
    kind: Callable[..., Pretraining] | None = None,
) -> dict[str, Any]:
    """Train until the budget is spent and leave `out/model` and `out/history.json`; returns facts.

    Training starts from the model in `model_folder`, or goes on from the newest whole checkpoint (see loop.Run).
    torch.distributed must be initialised; every rank calls this, and every rank's `report` gets the same metrics.
    kind: the trainable, where it is not Pretraining.
    """
    budget = parse_budget(config.budget, "pretrain.budget")
    until = parse_budget(part.until, "pretrain.trunk") if part.until else budget
    rows = RowStore(train_rows), RowStore(validation_rows)
    run = Run(budget, compute, out, report, part.after, until)
    start = model_folder if run.newest is None else run.newest / MODEL
    training = (kind or Pretraining)(config, compute, start, *rows)
    train(training, run)
    if part.until is None:
        training.save(run.out)
    if run.rank == 0 and part.until is not None:
        # without a step of its own, the step that ended the part before passed this one's end too
        checkpoints = run.out / CHECKPOINTS
        newest = checkpoint.newest_complete(checkpoints)
        last = checkpoints.fetch(newest) if newest else part.after
        assert last is not None, "the last step of a part writes one"
        run.out.write_tree("state", partial(shutil.copytree, last))
    before = Spent(**checkpoint.read_state(part.after)["spent"]) if part.after else Spent()
    return {**run.finish(), "shared_seconds": before.seconds}  # of train_seconds, those of the part before


class Pretraining:
    """The trainable: a unit LM in DeepSpeed's engine, which averages gradients over ranks."""

    def __init__(
        self, config: PretrainSettings, compute: Compute, start: Path, train_rows: RowStore, validation_rows: RowStore
    ) -> None:
        """start: the folder of the model, or of a checkpoint's."""
        self.config, self.train, self.validation = config, train_rows, validation_rows
        self.validations = config.validations
        self.rank, self.world = rank_and_world()
        self.device = torch.device(compute.device)
        self.optim = branch_optim(config)
        self.rows_per_step = rows_per_step(config.tokens_per_step, train_rows.row_tokens, KEY)
        contexts_per_row = train_rows.row_tokens // train_rows.context
        micro_batch = fit_rows(self.rows_per_step, contexts_per_row, compute)
        self.compute = compute = compute.model_copy(update={"micro_batch": micro_batch})
        self.accumulation = -(-self.rows_per_step // micro_batch // self.world)  # see rank_micro_batches
        self.attention = register_attention(compute.packed_attention)
        model = zero.load_lm(start, self.attention, compute.zero_stage, self.device)
        for rows in (train_rows, validation_rows):
            adopt_vocabulary(model.config, rows.vocabulary, str(start), str(rows.folder))
        self.flops_per_token = flops_per_token(count_parameters(model))
        self.engine, self.optimiser = make_engine(model, config, compute, self.accumulation)

    def step(self, number: int, progress: float) -> Step:
        """One optimiser step on the global batch."""
        rate = set_schedules(self.optimiser, self.optim, progress)
        rows = self.train.rows_of_step(self.config.seed, number, self.rows_per_step)
        # The packer knows the number of targets of the global batch: no collective, no .item() in the loop below.
        # DeepSpeed averages gradients over ranks, hence the factor; it is told not to divide by the accumulation.
        scale = self.world / int(self.train.targets_R[rows].sum())
        losses, samples, loading_seconds = [], 0, 0.0
        for micro_rows, weight in rank_micro_batches(rows, self.rank, self.world, self.compute.micro_batch):
            began = time.perf_counter()
            batch = self.train.batch(micro_rows)
            loading_seconds += time.perf_counter() - began
            loss = self.loss(batch) * (scale * weight)
            if weight:
                samples = add_hashes(samples, sample_hash(number, micro_rows))
            self.engine.backward(loss, scale_wrt_gas=False)
            losses.append(loss.detach())
            if len(losses) < self.accumulation:
                self.engine.step()  # only counts; the last micro-batch's step is the optimiser's
        part = torch.stack(losses).sum().item() / self.world
        norm = self._clip_and_step(number, rate)
        tokens = int(self.train.tokens_R[rows].sum())
        places = {"places": self.config.tokens_per_step, "data_seconds": loading_seconds}
        latest = {"lr": rate, "grad_norm": norm}
        return Step({"loss": part}, latest, samples, tokens, tokens * self.flops_per_token, places)

    def loss(self, batch: Batch) -> torch.Tensor:
        """What a step lowers: summed over the batch's valid targets, in nats, float32."""
        return self._negative_log_likelihood(batch)

    def _negative_log_likelihood(self, batch: Batch) -> torch.Tensor:
        """Sum over the batch's valid targets, in nats, float32."""
        (logits_NV,), targets_N = self.logits_of([self.engine], batch)
        return summed_cross_entropy(logits_NV, targets_N)

    def logits_of(self, models: Sequence[nn.Module], batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Each model's logits (N, V) over a batch, and the N = B x C targets, IGNORE where there is none."""
        inputs_BC, targets_BC, positions_BC, boundaries_N = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in (batch.inputs, batch.targets, batch.positions, batch.boundaries)
        )
        inside = inside_pieces(positions_BC, boundaries_N, batch.context, self.attention)
        with zero.casts_are_not_kept(self.compute.zero_stage):
            given = {"input_ids": inputs_BC, "position_ids": positions_BC, "use_cache": False, **inside}
            logits = [model(**given).logits.flatten(0, 1) for model in models]
        return logits, targets_BC.flatten()

    def _clip_and_step(self, number: int, rate: float) -> float:
        """The optimiser's step with clipped gradients; returns their global norm before clipping.

        DeepSpeed's ZeRO optimisers clip by themselves; without ZeRO its engine does not tell the norm, so torch's does.
        A norm that is not finite is the same on all ranks, because gradients were averaged: all stop together.
        """
        if self.compute.zero_stage == 0:
            norm = torch.nn.utils.clip_grad_norm_(self.engine.module.parameters(), self.config.optim.clip_norm).item()
        if self.compute.zero_stage > 0:
            self.engine.step()
            norm = float(self.engine.get_global_grad_norm())
        if not math.isfinite(norm):
            raise BadInput(
                f"pretrain: loss or gradient is not finite at step {number} (learning rate {rate:.3g}); "
                "lower pretrain.optim.learning_rate or start from another seed"
            )
        if self.compute.zero_stage == 0:
            self.engine.step()
        return norm

    def rates(self, window: Mapping[str, float]) -> dict[str, float]:
        """Speed, and the shares of padding and of waiting for data."""
        per_second = window["tokens"] / window["seconds"]
        found = {
            "tokens_per_second": per_second,
            "data_wait_share": window["data_seconds"] / window["seconds"],
            "padding_share": 1.0 - window["tokens"] / window["places"],
        }
        if self.compute.peak_tflops is not None:
            found["mfu"] = per_second * self.flops_per_token / (self.compute.peak_tflops * 1e12 * self.world)
        return found

    def validate(self) -> dict[str, float]:
        """Loss and perplexity over the first rows of the validation split."""
        contexts_per_row = self.validation.row_tokens // self.validation.context
        rows = max(1, self.config.validation_rows // contexts_per_row)
        loss = self.evaluate(self.validation, np.arange(min(rows, self.validation.rows)))
        perplexity = math.exp(min(loss, 700.0))  # exp overflows above
        return {"validation_loss": loss, "validation_perplexity": perplexity}

    def evaluate(self, rows_store: RowStore, rows: Ints) -> float:
        """Mean negative log-likelihood in nats over the valid targets of the given rows."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        micro_batch = self.compute.micro_batch
        with torch.no_grad():
            for first in range(0, len(rows), micro_batch * self.world):
                own = first + self.rank * micro_batch
                if own < len(rows):
                    total += self._negative_log_likelihood(rows_store.batch(rows[own : own + micro_batch]))
                elif self.compute.zero_stage == 3:  # a forward pass is a collective: it is made, and does not count
                    self._negative_log_likelihood(rows_store.batch(rows[:micro_batch]))
        return add_over_ranks({"loss": total.item()})["loss"] / int(rows_store.targets_R[rows].sum())

    def snapshot(self) -> Write | None:
        """Weights and moments; see checkpoint.py."""
        return checkpoint.snapshot(self.engine.module, self.optimiser, self.compute.zero_stage)

    def save(self, out: Folder) -> None:
        """Leave the model in transformers' format under out/model; a collective."""
        if self.compute.zero_stage == 3:
            zero.save_whole(self.engine.module, out, MODEL)
        elif self.rank == 0:
            out.write_tree(MODEL, partial(save_unit_lm, self.engine.module))

    def load(self, newest: Path) -> None:
        """The optimiser's state; the model was loaded with the checkpoint's weights."""
        checkpoint.read_optimiser(newest, self.optimiser, self.engine.module, self.compute.zero_stage)


def make_engine(
    model: PreTrainedModel, config: PretrainSettings, compute: Compute, accumulation: int
) -> tuple[deepspeed.DeepSpeedEngine, torch.optim.Optimizer]:
    """A DeepSpeed engine with float32 weights and gradients and bf16 matrix products (torch autocast)."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    zero.build_nothing()
    if compute.recompute:
        recompute_layers(model)
    settings = {
        "train_micro_batch_size_per_gpu": compute.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optim.clip_norm if compute.zero_stage > 0 else 0.0,
        "zero_optimization": {"stage": compute.zero_stage, **zero.bounds(count_parameters(model))},
        **zero.autocast_settings(compute.precision),
        "steps_per_print": None,
    }
    optimiser = make_optimiser(model, config.optim)
    engine, wrapped, _, _ = deepspeed.initialize(
        model=model, optimizer=optimiser, config=settings, dist_init_required=False
    )
    engine.train()
    return engine, wrapped
