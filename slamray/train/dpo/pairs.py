"""Preference pairs as tokens: their layout, and the order they are seen in.

Shapes: P pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from slamray.config.training import DpoSettings
from slamray.errors import BadInput
from slamray.model.shared_prompt import Sides
from slamray.tokens.documents import Document
from slamray.tokens.sampler import add_hashes, batch_rows, rank_micro_batches, sample_hash
from slamray.tokens.vocabulary import Vocabulary
from slamray.train.ranks import rank_and_world


@dataclass(frozen=True)
class PairTokens:
    """A pair as token ids: `<S> prompt` | `chosen <S>` and `rejected <S>`; only the second parts are scored."""

    pair_id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def tokens(self) -> int:
        """Tokens of both sequences, specials included."""
        return 2 * len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)

    @property
    def longest(self) -> int:
        """Tokens of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def row(self) -> int:
        """Tokens of both sequences with the prompt once."""
        return len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)

    @property
    def sides(self) -> Sides:
        """Both sequences, which share the prompt."""
        prompt = len(self.prompt_ids)
        chosen, rejected = (
            Document(np.array([*self.prompt_ids, *ids], np.uint32), np.arange(prompt + len(ids)) >= prompt)
            for ids in (self.chosen_ids, self.rejected_ids)
        )
        return Sides(chosen, rejected, prompt)


def to_pair_tokens(
    pairs: Sequence[Mapping[str, Any]], vocabulary: Vocabulary, context: int
) -> tuple[list[PairTokens], Counter[str]]:
    """Pairs (`pair_id`, and `prompt`, `chosen`, `rejected` as unit lists) as tokens, in order of their ids.

    Nothing is ever truncated: a pair with a sequence longer than `context`, or without units in one part, is left
    out and counted by reason. BadInput when a unit is outside the model's vocabulary or an id stands twice.
    """
    kept: dict[str, PairTokens] = {}
    dropped: Counter[str] = Counter()
    for pair in sorted(pairs, key=lambda row: row["pair_id"]):
        prompt, chosen, rejected = (np.asarray(pair[part], dtype=np.int64) for part in ("prompt", "chosen", "rejected"))
        if not (prompt.size and chosen.size and rejected.size):
            dropped["no units in a part"] += 1
            continue
        units = np.concatenate([prompt, chosen, rejected])
        outside = units[(units < 0) | (units >= vocabulary.n_units)]
        if outside.size:
            raise BadInput(
                f"pair {pair['pair_id']}: unit {outside[0]} is outside the model's {vocabulary.n_units} units; "
                "encode the pairs with the quantiser that the model was trained on"
            )
        if pair["pair_id"] in kept:
            raise BadInput(f"pair {pair['pair_id']} stands twice; pair ids must be unique")
        begin, end = vocabulary.before_units, vocabulary.bos
        prompt_ids, *sides = (vocabulary.to_tokens(part).tolist() for part in (prompt, chosen, rejected))
        chosen_ids, rejected_ids = ([*side, end] for side in sides)
        tokens = PairTokens(pair["pair_id"], [*begin, *prompt_ids], chosen_ids, rejected_ids)
        if tokens.longest > context:
            dropped[f"longer than {context} tokens"] += 1
        else:
            kept[tokens.pair_id] = tokens
    return list(kept.values()), dropped


class StepBatches(torch.utils.data.Sampler[list[int]]):
    """The micro-batches of one rank, step after step: a batch sampler that needs no state to resume.

    The pairs of a step are sorted by length and cut in micro-batches, which are dealt to the ranks in turn: little
    padding, ranks of equal load, and the same micro-batches for any number of ranks.
    """

    def __init__(
        self, lengths: Sequence[int], config: DpoSettings, micro_batch: int, first_step: int, steps: int
    ) -> None:
        self._lengths_P = np.asarray(lengths)
        self._config, self._micro_batch = config, micro_batch
        self._steps = range(first_step, first_step + steps)
        self._rank, self._world = rank_and_world()
        self.seen = 0  # hash of the pairs that this rank was given (units.sample_hash)
        self._per_step = accumulation(config.pairs_per_step, micro_batch, self._world)

    def __len__(self) -> int:
        return len(self._steps) * self._per_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            pairs = batch_rows(self._config.seed, step, len(self._lengths_P), self._config.pairs_per_step)
            by_length = pairs[np.argsort(self._lengths_P[pairs], kind="stable")]
            for rows, _ in rank_micro_batches(by_length, self._rank, self._world, self._micro_batch):
                self.seen = add_hashes(self.seen, sample_hash(step, rows))
                yield rows.tolist()  # all count: `accumulation` refuses a batch that cannot be dealt evenly


def accumulation(pairs_per_step: int, micro_batch: int, world: int) -> int:
    """Micro-batches that each rank adds up in a step; BadInput with the numbers when the batch does not divide."""
    count, rest = divmod(pairs_per_step, micro_batch * world)
    if rest or not count:
        raise BadInput(
            f"dpo.pairs_per_step={pairs_per_step} is no multiple of compute.dpo_micro_batch={micro_batch} x "
            f"compute.workers={world}; change dpo_micro_batch or workers"
        )
    return count
