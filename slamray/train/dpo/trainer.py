"""TRL's DPOTrainer for unit ids: the one narrow adapter, and the callback through which a `Run` leads it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch
import transformers
from trl.trainer.dpo_trainer import DPOTrainer

from slamray.config.training import DpoSettings
from slamray.model.unit_lm import flops_per_token, save_unit_lm
from slamray.stage.work import Metrics
from slamray.tokens.sampler import batch_rows
from slamray.train.checkpoint import copy_state, gather_optimiser, read_optimiser, write_optimiser
from slamray.train.dpo.pairs import PairTokens, StepBatches, autocast
from slamray.train.loop import Run, Write
from slamray.train.optim import learning_rate

TRL_TESTED = "1.16."  # the adapter overrides TRL's internals; tests/train/test_dpo.py holds their golden values
ENDLESS = 10**9  # steps of a run that is not bounded by steps: more than anybody can pay for
START_SCORES = "start_scores.npy"  # log-likelihoods of training and held-out pairs under the reference


class Lead(transformers.TrainerCallback):
    """Leads transformers' loop by a `Run`: learning rate of each step, end, checkpoints, evaluations, reports.

    Time runs from a step's first forward to the end of its update; waiting for data, saving, evaluating and reporting
    are off the clock. Tokens are those of both sequences of each pair, FLOPs 6 x parameters x tokens (docs/paper.md
    1.9), the reference not counted.
    """

    def __init__(
        self, run: Run, config: DpoSettings, batches: StepBatches, pairs: Sequence[PairTokens], parameters: int
    ) -> None:
        self.run, self.config, self.batches = run, config, batches
        self.evaluate: Callable[[], dict[str, float]] | None = None  # on every rank, the same result
        self._flops_per_token = flops_per_token(parameters)
        self._tokens_P = np.array([pair.tokens for pair in pairs])
        self._rate = 0.0
        self._unreported: Metrics | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.run.begin_step()
        self._rate = learning_rate(self.config.optim, self.run.progress)
        for group in kwargs["optimizer"].param_groups:
            group["lr"] = self._rate

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run, config = self.run, self.config
        pairs = batch_rows(config.seed, run.spent.steps, len(self._tokens_P), config.pairs_per_step)
        tokens = int(self._tokens_P[pairs].sum())
        run.end_step(tokens, self._flops_per_token * tokens)
        run.samples = self.batches.seen
        control.should_save = run.save_due() and not run.ended
        control.should_training_stop = run.ended

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """transformers gathers what it logs after each step: it is the same on every rank."""
        if "loss" not in logs:  # the summary that it logs at the end
            return
        names = logs.keys() - {"epoch", "num_tokens"}
        self.run.add({name: logs[name] for name in names})
        evaluates = self.config.evaluations > 0 and self.run.passed(self.config.evaluations)
        if not (self.run.report_due() or evaluates):
            return
        metrics = self._metrics(names)
        if self.evaluate and evaluates:
            metrics |= self.evaluate()
        self.run.history.append(metrics)
        if control.should_save:
            self._unreported = metrics  # until the checkpoint is on its way
        else:
            self.run.report(metrics)

    def _metrics(self, names: set[str]) -> Metrics:
        """Means of what was logged since the last report, and what was spent."""
        window, run = self.run.close_window(), self.run
        pairs, seconds = run.spent.steps * self.config.pairs_per_step, run.spent.seconds
        return {
            **{name: window[name] / window["steps"] for name in names},
            **run.described(),
            "learning_rate": self._rate,
            "pairs": pairs,
            "workers": run.world,
            "pairs_per_second": pairs / seconds,
            "tokens_per_second": run.spent.tokens / seconds,
        }

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics, self._unreported = self._unreported, None
        if metrics:
            self.run.report(metrics)


class UnitDPOTrainer(DPOTrainer):
    """DPOTrainer for data that is already token ids, in an order that is already decided."""

    def __init__(
        self,
        lead: Lead,
        dtype: str,
        start_P2: npt.NDArray[np.float64],
        **kwargs: Any,
    ) -> None:
        self.lead, self._dtype, self._start_P2 = lead, dtype, start_P2
        super().__init__(callbacks=[lead], **kwargs)

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
            rows, batch_sampler=self.lead.batches, collate_fn=self.data_collator, num_workers=0
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
        if self.lead.run.newest is not None:
            read_optimiser(self.lead.run.newest, self._engine.optimizer, self.unit_lm, self._zero_stage)
        return prepared

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self.lead.run.save(self._snapshot)

    def _snapshot(self) -> Write | None:
        """Weights, optimiser, the reference's scores.

        There is no random state to keep: dropout is off and the order of the pairs is a function of the step.
        """
        weights = self.gather_weights()
        tensors = gather_optimiser(self._engine.optimizer, self.unit_lm, self._zero_stage)
        if self.args.process_index > 0:
            return None
        moments = copy_state(tensors)

        def write(folder: Path) -> None:
            save_unit_lm(self.unit_lm, folder / "model", weights)
            write_optimiser(folder, moments)
            np.save(folder / START_SCORES, self._start_P2)

        return write

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
