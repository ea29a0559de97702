"""Stages `text_rows` and `text_lm`: a tokeniser and a small text LM on the corpus, by the pre-training loop."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from slamray.config.compute import Compute
from slamray.config.training import TextLmSettings
from slamray.runtime.engine import Engine
from slamray.stage.stage import Facts, Folders
from slamray.stage.work import Metrics, Report
from slamray.stages import corpus, packed, training

TOKENISER = "tokeniser"


def rows(folders: Folders, out: Path, config: TextLmSettings, engine: Engine) -> Facts:
    """Train the tokeniser on training text alone; pack both splits; make the untrained model."""
    return engine.call("text_rows", partial(_rows, folders["corpus"], out, config))


def _rows(corpus_folder: Path, out: Path, config: TextLmSettings) -> Facts:
    from slamray.model.text_lm import build_text_lm, encode_documents, text_vocabulary, train_tokeniser
    from slamray.tokens.rows import write_rows

    texts = {
        split: [" ".join(row["sentences"]) for row in corpus.read(corpus_folder, split)]
        for split in (packed.TRAIN, packed.VALIDATION)
    }
    train_tokeniser(texts[packed.TRAIN], config.vocab_size, out / TOKENISER)
    build_text_lm(config, config.pretrain.seed).save_pretrained(out / training.MODEL)
    vocabulary = text_vocabulary(out / TOKENISER)
    documents = {split: encode_documents(found, out / TOKENISER, vocabulary) for split, found in texts.items()}
    return {split: write_rows(out / split, found, vocabulary, config.context) for split, found in documents.items()}


def train(folders: Folders, out: Path, config: TextLmSettings, engine: Engine) -> Facts:
    """Train the text LM; `out/model` is a folder that AutoModelForCausalLM and AutoTokenizer load."""
    facts = engine.train("text_lm", partial(_train, folders["text_rows"], out, config, engine.compute), out)
    for path in (folders["text_rows"] / TOKENISER).iterdir():
        shutil.copy(path, out / training.MODEL / path.name)
    return facts


def _train(rows_folder: Path, out: Path, config: TextLmSettings, compute: Compute, report: Report) -> Metrics:
    import torch
    import torch.distributed as dist

    from slamray.model.unit_lm import load_unit_lm
    from slamray.train.pretrain import pretrain

    train_rows, validation_rows = rows_folder / packed.TRAIN, rows_folder / packed.VALIDATION
    facts = pretrain(config.pretrain, compute, rows_folder / training.MODEL, train_rows, validation_rows, out, report)
    if dist.get_rank() == 0:  # TWIST reads it as float32 again; half the bytes are for the repository
        half = load_unit_lm(out / training.MODEL, dtype=torch.bfloat16)
        half.save_pretrained(out / training.MODEL)
    return facts
