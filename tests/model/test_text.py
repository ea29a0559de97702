"""The text LM's tokeniser, documents and model share the unit vocabulary's conventions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from slamray.config.model import ModelSettings
from slamray.config.text_lm import TextLmSettings
from slamray.errors import BadInput
from slamray.model.small_lm import build_text_lm, encode_documents, text_vocabulary, train_tokeniser
from slamray.model.unit_lm import build_unit_lm, count_parameters, save_unit_lm
from slamray.tokens.vocabulary import BOS, PAD, Vocabulary

TEXTS = [f"Once upon a time there was a dog number {n}. It ran to tree {n * 7} and sat." for n in range(50)]


@pytest.fixture(scope="module")
def tokeniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokeniser")
    train_tokeniser(TEXTS, 300, folder)
    return folder


def test_the_tokeniser_loads_and_gives_back_any_text(tokeniser: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tokeniser)
    assert len(loaded) == 300 and (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (PAD, BOS, BOS)
    for text in (TEXTS[3], "Zebra: été 42!"):
        assert loaded.decode(loaded(text)["input_ids"]) == text


def test_the_same_texts_give_the_same_tokeniser(tokeniser: Path, tmp_path: Path) -> None:
    train_tokeniser(TEXTS, 300, tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (tokeniser / "tokenizer.json").read_bytes()


def test_documents_begin_and_end_with_the_special(tokeniser: Path) -> None:
    vocabulary = text_vocabulary(tokeniser)
    assert (vocabulary.size, vocabulary.n_units, vocabulary.pad, vocabulary.bos) == (300, 0, PAD, BOS)
    loaded = AutoTokenizer.from_pretrained(tokeniser)
    for text, document in zip(TEXTS, encode_documents(TEXTS, tokeniser, vocabulary), strict=True):
        assert document.ids.dtype == np.uint16 and document.mask is None
        assert document.ids[0] == document.ids[-1] == BOS
        assert loaded.decode(document.ids[1:-1]) == text


def test_more_tokens_than_the_text_yields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"text_lm\.vocab_size=2000"):
        train_tokeniser(TEXTS[:1], 2000, tmp_path)


def test_the_text_lm_becomes_a_unit_lm(tmp_path: Path) -> None:
    config = TextLmSettings(vocab_size=600, hidden=32, layers=2, heads=2, kv_heads=1, ffn=48)
    save_unit_lm(build_text_lm(config, seed=0), tmp_path)
    units = build_unit_lm(ModelSettings(base=str(tmp_path)), Vocabulary.of_units(500), seed=0)
    assert count_parameters(build_text_lm(config, 0)) - count_parameters(units) == (600 - 502) * 32


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(BadInput, match="heads=3"):
        build_text_lm(TextLmSettings(hidden=32, heads=3), seed=0)
