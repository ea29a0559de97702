"""TRL's DPOTrainer for unit ids: the one narrow adapter, and the callback that spends the budget."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import transformers
from trl.trainer.dpo_trainer import DPOTrainer

from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.config.training import DpoSettings
from slamray.model.unit_lm import flops_per_token, save_unit_lm
from slamray.stage.work import CHECKPOINTS, NOTICE, Report
from slamray.tokens.sampler import batch_rows
from slamray.train.budget import Spent, progress
from slamray.train.checkpoint import (
    Saver,
    add_over_ranks,
    copy_state,
    gather_optimiser,
    read_optimiser,
    read_state,
    write_optimiser,
    write_state,
)
from slamray.train.dpo.pairs import PairTokens, StepBatches, autocast
from slamray.train.optim import learning_rate

TRL_TESTED = "1.16."  # the adapter overrides TRL's internals; tests/train/test_dpo.py holds their golden values
ENDLESS = 10**9  # steps of a run that is not bounded by steps: more than anybody can pay for
START_SCORES = "start_scores.npy"  # log-likelihoods of training and held-out pairs under the reference


class Conductor(transformers.TrainerCallback):
    """Spends the budget: sets the learning rate of each step, stops at the end, asks for checkpoints, reports.

    Time runs from a step's first forward to the end of its update; waiting for data, saving, evaluating and reporting
    are off the clock. Rank 0's clock decides, and is broadcast once a step. Tokens are those of both sequences of each
    pair, FLOPs 6 x parameters x tokens (docs/paper.md 1.9), the reference not counted.
    """

    def __init__(
        self,
        config: DpoSettings,
        compute: Compute,
        pairs: Sequence[PairTokens],
        parameters: int,
        checkpoint: Path | None,
        out: Path,
        report: Report,
    ) -> None:
        state: dict[str, Any] = {"spent": {}, "history": [], "window": {}, "window_steps": 0}
        if checkpoint:
            state = read_state(checkpoint)
        self.spent, self.history = Spent(**state["spent"]), state["history"]
        self._window: dict[str, float] = state["window"]  # sums since the last report
        self._window_steps: int = state["window_steps"]
        self.first_step_at: float | None = None
        self.evaluate: Callable[[], dict[str, float]] | None = None  # on every rank, the same result
        self._evaluation_due = False
        self._unreported: dict[str, Any] | None = None
        self.saver, self.notice = Saver(out / CHECKPOINTS), out / NOTICE
        self._config, self._compute, self._report = config, compute, report
        self._flops_per_token = flops_per_token(parameters)
        assert config.budget is not None, "a recipe without DPO has no such stage"
        self._budget = parse_budget(config.budget, "dpo.budget")
        self._tokens_P = np.array([pair.tokens for pair in pairs])
        self._rate = 0.0

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return progress(self._budget, self.spent)

    @property
    def steps_left(self) -> int:
        """Steps that transformers is told; the budget ends the run."""
        return int(self._budget.amount) - self.spent.steps if self._budget.kind == "steps" else ENDLESS

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began = time.perf_counter()
        if self.first_step_at is None:
            self.first_step_at = self._saved_at = self._step_began
        self._rate = learning_rate(self._config.optim, self.progress)
        for group in kwargs["optimizer"].param_groups:
            group["lr"] = self._rate

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        now = time.perf_counter()
        due = now - self._saved_at >= self._compute.checkpoint_every_seconds or self.notice.exists()
        decided = torch.tensor([now - self._step_began, float(due)], dtype=torch.float64, device=args.device)
        dist.broadcast(decided, src=0)
        seconds, due_on_rank_0 = decided.tolist()
        config = self._config
        pairs = batch_rows(config.seed, self.spent.steps, len(self._tokens_P), config.pairs_per_step)
        tokens = int(self._tokens_P[pairs].sum())
        evaluated = int(config.evaluations * self.progress)
        self.spent = self.spent.plus(tokens, self._flops_per_token * tokens, seconds)
        self._evaluation_due = int(config.evaluations * min(1.0, self.progress)) > evaluated
        control.should_training_stop = self.progress >= 1
        control.should_save = bool(due_on_rank_0) and not control.should_training_stop

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:  # the summary that transformers logs at the end
            return
        for name in logs.keys() - {"epoch", "num_tokens"}:
            self._window[name] = self._window.get(name, 0.0) + logs[name]
        self._window_steps += 1
        reports = control.should_training_stop or self._evaluation_due
        if self._window_steps < self._compute.report_every_steps and not reports:
            return
        kept = {name: total / self._window_steps for name, total in self._window.items()}
        self._window, self._window_steps = {}, 0
        spent, pairs = self.spent, self.spent.steps * self._config.pairs_per_step
        metrics = {
            **kept,
            "learning_rate": self._rate,
            "step": spent.steps,
            "progress": self.progress,
            "pairs": pairs,
            "workers": dist.get_world_size(),
            "tokens": spent.tokens,
            "flops": spent.flops,
            "train_seconds": spent.seconds,
            "pairs_per_second": pairs / spent.seconds,
            "tokens_per_second": spent.tokens / spent.seconds,
            **(self.evaluate() if self.evaluate and self._evaluation_due else {}),
        }
        self.history.append(metrics)
        if control.should_save:
            self._unreported = metrics  # until the checkpoint is on its way
        else:
            self._report(metrics)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_at = time.perf_counter()
        metrics, self._unreported = self._unreported, None
        if metrics:
            self._report(metrics)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this; the same on every rank, for transformers gathers what it logs."""
        window = {"window": dict(self._window), "window_steps": self._window_steps}
        return {"spent": asdict(self.spent), "history": list(self.history), **window}


