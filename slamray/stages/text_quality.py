"""Stage `text_quality`: what a text LM knows of stories and of grammar, on items that no model was trained on.

The items are those that speech is measured on, as text: of two endings the model should find the right one likelier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from slamray.config.evaluation import ItemsSettings
from slamray.config.tree import Recipe
from slamray.data.corpus_items import CorpusText, grammar, sentence_order, topic_cloze
from slamray.data.item_pairs import ItemPair, merge
from slamray.data.text import EVALUATION, TRAIN
from slamray.evaluate.pair_scores import correctness
from slamray.evaluate.summary import ItemSummary, PairScore, summarise_items
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import corpus
from slamray.stages.checkpoints import MODEL
from slamray.stages.items import MOST_DOCUMENTS, no_voice
from slamray.tokens.documents import Document

if TYPE_CHECKING:
    from slamray.model.text_tokeniser import TextTokeniser


@dataclass(frozen=True)
class TextQuality:
    """bytes: of the model's weights. metrics: the summary of each over all its items."""

    bytes: int
    metrics: Mapping[str, ItemSummary]


def stage(recipe: Recipe, text: Stage, text_lm: Stage) -> Stage:
    """text: the corpus that the text LM read, whose evaluation split the items are made of."""
    settings = {"items": recipe.evaluate.items, "interval": recipe.evaluate.interval}
    return Stage("text_quality", run, settings, (text, text_lm))


def run(inputs: Inputs, out: Folder, machine: Machine, items: ItemsSettings, interval: float) -> TextQuality:
    """Score the model's items in one task."""
    text, text_lm = inputs.values()
    facts: TextQuality = machine.call("text_quality", partial(_measure, text, text_lm / MODEL, items, interval))
    return facts


def _measure(text: Folder, model: Folder, items: ItemsSettings, interval: float) -> TextQuality:
    from slamray.model.log_likelihood import log_likelihoods
    from slamray.model.text_tokeniser import TextTokeniser
    from slamray.model.unit_lm import load_unit_lm

    folder = model.fetch()
    tokeniser = TextTokeniser(str(folder))
    pairs = _pairs(text, items)
    documents = [
        _document(pair.prompt_text, ending, tokeniser)
        for pair in pairs
        for ending in (pair.chosen_text, pair.rejected_text)
    ]
    sums, targets = log_likelihoods(load_unit_lm(folder), documents)
    scores: dict[str, list[PairScore]] = {}
    for pair, (chosen, rejected) in zip(pairs, (sums / targets).reshape(-1, 2).tolist(), strict=True):
        correct = correctness(chosen, rejected)
        score = PairScore(pair.pair_id, pair.metric, pair.part, pair.item, chosen, rejected, correct)
        scores.setdefault(pair.metric, []).append(score)
    found = {metric: summarise_items(own, confidence=interval)[0] for metric, own in scores.items()}
    return TextQuality((folder / "model.safetensors").stat().st_size, found)


def _pairs(text: Folder, items: ItemsSettings) -> Sequence[ItemPair]:
    def train(at_most: int) -> Iterator[str]:
        return (document.text for document in corpus.read(text, TRAIN, at_most))

    documents = list(corpus.read(text, EVALUATION, MOST_DOCUMENTS))
    found = CorpusText(documents, train, None, items, no_voice)
    makers = {"topic_cloze": topic_cloze, "sentence_order": sentence_order, "grammar": grammar}
    return merge(*(make(found, items.pairs(name)) for name, make in makers.items() if items.pairs(name))).pairs


def _document(prompt: str, ending: str, tokeniser: TextTokeniser) -> Document:
    """`<S> prompt ending`, of which the ending alone is a target."""
    before = tokeniser(prompt) if prompt else []
    after = tokeniser(f" {ending}" if prompt else ending)
    mask = np.arange(1 + len(before) + len(after)) > len(before)
    return Document(np.array([tokeniser.vocabulary.bos, *before, *after], np.uint32), mask)
