"""Stage `text_rows`: a tokeniser of the corpus's training text, both splits packed, and the untrained text LM."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from slamray.config.base import part_of
from slamray.config.training import TextLmShape
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN, VALIDATION
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import corpus
from slamray.stages.checkpoints import MODEL

TOKENISER = "tokeniser"


def stage(recipe: Recipe, documents: Stage) -> Stage:
    """From the training split of the documents."""
    text_lm = recipe.assets.text_lm
    return Stage(
        "text_rows", run, {"shape": part_of(text_lm, TextLmShape), "seed": text_lm.pretrain.seed}, (documents,)
    )


def run(inputs: Inputs, out: Folder, machine: Machine, shape: TextLmShape, seed: int) -> dict[str, Any]:
    """Facts count rows, tokens and targets of each split."""
    facts: dict[str, Any] = machine.call("text_rows", partial(_make, inputs["corpus"], out, shape, seed))
    return facts


def _make(documents: Folder, out: Folder, shape: TextLmShape, seed: int) -> dict[str, Any]:
    from slamray.model.small_lm import build_text_lm, encode_documents, text_vocabulary, train_tokeniser
    from slamray.tokens.rows import write_rows

    texts = {split: [document.text for document in corpus.read(documents, split)] for split in (TRAIN, VALIDATION)}
    out.write_tree(TOKENISER, partial(train_tokeniser, texts[TRAIN], shape.vocab_size))
    out.write_tree(MODEL, build_text_lm(shape, seed).save_pretrained)
    tokeniser = out.fetch(TOKENISER)
    vocabulary = text_vocabulary(tokeniser)
    packed = {split: encode_documents(found, tokeniser, vocabulary) for split, found in texts.items()}
    facts: dict[str, Any] = {}

    def write(split: str, path: Path) -> None:
        facts[split] = write_rows(path, packed[split], vocabulary, shape.context)

    for split in packed:
        out.write_tree(split, partial(write, split))
    return facts
