"""Stage `text_rows`: a tokeniser of the training text, both splits packed, and the text LM before its training.

With a teacher the tokeniser is of its pieces, and the teacher over these pieces lies beside the text LM.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from slamray.config.base import asset_path, part_of
from slamray.config.text_lm import TeacherSettings, TextLmShape
from slamray.config.tree import Recipe
from slamray.data.text import EVALUATION, TRAIN, VALIDATION
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import corpus
from slamray.stages.checkpoints import MODEL

TOKENISER, TEACHER = "tokeniser", "teacher"
OPENING_WORDS = 25  # a text that begins as one that a model is measured on is not trained on; chosen, not tuned


def stage(recipe: Recipe, documents: Stage, text: Stage) -> Stage:
    """From the training split of `text`. documents: on whose other splits models of the run are measured."""
    text_lm = recipe.assets.text_lm
    settings = {
        "shape": part_of(text_lm, TextLmShape),
        "seed": text_lm.pretrain.seed,
        "teacher": text_lm.teacher,
    }
    return Stage("text_rows", run, settings, (documents,) if text is documents else (documents, text))


def run(
    inputs: Inputs, out: Folder, machine: Machine, shape: TextLmShape, seed: int, teacher: TeacherSettings | None
) -> dict[str, Any]:
    """Facts count rows, tokens and targets of each split, and training texts that are left out."""
    make = partial(_make, list(inputs.values()), out, shape, seed, teacher)
    facts: dict[str, Any] = machine.call("text_rows", make)
    return facts


def _make(
    sources: Sequence[Folder], out: Folder, shape: TextLmShape, seed: int, teacher: TeacherSettings | None
) -> dict[str, Any]:
    """sources: the corpus of the run, and the text LM's own where it has one."""
    from slamray.model.small_lm import build_text_lm, encode_documents, text_vocabulary, train_tokeniser
    from slamray.tokens.rows import write_rows

    measured = {
        opening(document.text)
        for source in sources
        for split in (VALIDATION, EVALUATION)
        for document in corpus.read(source, split)
    }
    read = {split: [document.text for document in corpus.read(sources[-1], split)] for split in (TRAIN, VALIDATION)}
    texts = read | {TRAIN: [text for text in read[TRAIN] if opening(text) not in measured]}
    if teacher is None:
        student = build_text_lm(shape, seed)
        out.write_tree(TOKENISER, partial(train_tokeniser, texts[TRAIN], shape.vocab_size))
    else:
        from transformers import LlamaConfig

        from slamray.model.teacher import build_teacher, choose_pieces, read_teacher, save_tokeniser, start_from_teacher

        found = read_teacher(Path(asset_path(teacher.path)))
        pieces = choose_pieces(found, texts[TRAIN], shape.vocab_size)
        taught = build_teacher(found, pieces)
        out.write_tree(TOKENISER, partial(save_tokeniser, pieces))
        out.write_tree(TEACHER, taught.save_pretrained)
        fitting = shape.model_copy(update={"vocab_size": taught.config.vocab_size})
        student = build_text_lm(fitting, seed, LlamaConfig)
        if teacher.layers is not None:
            start_from_teacher(student, taught, teacher.layers)
    out.write_tree(MODEL, student.save_pretrained)
    tokeniser = out.fetch(TOKENISER)
    vocabulary = text_vocabulary(tokeniser)
    packed = {split: encode_documents(found, tokeniser, vocabulary) for split, found in texts.items()}
    facts: dict[str, Any] = {"left_out": len(read[TRAIN]) - len(texts[TRAIN])}

    def write(split: str, path: Path) -> None:
        facts[split] = write_rows(path, packed[split], vocabulary, shape.context)

    for split in packed:
        out.write_tree(split, partial(write, split))
    return facts


def opening(text: str) -> str:
    """The first words of a text."""
    return " ".join(text.split()[:OPENING_WORDS])
