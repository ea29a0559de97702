"""Metric `text_perplexity`: what a model of text and speech has forgotten of the text that its text LM knew.

Both are asked for the same tokens of held-out texts, with text tokens alone in the softmax. The text LM is `model.base`
as it was before anything was added or trained, and reads texts without the tag that it has never seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from slamray.config.evaluation import ScoringSettings
from slamray.errors import BadInput
from slamray.evaluate.metrics import Material
from slamray.model.log_likelihood import log_likelihoods
from slamray.tokens.documents import Document
from slamray.tokens.vocabulary import Vocabulary

LONGEST_TOKENS = 512  # of a text, from its beginning: what small models have as their context; chosen, not tuned


@dataclass(frozen=True)
class TextPerplexity:
    """perplexity: exp(loss). loss: nats a token. base_..: of the text LM before; forgotten: loss - base_loss.

    targets: tokens that were predicted, of so many texts. Those of the base are None where it is a shape.
    """

    perplexity: float
    loss: float
    base_perplexity: float | None
    base_loss: float | None
    forgotten: float | None
    targets: int
    texts: int


def measure_text_perplexity(model: PreTrainedModel, material: Material, scoring: ScoringSettings) -> TextPerplexity:
    """Of validation texts, each cut to its first LONGEST_TOKENS."""
    vocabulary = material.vocabulary
    texts = list(_first(material.texts(), scoring.perplexity_tokens))
    if not texts:
        raise BadInput("text_perplexity: the text has no validation documents; raise corpus.validation_share")
    loss, targets = _loss(model, texts, vocabulary, (vocabulary.text_tag,), material.batch_tokens)
    text_lm = material.text_lm()
    base = None if text_lm is None else _loss(text_lm, texts, vocabulary, (), material.batch_tokens)[0]
    return TextPerplexity(
        math.exp(loss),
        loss,
        None if base is None else math.exp(base),
        base,
        None if base is None else loss - base,
        targets,
        len(texts),
    )


def _first(texts: Iterable[Sequence[int]], at_most_tokens: int) -> Iterator[Sequence[int]]:
    """The first texts, each cut, until there are so many tokens."""
    left = at_most_tokens
    for ids in texts:
        if left <= 0:
            return
        yield ids[:LONGEST_TOKENS]
        left -= min(len(ids), LONGEST_TOKENS)


def _loss(
    model: nn.Module, texts: Sequence[Sequence[int]], vocabulary: Vocabulary, tag: Sequence[int], batch_tokens: int
) -> tuple[float, int]:
    documents = [text_document(ids, vocabulary, tag) for ids in texts]
    sums, targets = log_likelihoods(model, documents, batch_tokens, vocabulary.text_ids)
    return -float(sums.sum()) / int(targets.sum()), int(targets.sum())


def text_document(ids: Sequence[int], vocabulary: Vocabulary, tag: Sequence[int]) -> Document:
    """`<S> [tag] text <S>`, of which text and the last <S> are targets."""
    whole = np.array([vocabulary.bos, *tag, *ids, vocabulary.bos], vocabulary.dtype)
    mask = np.ones(len(whole), np.bool_)
    mask[: 1 + len(tag)] = False
    return Document(whole, mask)