class UnitDPOTrainer(DPOTrainer):
    """DPOTrainer for data that is already token ids, in an order that is already decided."""

    def __init__(
        self,
        batches: StepBatches,
        dtype: str,
        conductor: Conductor,
        start_P2: npt.NDArray[np.float64],
        resume_from: Path | None,
        **kwargs: Any,
    ) -> None:
        self.batches, self._dtype, self._conductor = batches, dtype, conductor
        self._start_P2, self._resume_from = start_P2, resume_from
        super().__init__(callbacks=[conductor], **kwargs)

    def _prepare_dataset(self, dataset: datasets.Dataset, *args: Any, **kwargs: Any) -> datasets.Dataset:
        """TRL tokenises text here; these rows hold prompt_ids, chosen_ids and rejected_ids."""
        return dataset

    def _precompute_ref_logps(self, dataset: datasets.Dataset, *args: Any, **kwargs: Any) -> datasets.Dataset:
        """TRL runs the reference here and keeps the result in a cache of each rank; these rows hold it."""
        return dataset

    def _send_telemetry(self) -> None:
        """A training run tells nobody about itself."""

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """Not prepared by accelerate: the batch sampler knows which rows are this rank's."""
        rows: Any = self.train_dataset
        return torch.utils.data.DataLoader(
            rows, batch_sampler=self.batches, collate_fn=self.data_collator, num_workers=0
        )

    def compute_loss_context_manager(self) -> contextlib.ExitStack:
        """autocast; accelerate leaves precision to DeepSpeed, whose bf16 mode would round the weights themselves."""
        stack = contextlib.ExitStack()
        stack.enter_context(autocast(self.accelerator.device, self._dtype))
        return stack

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Continue from a checkpoint, whose weights the model was loaded with.

        transformers' own resume would skip data; our sampler starts at the step.
        """
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self._resume_from is not None:
            read_optimiser(self._resume_from, self._engine.optimizer, self.unit_lm, self._zero_stage)
            if self.args.process_index == 0:
                self.batches.seen = int(read_state(self._resume_from)["samples"], 16)
        return prepared

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Weights, optimiser, the reference's scores, what was spent and reported; rank 0 writes.

        There is no random state to keep: dropout is off and the order of the pairs is a function of the step.
        """
        weights = self.gather_weights()
        tensors = gather_optimiser(self._engine.optimizer, self.unit_lm, self._zero_stage)
        samples = add_over_ranks(self.batches.seen)
        if self.args.process_index == 0:
            conductor, moments, state = (
                self._conductor,
                copy_state(tensors),
                self._conductor.state() | {"samples": samples},
            )

            def write(folder: Path) -> None:
                save_unit_lm(self.unit_lm, folder / "model", weights)
                write_optimiser(folder, moments)
                np.save(folder / START_SCORES, self._start_P2)
                write_state(folder, state)

            conductor.saver.save(conductor.spent.steps, write)
            if conductor.notice.exists():
                conductor.saver.wait()
                conductor.notice.unlink()

    def gather_weights(self) -> dict[str, torch.Tensor]:
        """A copy of the whole weights on rank 0's CPU, tied ones once; every rank takes part: ZeRO 3 gathers them."""
        gathered = self.accelerator.get_state_dict(self.model_wrapped)
        if self.args.process_index > 0:
            return {}
        # named_parameters holds tied weights once, as save_pretrained would
        return {name: gathered[name].to("cpu", copy=True) for name, _ in self.unit_lm.named_parameters()}

    @property
    def unit_lm(self) -> transformers.PreTrainedModel:
        """The model inside DeepSpeed's engine."""
        assert isinstance(self.model, transformers.PreTrainedModel)
        return self.model

    @property
    def _engine(self) -> Any:
        return self.model_wrapped

    @property
    def _zero_stage(self) -> int:
        return int(self._engine.zero_optimization_stage())
