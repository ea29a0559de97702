"""TRL's DPOTrainer for unit ids: the one narrow adapter, and the callback through which a `Run` leads it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import transformers
from trl.trainer.dpo_trainer import DPOTrainer

from slamray.config.compute import Compute
from slamray.config.training import DpoSettings
from slamray.model.shared_prompt import PairRows, pair_rows, side_log_likelihoods
from slamray.model.unit_lm import flops_per_token
from slamray.stage.work import EACH_STEP, Metrics
from slamray.tokens.sampler import batch_rows
from slamray.train.checkpoint import read_optimiser, snapshot
from slamray.train.dpo.pair_scores import autocast
from slamray.train.dpo.pairs import PairTokens, StepBatches
from slamray.train.loop import Run, Write
from slamray.train.memory import pair_attention
from slamray.train.objective import dpo_loss
from slamray.train.optim import learning_rate
from slamray.train.zero import casts_are_not_kept

TRL_TESTED = "1.16."  # the adapter overrides TRL's internals; tests/train/test_dpo.py holds their golden values
ENDLESS = 10**9  # steps of a run that is not bounded by steps: more than anybody can pay for
MEANS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
START_SCORES = "start_scores.npy"  # log-likelihoods of training and held-out pairs under the reference


class Lead(transformers.TrainerCallback):
    """Leads transformers' loop by a `Run`: learning rate of each step, end, checkpoints, evaluations, reports.

    Time runs from a step's first forward to the end of its update; waiting for data, saving, evaluating and reporting
    are off the clock. Tokens are those of both sequences of each pair, so that the prompt counts twice although it is
    computed once; FLOPs are 6 x parameters x tokens (docs/paper.md 1.9), the reference not counted.
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
        self._each_step = run.history[-run.window_steps :] if run.window_steps else []  # since the last report

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
        step, spent = {name: logs[name] for name in names}, self._spent()
        self.run.add(step)
        row = step | spent  # the learning rate that transformers logs is none of this step
        self.run.history.append(row)
        self._each_step.append(row)
        evaluates = self.config.evaluations > 0 and self.run.passed(self.config.evaluations)
        if not (self.run.report_due() or evaluates):
            return
        window = self.run.close_window()
        if self.evaluate and evaluates:
            row |= self.evaluate()  # in the history, and in the report too
        means = {name: window[name] / window["steps"] for name in names}
        metrics = row | means | spent | {EACH_STEP: self._each_step}
        self._each_step = []
        if control.should_save:
            self._unreported = metrics  # until the checkpoint is on its way
        else:
            self.run.report(metrics)

    def _spent(self) -> Metrics:
        """What was spent until now, and how fast."""
        run = self.run
        pairs, seconds = run.spent.steps * self.config.pairs_per_step, run.spent.seconds
        return {
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
    """DPOTrainer for data that is already token ids, in an order that is already decided, with the prompt shared."""

    def __init__(
        self,
        lead: Lead,
        compute: Compute,
        pairs: Sequence[PairTokens],
        start_P2: npt.NDArray[np.float64],
        **kwargs: Any,
    ) -> None:
        """start_P2: the log-likelihoods of `pairs` under the reference, then those of the held-out pairs."""
        self.lead, self._compute, self._pairs, self._start_P2 = lead, compute, pairs, start_P2
        super().__init__(callbacks=[lead], data_collator=self.collate, **kwargs)
        device = self.accelerator.device
        self._reference_P2 = torch.from_numpy(start_P2[: len(pairs)]).to(device)
        self._sums = torch.zeros(len(MEANS) + 1, dtype=torch.float64, device=device)

    def collate(self, rows: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        """A micro-batch of the pairs with these numbers: the numbers, and `PairRows`."""
        numbers = [row["pair"] for row in rows]
        return {
            "numbers_P": torch.tensor(numbers),
            **vars(pair_rows([self._pairs[number].sides for number in numbers])),
        }

    def _prepare_dataset(self, dataset: datasets.Dataset, *args: Any, **kwargs: Any) -> datasets.Dataset:
        """TRL tokenises text here; these rows are numbers of pairs."""
        return dataset

    def _precompute_ref_logps(self, dataset: datasets.Dataset, *args: Any, **kwargs: Any) -> datasets.Dataset:
        """TRL runs the reference here and keeps the result in a cache of each rank; it is at hand."""
        return dataset

    def _compute_loss(self, model: torch.nn.Module, inputs: Mapping[str, Any], return_outputs: bool) -> torch.Tensor:
        """TRL's forward computes the prompt twice, and fetches a dozen numbers from the device each time."""
        assert not return_outputs
        batch = dict(inputs)
        reference_P2 = self._reference_P2[batch.pop("numbers_P")]
        scores_P2 = side_log_likelihoods(model, PairRows(**batch), pair_attention(self._compute))
        gains_P2 = scores_P2 - reference_P2
        with torch.no_grad():
            rewards_P2 = self.beta * gains_P2
            margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
            means = [*rewards_P2.mean(0), margins_P.mean(), (margins_P > 0).double().mean(), *scores_P2.mean(0)]
            self._sums += torch.stack([*means, torch.ones_like(means[0])])
        return dpo_loss(gains_P2, self.beta).float()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Beside what transformers logs after a step, the means over all its pairs, under TRL's names."""
        dist.all_reduce(self._sums)
        *sums, batches = self._sums.tolist()
        if batches:
            logs |= {name: total / batches for name, total in zip(MEANS, sums, strict=True)}
        self._sums.zero_()
        super().log(logs, start_time)

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
        stack.enter_context(casts_are_not_kept(self._compute.zero_stage))
        stack.enter_context(autocast(self.accelerator.device, self._compute.precision))
        return stack

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Continue from a checkpoint, whose weights the model was loaded with.

        transformers' own resume would skip data; our sampler starts at the step.
        """
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.lead.run.newest is not None:
            read_optimiser(self.lead.run.newest, self._engine.optimizer, self.unit_lm, self.zero_stage)
        return prepared

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self.lead.run.save(self._snapshot)

    def _snapshot(self) -> Write | None:
        """Weights, optimiser, the reference's scores; under ZeRO 3 each rank's own.

        There is no random state to keep: dropout is off and the order of the pairs is a function of the step.
        """
        write_model = snapshot(self.unit_lm, self._engine.optimizer, self.zero_stage)
        if write_model is None or self.args.process_index > 0:
            return write_model

        def write(folder: Path) -> None:
            write_model(folder)
            np.save(folder / START_SCORES, self._start_P2)

        return write

    @property
    def unit_lm(self) -> transformers.PreTrainedModel:
        """The model inside DeepSpeed's engine."""
        assert isinstance(self.model, transformers.PreTrainedModel)
        return self.model

    @property
    def _engine(self) -> Any:
        return self.model_wrapped

    @property
    def zero_stage(self) -> int:
        """Of DeepSpeed's engine."""
        return int(self._engine.zero_optimization_stage())
