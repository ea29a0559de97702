"""Stages `text_to_token_*`: a model that turns text into units without a sound, trained on `tts` documents.

    documents --> text_to_token_rows --v
    text_to_token_start ----------> text_to_token --> spoken_text (spoken_text.py)

It starts from a text LM, as the recipe's own model does, and has the same vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from slamray.config.model import ModelSettings, PackSettings
from slamray.config.training import PretrainSettings
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN, VALIDATION
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine, Metrics
from slamray.stages import joint_documents, pretraining, untrained
from slamray.stages.checkpoints import MODEL
from slamray.stages.packed import pack_apart_from_driver, write_documents
from slamray.tokens.vocabulary import Vocabulary

START, ROWS, NAME = "text_to_token_start", "text_to_token_rows", "text_to_token"


def model_of(recipe: Recipe) -> ModelSettings:
    """What the text-to-token model starts from."""
    return recipe.joint.text_to_token.model or recipe.model


def stage(recipe: Recipe, documents: Stage, vocabulary: Vocabulary) -> Stage:
    """The trained model, from documents of the kind `tts`."""
    pretrain = recipe.joint.text_to_token.pretrain
    rows = Stage(ROWS, pack_pairs, {"pack": recipe.pack, "vocabulary": vocabulary}, (documents,))
    settings = {"model": model_of(recipe), "vocabulary": vocabulary, "seed": pretrain.seed}
    start = Stage(START, untrained.run, settings)
    return Stage(NAME, run, {"pretrain": pretrain}, (start, rows), cost=lambda: f"trains for {pretrain.budget}")


def pack_pairs(
    inputs: Inputs, out: Folder, machine: Machine, pack: PackSettings, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Rows of texts, each with its units, which are learned."""
    work = partial(_packed_pairs, inputs["documents"], out, pack, vocabulary)
    return pack_apart_from_driver(machine, ROWS, work)


def _packed_pairs(documents: Folder, out: Folder, pack: PackSettings, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        split: write_documents(
            out / split, partial(joint_documents.read, documents, split, "tts"), vocabulary, pack, split
        )
        for split in (TRAIN, VALIDATION)
    }


def run(inputs: Inputs, out: Folder, machine: Machine, pretrain: PretrainSettings) -> Metrics:
    """Train by the pre-training loop: the loss mask of the documents says what is learned."""
    places = pretraining.Places(inputs[START] / MODEL, inputs[ROWS], out)
    return machine.train(NAME, partial(pretraining.train, places, pretrain, machine.compute, None, None), out)
