"""Pre-training: one loop over a DeepSpeed engine for any token ids, on every profile.

Legend: B rows of a micro-batch, C context, V vocabulary.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from slamray import store
from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.config.training import PretrainSettings
from slamray.errors import BadInput
from slamray.model.attention import piece_mask, register_blockwise
from slamray.model.memory import bucket_elements
from slamray.model.saved_vocabulary import adopt_vocabulary
from slamray.model.unit_lm import count_parameters, flops_per_token, load_unit_lm, save_unit_lm
from slamray.stage.work import CHECKPOINTS, NOTICE, Report
from slamray.tokens.rows import IGNORE, Batch, RowStore
from slamray.tokens.sampler import add_hashes, rank_micro_batches, sample_hash
from slamray.tokens.vocabulary import Ints
from slamray.train import checkpoint
from slamray.train.budget import Spent, accumulation_steps, progress
from slamray.train.optim import make_optimiser, set_schedules
from slamray.train.trunk import branch_optim

KEYS = "pretrain.tokens_per_step, compute.micro_batch, pack.context, compute.workers"


@dataclass(frozen=True)
class Part:
    """Which part of a run is trained, where it is not the whole.

    after: the checkpoint that another part left. until: the budget at whose end it stops, before its own; then it
    leaves `out/state`, a checkpoint, in place of a model.
    """

    after: Path | None = None
    until: str | None = None


@dataclass
class Window:
    """Sums since the last report."""

    steps: int = 0
    loss: float = 0.0  # of this rank's rows, each step's share of the global mean
    tokens: int = 0
    places: int = 0  # tokens and padding
    seconds: float = 0.0
    data_seconds: float = 0.0
    checkpoint_seconds: float = 0.0


def pretrain(
    config: PretrainSettings,
    compute: Compute,
    model_folder: Path,
    train_rows: Path,
    validation_rows: Path,
    out: Path,
    report: Report,
    part: Part = Part(),
) -> dict[str, Any]:
    """Train until the budget is spent and leave `out/model` and `out/history.json`; returns facts.

    Training starts from the model in `model_folder`, or goes on from the newest whole checkpoint in `out/checkpoints`
    where there is one: a first start and a restart are the same call, on any number of ranks. A file `out/.save-now`
    asks for a checkpoint at once. torch.distributed must be initialised; every rank calls this, and every rank's
    `report` gets the same metrics.
    """
    rows = RowStore(train_rows), RowStore(validation_rows)
    loop = Pretraining(config, compute, model_folder, *rows, out, report, part)
    try:
        loop.run()
    finally:  # whatever ends it, what is in flight is a checkpoint
        loop.saver.wait()
    return loop.finish()


class Pretraining:
    """The state of a run between two steps."""

    def __init__(
        self,
        config: PretrainSettings,
        compute: Compute,
        model_folder: Path,
        train: RowStore,
        validation: RowStore,
        out: Path,
        report: Report,
        part: Part = Part(),
    ) -> None:
        self.config, self.compute, self.train, self.validation = config, compute, train, validation
        self.out, self.report, self.part = out, report, part
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device = torch.device(compute.device)
        if compute.zero_stage == 3:
            raise BadInput("compute.zero_stage=3: checkpoints are written under ZeRO 0, 1 and 2; choose one of them")
        self.budget = parse_budget(config.budget, "pretrain.budget")
        self.until = parse_budget(part.until, "pretrain.trunk") if part.until else self.budget
        self.optim = branch_optim(config)
        groups = accumulation_steps(config.tokens_per_step, compute.micro_batch, train.context, 1, KEYS)
        self.accumulation = -(-groups // self.world)  # see rank_micro_batches
        self.spent, self.window, self.validations = Spent(), Window(), 0
        self.seen = 0  # hash of the samples that this rank has trained on (units.sample_hash)
        self.history: list[dict[str, Any]] = []
        self.latest_validation: dict[str, float] = {}
        newest = checkpoint.agree(checkpoint.newest_complete(out / CHECKPOINTS) if self.rank == 0 else None)
        newest = newest or part.after
        self.saver = checkpoint.Saver(out / CHECKPOINTS)
        self.attention = register_blockwise() if compute.device == "cpu" else compute.attention
        model = load_unit_lm(model_folder if newest is None else newest / "model", self.attention)
        for rows in (train, validation):
            adopt_vocabulary(model.config, rows.vocabulary, str(model_folder), str(rows.folder))
        self.flops_per_token = flops_per_token(count_parameters(model))
        self.engine, self.optimiser = make_engine(model, config, compute, self.accumulation)
        if newest is not None:
            self._resume(newest)
        before = Spent(**checkpoint.read_state(part.after)["spent"]) if part.after else Spent()
        self.shared_seconds = before.seconds  # of train_seconds, those of the part before
        self.saved_at = time.monotonic()

    def _resume(self, newest: Path) -> None:
        state = checkpoint.read_state(newest)
        checkpoint.read_optimiser(newest, self.optimiser, self.engine.module, self.compute.zero_stage)
        self.spent, self.validations, self.history = Spent(**state["spent"]), state["validations"], state["history"]
        if newest == self.part.after:  # its validations were spaced over another budget
            share = progress(self.budget, self.spent)
            self.validations = math.floor(share * self.config.validations) + 1
        self.latest_validation = state["latest_validation"]
        self.window = Window(**state["window"])
        self.seen = int(state["samples"], 16)
        if self.rank > 0:
            self.window.loss, self.seen = 0.0, 0  # they were added up over ranks

    def run(self) -> None:
        """Steps, validations, reports and checkpoints until the budget is spent."""
        share = progress(self.budget, self.spent)
        self._validate_when_due(share)
        while not self._ended():
            metrics = self._step(share)
            share = progress(self.budget, self.spent)
            self._validate_when_due(share)
            report_due = self.window.steps >= self.compute.report_every_steps or self._ended()
            if report_due:
                metrics = self._close_window(share, metrics)
            if self._agreed_to_save() or self._ended():
                self._save()
            if report_due:
                self.report(metrics)

    def _ended(self) -> bool:
        return progress(self.until, self.spent) >= 1.0

    def _step(self, share: float) -> dict[str, float]:
        """One optimiser step on the global batch; charges its seconds to the budget."""
        began = time.perf_counter()
        rate = set_schedules(self.optimiser, self.optim, share)
        rows_per_step = self.config.tokens_per_step // self.train.context
        rows = self.train.rows_of_step(self.config.seed, self.spent.steps, rows_per_step)
        # The packer knows the number of targets of the global batch: no collective, no .item() in the loop below.
        # DeepSpeed averages gradients over ranks, hence the factor; it is told not to divide by the accumulation.
        scale = self.world / int(self.train.targets_R[rows].sum())
        losses = []
        for micro_rows, weight in rank_micro_batches(rows, self.rank, self.world, self.compute.micro_batch):
            loading = time.perf_counter()
            batch = self.train.batch(micro_rows)
            self.window.data_seconds += time.perf_counter() - loading
            loss = self._negative_log_likelihood(batch) * (scale * weight)
            if weight:
                self.seen = add_hashes(self.seen, sample_hash(self.spent.steps, micro_rows))
            self.engine.backward(loss, scale_wrt_gas=False)
            losses.append(loss.detach())
            if len(losses) < self.accumulation:
                self.engine.step()  # only counts; the last micro-batch's step is the optimiser's
        loss_value = torch.stack(losses).sum().item() / self.world
        norm = self._clip_and_step(rate)
        tokens = int(self.train.tokens_R[rows].sum())
        seconds = self._rank0_value(time.perf_counter() - began)
        self.spent = self.spent.plus(tokens, tokens * self.flops_per_token, seconds)
        self.window.steps += 1
        self.window.loss += loss_value
        self.window.tokens += tokens
        self.window.places += self.config.tokens_per_step
        self.window.seconds += seconds
        return {"lr": rate, "grad_norm": norm}

    def _negative_log_likelihood(self, batch: Batch) -> torch.Tensor:
        """Sum over the batch's valid targets, in nats, float32."""
        inputs_BC, targets_BC, positions_BC = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in (batch.inputs, batch.targets, batch.positions)
        )
        mask = piece_mask(positions_BC, self.attention)
        logits_BCV = self.engine(
            input_ids=inputs_BC, attention_mask=mask, position_ids=positions_BC, use_cache=False
        ).logits
        return cross_entropy(
            logits_BCV.flatten(0, 1).float(), targets_BC.flatten(), ignore_index=IGNORE, reduction="sum"
        )

    def _clip_and_step(self, rate: float) -> float:
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
                f"pretrain: loss or gradient is not finite at step {self.spent.steps} (learning rate {rate:.3g}); "
                "lower pretrain.optim.learning_rate or start from another seed"
            )
        if self.compute.zero_stage == 0:
            self.engine.step()
        return norm

    def _validate_when_due(self, share: float) -> None:
        """Validation k of K at progress k / K, the untrained model's (k = 0) included; not charged to the budget."""
        if share < self.validations / self.config.validations:
            return
        self.validations = math.floor(share * self.config.validations) + 1
        rows = torch.arange(min(self.config.validation_rows, self.validation.rows)).numpy()
        loss = self.evaluate(self.validation, rows)
        perplexity = math.exp(min(loss, 700.0))  # exp overflows above
        self.latest_validation = {"validation_loss": loss, "validation_perplexity": perplexity}
        self.history.append({**self._spent(share), **self.latest_validation})

    def evaluate(self, rows_store: RowStore, rows: Ints) -> float:
        """Mean negative log-likelihood in nats over the valid targets of the given rows."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        micro_batch = self.compute.micro_batch
        with torch.no_grad():
            for first in range(self.rank * micro_batch, len(rows), micro_batch * self.world):
                total += self._negative_log_likelihood(rows_store.batch(rows[first : first + micro_batch]))
        return self._sum_over_ranks(total.item()) / int(rows_store.targets_R[rows].sum())

    def _close_window(self, share: float, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics of the steps since the last report, which begin a new window."""
        window, self.window = self.window, Window()
        per_second = window.tokens / window.seconds
        metrics = {**self._spent(share), "loss": self._sum_over_ranks(window.loss) / window.steps, **metrics}
        metrics["tokens_per_second"] = per_second
        if self.compute.peak_tflops is not None:
            metrics["mfu"] = per_second * self.flops_per_token / (self.compute.peak_tflops * 1e12 * self.world)
        metrics["data_wait_share"] = window.data_seconds / window.seconds
        metrics["checkpoint_stall_seconds"] = window.checkpoint_seconds
        metrics["workers"] = self.world
        metrics["padding_share"] = 1.0 - window.tokens / window.places
        self.history.append(metrics)
        return {**self.latest_validation, **metrics}

    def _spent(self, share: float) -> dict[str, float]:
        spent = {"step": self.spent.steps, "progress": share, "tokens": self.spent.tokens}
        return {**spent, "flops": self.spent.flops, "train_seconds": self.spent.seconds}

    def _agreed_to_save(self) -> bool:
        due = time.monotonic() - self.saved_at >= self.compute.checkpoint_every_seconds
        return bool(self._rank0_value(float(due or (self.out / NOTICE).exists())))

    def _save(self) -> None:
        """Copy what a checkpoint holds, and let rank 0 write it while training goes on; after a notice, before."""
        began = time.monotonic()
        tensors = checkpoint.gather_optimiser(self.optimiser, self.engine.module, self.compute.zero_stage)
        window = {**asdict(self.window), "loss": self._sum_over_ranks(self.window.loss)}
        state = {"spent": asdict(self.spent), "validations": self.validations, "history": list(self.history),
                 "latest_validation": self.latest_validation, "window": window,
                 "samples": self._samples()}  # fmt: skip
        if self.rank == 0:
            weights, moments = checkpoint.copy_weights(self.engine.module), checkpoint.copy_state(tensors)

            def write(folder: Path) -> None:
                save_unit_lm(self.engine.module, folder / "model", weights)
                checkpoint.write_optimiser(folder, moments)
                checkpoint.write_state(folder, state)

            self.saver.save(self.spent.steps, write)
            if (self.out / NOTICE).exists():
                self.saver.wait()
                (self.out / NOTICE).unlink()
        self.saved_at = time.monotonic()
        self.window.checkpoint_seconds += self.saved_at - began

    def finish(self) -> dict[str, Any]:
        """Write the model, or the state, and the curves; facts for the manifest."""
        samples = self._samples()
        if self.rank == 0:
            if self.part.until:
                # without a step of its own, the step that ended the part before passed this one's end too
                last = checkpoint.newest_complete(self.out / CHECKPOINTS) or self.part.after
                assert last is not None, "the last step of a part writes one"
                shutil.rmtree(self.out / "state", ignore_errors=True)
                shutil.copytree(last, self.out / "state")
            else:
                save_unit_lm(self.engine.module, self.out / "model")
            store.write_json(self.out / "history.json", self.history)
        return {**self._spent(progress(self.budget, self.spent)), **self.latest_validation, "workers": self.world,
                "samples": samples, "shared_seconds": self.shared_seconds}  # fmt: skip

    def _samples(self) -> str:
        """The hash of the samples that all ranks together have trained on."""
        return checkpoint.add_over_ranks(self.seen)

    def _sum_over_ranks(self, value: float) -> float:
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.item()

    def _rank0_value(self, value: float) -> float:
        """What rank 0 says: decisions that depend on a clock are taken there alone."""
        if self.world == 1:
            return value
        dist.broadcast(told := torch.tensor(value, dtype=torch.float64, device=self.device), src=0)
        return told.item()


def make_engine(
    model: PreTrainedModel, config: PretrainSettings, compute: Compute, accumulation: int
) -> tuple[deepspeed.DeepSpeedEngine, torch.optim.Optimizer]:
    """A DeepSpeed engine with float32 weights and gradients and bf16 matrix products (torch autocast)."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    buckets = dict.fromkeys(("reduce_bucket_size", "allgather_bucket_size"), bucket_elements(count_parameters(model)))
    settings = {
        "train_micro_batch_size_per_gpu": compute.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optim.clip_norm if compute.zero_stage > 0 else 0.0,
        "zero_optimization": {"stage": compute.zero_stage, **buckets},
        "torch_autocast": {"enabled": compute.precision == "bfloat16", "dtype": "bfloat16"},
        "communication_data_type": "fp32",
        "steps_per_print": None,
    }
    optimiser = make_optimiser(model, config.optim)
    engine, wrapped, _, _ = deepspeed.initialize(
        model=model, optimizer=optimiser, config=settings, dist_init_required=False
    )
    engine.train()
    return engine, wrapped
