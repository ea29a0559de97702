"""Learning from a teacher's probabilities: the pre-training of a language model with a larger one beside it.

Legend: N targets of a micro-batch, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import torch

from slamray.config.compute import Compute
from slamray.config.training import PretrainSettings
from slamray.tokens.rows import Batch, RowStore
from slamray.train import zero
from slamray.train.objective import summed_cross_entropy, summed_divergence
from slamray.train.pretrain import Pretraining


class Distilling(Pretraining):
    """The trainable: a student in DeepSpeed's engine, and on each device a whole teacher of the same vocabulary."""

    def __init__(
        self,
        teacher: Path,
        share: float,
        config: PretrainSettings,
        compute: Compute,
        start: Path,
        train_rows: RowStore,
        validation_rows: RowStore,
    ) -> None:
        """teacher: its folder. share: its weight in the loss; the text's own tokens have the rest."""
        super().__init__(config, compute, start, train_rows, validation_rows)
        self.share = share
        self.teacher = zero.load_lm(teacher, self.attention, 0, self.device).eval()
        self.bfloat16 = compute.precision == "bfloat16"

    def loss(self, batch: Batch) -> torch.Tensor:
        """Both parts of the loss, summed over the batch's valid targets, in nats."""
        (logits_NV,), targets_N = self.logits_of([self.engine], batch)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            (taught_NV,), _ = self.logits_of([self.teacher], batch)
        own = summed_cross_entropy(logits_NV, targets_N)
        return self.share * summed_divergence(logits_NV, taught_NV, targets_N) + (1 - self.share) * own
