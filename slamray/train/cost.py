"""What a training run cost: parameters, FLOPs with attention, device seconds; facts that comparisons read.

Which pieces a step read follows from the seed, so attention is counted exactly and after training, off the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slamray.config.training import DpoSettings, PretrainSettings
from slamray.model.saved_vocabulary import model_vocabulary
from slamray.model.unit_lm import count_config_parameters, read_lm_config, training_flops
from slamray.tokens.rows import RowStore
from slamray.tokens.sampler import batch_rows
from slamray.tokens.vocabulary import Ints
from slamray.train.dpo.pairs import to_pair_tokens


def pretraining_cost(
    config: PretrainSettings, workers: int, model: Path, rows: RowStore, facts: Mapping[str, Any]
) -> dict[str, float]:
    """parameters, flops_with_attention and device_seconds of a pre-training whose facts hold step and train_seconds."""
    rows_per_step = config.tokens_per_step // rows.row_tokens
    times_R = np.zeros(rows.rows, dtype=np.int64)
    for step in range(int(facts["step"])):
        np.add.at(times_R, rows.rows_of_step(config.seed, step, rows_per_step), 1)
    return _cost(model, rows.lengths_P, np.repeat(times_R, np.diff(rows.offsets)), workers, facts)


def dpo_cost(
    config: DpoSettings, workers: int, model: Path, pairs: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> dict[str, float]:
    """The same of a preference training on these pairs; what the reference costs is left out, as in its `flops`."""
    tokens, _ = to_pair_tokens(
        pairs, model_vocabulary(read_lm_config(str(model)).to_dict(), str(model)), config.context
    )
    read = [batch_rows(config.seed, step, len(tokens), config.pairs_per_step) for step in range(int(facts["step"]))]
    times = np.bincount(np.concatenate(read), minlength=len(tokens))
    lengths = np.array([[len(p.prompt_ids) + len(end) for end in (p.chosen_ids, p.rejected_ids)] for p in tokens])
    return _cost(model, lengths.ravel(), np.repeat(times, 2), workers, facts)


def _cost(
    model: Path, lengths_P: npt.NDArray[np.integer], times_P: Ints, workers: int, facts: Mapping[str, Any]
) -> dict[str, float]:
    """lengths_P: tokens of a piece; times_P: how often it was read."""
    config = read_lm_config(str(model))
    parameters = count_config_parameters(config)
    length_P = lengths_P.astype(np.int64)
    tokens, pairs = int((times_P * length_P).sum()), int((times_P * (length_P * (length_P + 1) // 2)).sum())
    return {
        "parameters": parameters,
        "flops_with_attention": training_flops(config, parameters, tokens, pairs),
        "device_seconds": facts["train_seconds"] * workers,
    }
