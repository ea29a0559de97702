"""Pairs of which prompt and ending are each heard or read: four ways to score a passage's ending under a joint model.

`evaluate.scored=continuation`: the score of a side is the log-likelihood of its ending alone, given the prompt, among
the ids of the ending's modality (as interleaved_lm and slm_scaling score; docs/paper.md 2.7). `sequence` is slamkit's
rule: the mean over the whole sequence, specials and tags included, among all ids. It takes the units of a prompt and
ending that are both heard from one sound, where that was encoded (published sets); else from two. slamkit itself joins
a prompt and an ending in text without a blank, and delimits sequences as the text tokeniser does, Qwen's not at all
(metric/cross_modal_metric.py at 388b402); here a blank stands between, and <S> delimits as in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedModel

from slamray.config.evaluation import Scored
from slamray.data.item_pairs import ItemPair
from slamray.data.published_sets import joined_id
from slamray.evaluate.metrics import Modality
from slamray.evaluate.pair_scores import Normalise, correctness
from slamray.evaluate.summary import PairScore
from slamray.model.log_likelihood import BATCH_TOKENS, pair_log_likelihoods
from slamray.tokens.documents import Document, join_units
from slamray.tokens.joint_documents import Encode
from slamray.tokens.vocabulary import Vocabulary


def judge_across(
    model: PreTrainedModel,
    pairs: Sequence[ItemPair],
    units: Mapping[str, np.ndarray],
    encode: Encode,
    vocabulary: Vocabulary,
    prompt: Modality,
    ending: Modality,
    scored: Scored = "continuation",
    normalise: Normalise = "mean",
    batch_tokens: int = BATCH_TOKENS,
) -> list[PairScore]:
    """The scores of each pair, in their order. units: deduplicated, by utterance id; of heard sides alone."""
    documents = [
        across(pair, side, text, units, encode, vocabulary, prompt, ending, scored)
        for pair in pairs
        for side, text in ((pair.chosen, pair.chosen_text), (pair.rejected, pair.rejected_text))
    ]
    drawn = None
    if scored == "continuation":
        drawn = vocabulary.unit_ids if ending == "speech" else vocabulary.text_ids
    sums, targets = pair_log_likelihoods(model, documents, batch_tokens, drawn)
    scores = (sums / targets if normalise == "mean" else sums).reshape(-1, 2).tolist()
    return [
        PairScore(pair.pair_id, pair.metric, pair.part, pair.item, chosen, rejected, correctness(chosen, rejected))
        for pair, (chosen, rejected) in zip(pairs, scores, strict=True)
    ]


def across(
    pair: ItemPair,
    side: Sequence[str],
    side_text: str,
    units: Mapping[str, np.ndarray],
    encode: Encode,
    vocabulary: Vocabulary,
    prompt: Modality,
    ending: Modality,
    scored: Scored,
) -> Document:
    """`<S> <tag> prompt [<tag>] ending`, a second tag where the modality changes; <S> ends it where all is scored."""
    tags = {"speech": vocabulary.speech_tag, "text": vocabulary.text_tag}
    heard = join_units([units[key] for key in pair.prompt]) if prompt == "speech" else None
    before = encode(pair.prompt_text) if heard is None else vocabulary.to_tokens(heard).tolist()
    if ending == "text":
        after = encode(f" {side_text}" if before else side_text)
    else:
        own = join_units([units[key] for key in side])
        as_one = units.get(joined_id(pair.prompt, side)) if heard is not None and scored == "sequence" else None
        if as_one is not None:
            before, own, heard = vocabulary.to_tokens(as_one).tolist(), as_one[:0], None
        joined = own if heard is None else join_units([heard, own])[len(heard) :]
        after = vocabulary.to_tokens(joined).tolist()
    ids = [vocabulary.bos]
    if before:
        ids += [tags[prompt], *before]
    if not before or prompt != ending:
        ids.append(tags[ending])
    first, end = len(ids), [vocabulary.bos] if scored == "sequence" else []
    ids += [*after, *end]
    mask = np.ones(len(ids), np.bool_)
    if scored == "continuation":
        mask[:first] = False
    return Document(np.array(ids, vocabulary.dtype), mask)
