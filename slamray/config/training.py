"""Settings of optimisers, pre-training, the text LM and DPO."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from slamray.config.base import Chosen, Settings
from slamray.config.budget import parse_budget
from slamray.errors import BadInput


class AdEMAMixSettings(Settings):
    """AdEMAMix's slow mean of gradients (arXiv 2409.03137); its fast mean and its square use AdamW's betas."""

    beta3: float = Field(0.9999, ge=0, lt=1, description="decay of the slow mean; unstated in the paper, 2409.03137")
    alpha: float = Field(
        5.0, ge=0, description="weight of the slow mean; unstated in the paper, default of bitsandbytes and HF Trainer"
    )
    warmup_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the budget over which alpha and beta3 rise; unstated there; 2409.03137, algorithm 1",
    )


class AdaLomoSettings(Settings):
    """AdaLomo's factored second moment and grouped update normalisation (arXiv 2310.10195, its released defaults)."""

    decay_rate: float = Field(-0.8, lt=0, description="the second moment's decay at step t is 1 - t^decay_rate")
    clip_threshold: float = Field(1.0, gt=0, description="largest root mean square of a matrix's update")
    epsilon_gradient: float = Field(1e-30, gt=0, description="added to squared gradients")
    epsilon_weight: float = Field(1e-3, gt=0, description="least root mean square of a matrix that scales its update")


class OptimSettings(Settings):
    """The optimiser and its schedule; pre-training, the text LM and DPO share it and differ in values."""

    name: Literal["adamw", "ademamix", "adalomo"] = Field(
        "adamw", description="Table 4; the others are of figure 4, in pre-training and under ZeRO 0"
    )
    ademamix: Annotated[AdEMAMixSettings, Chosen("name")] = AdEMAMixSettings()
    adalomo: Annotated[AdaLomoSettings, Chosen("name")] = AdaLomoSettings()
    learning_rate: float = Field(1e-3, gt=0, description="peak (Table 4)")
    schedule: Literal["cosine", "linear", "inverse_sqrt", "constant", "wsd"] = Field(
        "cosine", description="after a linear warm-up (Table 4; linear: 2411.17607)"
    )
    floor_learning_rate: float = Field(5e-5, ge=0, description="where cosine, linear and wsd end (Table 4)")
    warmup_share: float = Field(0.01, ge=0, lt=1, description="share of the budget (docs/paper.md 1.5: 1 %)")
    decay_share: float = Field(
        0.2, gt=0, le=1, description="wsd only: share of the budget that decays; chosen, not tuned"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="unstated in the paper; torch's and HF Trainer's default")
    beta2: float = Field(0.999, ge=0, lt=1, description="unstated in the paper; torch's and HF Trainer's default")
    epsilon: float = Field(1e-8, gt=0, description="unstated in the paper; torch's and HF Trainer's default")
    weight_decay: float = Field(0.0, ge=0, description="unstated in the paper; HF Trainer's default")
    clip_norm: float = Field(0.5, gt=0, description="global gradient norm is clipped to this (docs/paper.md 1.5)")

    @property
    def decay_start(self) -> float:
        """The progress at which wsd begins to decay."""
        return max(self.warmup_share, 1.0 - self.decay_share)

    @model_validator(mode="after")
    def _floor_below_peak(self) -> OptimSettings:
        if self.floor_learning_rate > self.learning_rate:
            raise ValueError(
                f"floor_learning_rate {self.floor_learning_rate} is above learning_rate {self.learning_rate}"
            )
        return self


def _check_budget(text: str) -> str:
    parse_budget(text, "budget")
    return text


def _check_steps_or_time(text: str) -> str:
    if parse_budget(text, "budget").kind not in ("steps", "time"):
        raise BadInput(f"budget={text!r}: this training counts no tokens or FLOPs; write steps:1500 or time:20m")
    return text


BudgetWord = Annotated[str, AfterValidator(_check_budget)]
StepsOrTime = Annotated[str, AfterValidator(_check_steps_or_time)]


class PretrainSettings(Settings):
    """Pre-training on packed rows (docs/paper.md 1.5, Table 4)."""

    budget: BudgetWord = Field(
        "time:23h30m", description="steps:N, tokens:N, flops:N or time:1h30m of optimiser time (Table 4: 23.5 h)"
    )
    trunk: BudgetWord | None = Field(
        None,
        description="wsd only: a budget of the same kind as `budget`, at least as large. The run warms up as a run of "
        "that budget would, so all runs with this trunk share their stable part, which is trained once; null: no trunk",
    )
    tokens_per_step: int = Field(
        131_072, ge=1, description="tokens of a global batch, padding included (Table 4: 128 x 1024)"
    )
    seed: int = Field(0, ge=0, description="initialisation of new weights and order of the rows")
    optim: OptimSettings = OptimSettings()
    validations: int = Field(
        10, ge=1, description="validations, evenly spaced over the budget, the last at its end; chosen, not tuned"
    )
    validation_rows: int = Field(
        512,
        ge=1,
        description="contexts of the validation split's first rows, which each validation reads; chosen, not tuned",
    )


class DpoSettings(Settings):
    """Preference training (docs/paper.md 1.5, Table 5)."""

    budget: BudgetWord | None = Field(
        "time:30m",
        description="steps:N, tokens:N, flops:N or time:30m of optimiser time (Table 5: 0.5 h, about 813 steps); "
        "null: no DPO",
    )
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference (Table 5)")
    pairs_per_step: int = Field(64, ge=1, description="pairs of a global batch (Table 5: 4 x 16)")
    context: int = Field(
        1024,
        ge=16,
        description="longest prompt and continuation in tokens; longer pairs are dropped and counted (Table 5)",
    )
    seed: int = Field(0, ge=0, description="order of the pairs")
    evaluations: int = Field(
        0,
        ge=0,
        description="how often held-out pairs are scored and their prompts continued in DPO; sweep.stop needs it",
    )
    optim: OptimSettings = OptimSettings(learning_rate=5e-5, schedule="inverse_sqrt", floor_learning_rate=0.0)
