"""A model carries its vocabulary through save and load; where it states none, its rows say; text LMs are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from slamray.config.base import asset_path
from slamray.config.model import ModelSettings
from slamray.errors import BadInput
from slamray.model.saved_vocabulary import adopt_vocabulary, read_unit_vocabulary
from slamray.model.unit_lm import build_unit_lm, load_unit_lm, save_unit_lm
from slamray.tokens.vocabulary import Vocabulary

KNOWN = Vocabulary.of_units(20, "c" * 64)
OTHERS = Vocabulary.of_units(20, "d" * 64)
TEXT = Vocabulary.of_text(22, 0, 1, "t" * 64)
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
}


def save_plain(folder: Path, **more: Any) -> Path:
    """A Qwen2 of 22 rows as transformers leaves it, with no word about its vocabulary."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=22, **SHAPE, **more)).save_pretrained(folder)
    return folder


def save_marked(folder: Path, vocabulary: Vocabulary) -> Path:
    base = save_plain(folder / "base")
    save_unit_lm(build_unit_lm(ModelSettings(base=str(base)), vocabulary, 0), folder / "marked")
    return folder / "marked"


def test_the_vocabulary_survives_save_load_and_plain_transformers(tmp_path: Path) -> None:
    folder = save_marked(tmp_path, KNOWN)
    assert read_unit_vocabulary(folder, "checkpoint") == KNOWN
    save_unit_lm(load_unit_lm(folder), tmp_path / "again")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "plain")
    for name in ("again", "plain"):
        assert read_unit_vocabulary(tmp_path / name, "checkpoint") == KNOWN


def test_a_model_that_states_none_has_as_many_units_as_its_rows_leave(tmp_path: Path) -> None:
    unknown = Vocabulary.of_units(20)
    assert read_unit_vocabulary(save_plain(tmp_path / "plain"), "checkpoint") == unknown
    marked_before = save_plain(tmp_path / "before", n_units=20, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    assert read_unit_vocabulary(marked_before, "checkpoint") == unknown
    slamkit = tmp_path / "slamkit"
    slamkit.mkdir()
    tree = {"model_type": "speech_language_model", "vocab_size": 22, "base_config": {"vocab_size": 151_936}}
    (slamkit / "config.json").write_text(json.dumps(tree))
    assert read_unit_vocabulary(slamkit, "checkpoint") == unknown


def test_text_lms_are_refused_by_name(tmp_path: Path) -> None:
    foreign = save_plain(tmp_path / "foreign", bos_token_id=7)
    with pytest.raises(BadInput, match=r"checkpoint: .*foreign is a text LM \(22 rows\), not a unit LM"):
        read_unit_vocabulary(foreign, "checkpoint")
    with pytest.raises(BadInput, match=r"checkpoint: .*story-lm is a text LM \(vocabulary: 4096 text"):
        read_unit_vocabulary(Path(asset_path("assets:story-lm")), "checkpoint")
    model = load_unit_lm(save_plain(tmp_path / "marked"))
    adopt_vocabulary(model.config, TEXT, "the model", "the rows")
    save_unit_lm(model, tmp_path / "marked")
    with pytest.raises(BadInput, match=r"is a text LM \(vocabulary: 22 text \(tttttttt\)\), not a unit LM"):
        read_unit_vocabulary(tmp_path / "marked", "checkpoint")


def test_by_itself_a_model_is_a_unit_lm_only_when_its_special_tokens_say_so(tmp_path: Path) -> None:
    ours = save_plain(tmp_path / "ours", bos_token_id=1, eos_token_id=1, pad_token_id=0)
    assert read_unit_vocabulary(ours, "checkpoint", by_itself=True) == Vocabulary.of_units(20)
    for name, specials in (("none", {}), ("llama", {"bos_token_id": 1, "eos_token_id": 2})):
        text = save_plain(tmp_path / name, **specials)
        with pytest.raises(BadInput, match=rf"checkpoint: .*{name} is a text LM \(22 rows\), not a unit LM"):
            read_unit_vocabulary(text, "checkpoint", by_itself=True)


def test_weights_that_are_a_pointer_or_cut_are_one_line(tmp_path: Path) -> None:
    folder = save_marked(tmp_path, KNOWN)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for content, reason in ((pointer, "a pointer of Git LFS"), (whole[:-10], "cut or damaged"), (b"", "empty")):
        weights.write_bytes(content)
        for read in (lambda: read_unit_vocabulary(folder, "checkpoint"), lambda: load_unit_lm(folder)):
            with pytest.raises(BadInput, match=rf"model\.safetensors: {reason}.*; fetch it again"):
                read()
    weights.write_bytes(whole)
    (folder / "config.json").write_bytes(pointer)
    with pytest.raises(BadInput, match=r"config\.json: a pointer of Git LFS"):
        load_unit_lm(folder)


def test_a_config_whose_rows_were_changed_is_refused(tmp_path: Path) -> None:
    folder = save_marked(tmp_path, KNOWN)
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(tree | {"vocab_size": 24}))
    with pytest.raises(BadInput, match=r"24 rows, but its vocabulary \(2 specials, 20 units \(cccccccc\)\) has 22 ids"):
        read_unit_vocabulary(folder, "checkpoint")


def test_training_marks_a_model_with_the_vocabulary_of_its_rows() -> None:
    for start in (Qwen2Config(vocab_size=22, **SHAPE), AutoConfig.for_model("qwen2", vocab_size=22, n_units=20)):
        adopt_vocabulary(start, KNOWN, "the model", "the rows")
        assert Vocabulary.from_json(start.vocabulary, "config") == KNOWN
        adopt_vocabulary(start, None, "the model", "rows of before")
        adopt_vocabulary(start, KNOWN, "the model", "the rows")
        with pytest.raises(BadInput, match=r"the model .* and the rows .*: the units are c{16} here, d{16} there"):
            adopt_vocabulary(start, OTHERS, "the model", "the rows")
    with pytest.raises(BadInput, match=r"the model has 64 rows, but the rows \(.*\) has 22 ids"):
        adopt_vocabulary(Qwen2Config(vocab_size=64, **SHAPE), KNOWN, "the model", "the rows")


def test_a_unit_lm_as_base_is_known_by_its_vocabulary(tmp_path: Path) -> None:
    base = ModelSettings(base=str(save_marked(tmp_path, KNOWN)), embedding="normal")
    trained = load_unit_lm(Path(base.base))
    for wanted in (KNOWN, Vocabulary.of_units(20)):
        again = build_unit_lm(base, wanted, seed=5)
        assert torch.equal(again.get_input_embeddings().weight, trained.get_input_embeddings().weight)
        assert Vocabulary.from_json(again.config.vocabulary, "config") == KNOWN
    with pytest.raises(BadInput, match=r"model\.base=.* and speech\.encoder .*: the units are c{16} here, d{16}"):
        build_unit_lm(base, OTHERS, seed=0)


def test_a_marked_text_lm_as_base_is_embedded_anew(tmp_path: Path) -> None:
    """Even where it has as many rows and the same specials as the unit LM that is made of it."""
    model = load_unit_lm(save_plain(tmp_path, bos_token_id=1, eos_token_id=1, pad_token_id=0))
    adopt_vocabulary(model.config, TEXT, "the model", "the rows")
    save_unit_lm(model, tmp_path)
    fresh = build_unit_lm(ModelSettings(base=str(tmp_path), embedding="normal"), KNOWN, seed=0)
    assert not torch.equal(fresh.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert Vocabulary.from_json(fresh.config.vocabulary, "config") == KNOWN
