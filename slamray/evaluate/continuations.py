"""Metric `unit_auto_bleu`: how much the sampled continuations of validation prompts repeat themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from slamray.config.evaluation import ScoringSettings
from slamray.evaluate.metrics import Material
from slamray.model.sampling import continue_units, describe


@dataclass(frozen=True)
class Continuations:
    """What continuations of prompts came to; auto_bleu is None where all of them are empty (`describe`)."""

    continuations: int
    empty: int
    ended: int
    mean_units: float
    auto_bleu: float | None


def measure_auto_bleu(model: PreTrainedModel, material: Material, scoring: ScoringSettings) -> Continuations:
    """Sample a continuation of each of `sampling.prompts` prompts; the first `audio_samples` are kept as sound."""
    sampling = scoring.sampling
    chosen = material.prompts(sampling.prompts, sampling.seed)
    made = continue_units(model, chosen, sampling)
    for one in made[: scoring.audio_samples]:
        material.keep_sound(one.prompt_id, np.concatenate([one.prompt, one.units]))
    return Continuations(**describe(made))
