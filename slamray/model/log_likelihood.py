"""Summed log-likelihoods of documents under a causal LM: what evaluation and DPO score sequences by.

Shapes: N documents, B documents of a batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from slamray.model.shared_prompt import Sides, pair_rows, side_log_likelihoods
from slamray.tokens.documents import Document

BATCH_TOKENS = 8192  # padded tokens in a forward pass: the memory of the logits, not the result; chosen, not tuned
_UNSEEN = 0  # id at padded places, which attention does not see and no score counts: any id would do


def log_likelihoods(
    model: nn.Module,
    documents: Sequence[Document],
    batch_tokens: int = BATCH_TOKENS,
    drawn: range | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """(sum of log-likelihoods in nats (N,) float64, number of targets (N,) int64) of each document.

    Documents are sorted by length into batches of at most batch_tokens padded tokens (always at least one), so the
    result does not depend on the batch: load the model in float32 for that to hold to 1e-5. model: a transformers
    causal LM; run on the device its weights are on. drawn: the ids that a target is one of, and that alone take part in
    the softmax; None: all ids.
    """
    _check_lengths(documents)
    sums = np.zeros(len(documents))
    with _evaluating(model):
        for rows in _batches([len(document) for document in documents], batch_tokens):
            sums[rows] = score_batch(model, [documents[row] for row in rows], drawn).cpu().numpy()
    return sums, _targets(documents)


def pair_log_likelihoods(
    model: PreTrainedModel,
    documents: Sequence[Document],
    batch_tokens: int = BATCH_TOKENS,
    drawn: range | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The same of pairs, two documents each, one after the other: what both of a pair begin with is read once."""
    _check_lengths(documents)
    pairs = [Sides(*both, shared=_shared(*both)) for both in zip(documents[::2], documents[1::2], strict=True)]
    device, attention = next(model.parameters()).device, model.config._attn_implementation
    sums_P2 = np.zeros((len(pairs), 2))
    with _evaluating(model):
        for rows in _batches([pair.row for pair in pairs], batch_tokens):
            batch = pair_rows([pairs[row] for row in rows]).to(device)
            sums_P2[rows] = side_log_likelihoods(model, batch, attention, drawn).cpu().numpy()
    return sums_P2.reshape(-1), _targets(documents)


def _check_lengths(documents: Sequence[Document]) -> None:
    assert all(len(document) >= 2 for document in documents), "a sequence needs at least one target"


def _shared(one: Document, other: Document) -> int:
    """How many ids two documents begin with alike."""
    least = min(len(one), len(other))
    differ = one.ids[:least] != other.ids[:least]
    return int(differ.argmax()) if differ.any() else least


def _targets(documents: Sequence[Document]) -> npt.NDArray[np.int64]:
    return np.array([document.targets.sum() for document in documents], np.int64)


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Numbers of rows by length, so many that they are at most batch_tokens long together with their padding."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and lengths[order[end]] * (end + 1 - start) <= batch_tokens:
            end += 1
        yield order[start:end]
        start = end


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients, and the model's mode afterwards as it was."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        yield
    model.train(was_training)


def score_batch(model: nn.Module, documents: Sequence[Document], drawn: range | None = None) -> torch.Tensor:
    """Sums of log-likelihoods (B,) float64 in nats over each document's targets, in one forward pass."""
    device = next(model.parameters()).device
    lengths_B = torch.tensor([len(document) for document in documents])
    tokens_BT = torch.full((len(documents), int(lengths_B.max())), _UNSEEN, dtype=torch.long)
    scored_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    for row, document in enumerate(documents):
        tokens_BT[row, : len(document)] = torch.as_tensor(document.ids.astype(np.int64))
        scored_BT[row, : len(document)] = torch.as_tensor(document.targets)
    seen_BT = (torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]).long()
    tokens_BT, scored_BT, seen_BT = tokens_BT.to(device), scored_BT.to(device), seen_BT.to(device)
    logits_BTV = model(input_ids=tokens_BT, attention_mask=seen_BT, use_cache=False).logits.float()
    next_BT = tokens_BT.roll(-1, dims=1)  # the last place predicts nothing that is scored
    if drawn is not None:
        logits_BTV = logits_BTV[..., drawn.start : drawn.stop]
        next_BT = torch.where(scored_BT.roll(-1, dims=1), next_BT - drawn.start, 0)
    nll_BT = nn.functional.cross_entropy(logits_BTV.flatten(0, 1), next_BT.flatten(), reduction="none").view_as(next_BT)
    return -(nll_BT[:, :-1].double() * scored_BT[:, 1:]).sum(1)
