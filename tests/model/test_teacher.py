"""A model in llama2.c's format: written here as its exporter does, read back, cut to a text's pieces, taken over."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from support.llama2c import PIECES, SHAPE, Written, write_teacher
from transformers import AutoTokenizer, LlamaConfig

from slamray.config.text_lm import TextLmShape
from slamray.errors import BadInput
from slamray.model.small_lm import build_text_lm
from slamray.model.teacher import (
    build_teacher,
    build_tokeniser,
    choose_pieces,
    read_teacher,
    save_tokeniser,
    start_from_teacher,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "llama2.data")


def _merged(text: str, pieces: list[str]) -> list[str]:
    """llama2.c's own rule: of all neighbours, merge those whose whole is the best piece, until none is a piece."""
    parts = list(" " + text)
    while True:
        wholes = [(pieces.index(a + b), place) for place, (a, b) in enumerate(pairwise(parts))
                  if a + b in pieces]  # fmt: skip
        if not wholes:
            return parts
        place = min(wholes)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def test_the_model_of_a_file_gives_the_logits_of_the_one_that_was_written(written: Written) -> None:
    teacher = read_teacher(written.path)
    assert [piece.replace("\u2581", " ") for piece in teacher.pieces] == PIECES
    ids = torch.tensor([[1, 259, 262, 40, 270]])
    model = build_teacher(teacher, [piece for piece in teacher.pieces if "\u2581" not in piece[1:]]).eval()
    kept = [0, 1, *range(3, SHAPE["vocabulary"])]
    own = torch.tensor([[kept.index(number) for number in ids[0].tolist()]])
    torch.testing.assert_close(model(own).logits, written.model(ids).logits[..., kept])


@pytest.mark.parametrize("text", ["the cat sat.", "cats.", "that", "a x", "tthehe"])
def test_text_is_cut_as_llama2c_cuts_it(written: Written, text: str) -> None:
    tokens = build_tokeniser(read_teacher(written.path).pieces).encode(text).tokens
    assert [token.replace("\u2581", " ") for token in tokens] == _merged(text, PIECES)


def test_what_no_piece_spells_is_bytes_and_comes_back(written: Written, tmp_path: Path) -> None:
    save_tokeniser(read_teacher(written.path).pieces, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 1)
    for text in ("the cat", "Zebra: été 42!"):
        assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.convert_ids_to_tokens(loaded("é")["input_ids"]) == ["\u2581", "<0xC3>", "<0xA9>"]
    assert loaded(" the cat")["input_ids"] == loaded("the cat")["input_ids"]


def test_the_pieces_of_a_text_come_with_those_they_are_merged_from(written: Written) -> None:
    teacher = read_teacher(written.path)
    every = choose_pieces(teacher, ["the cat"] * 3 + ["xyz"], 1000)
    unused = {" c", "at", "s.", " s", " sa", " sat", "s", "."}  # "ca" is merged before " c" and "at"
    assert {piece.replace("\u2581", " ") for piece in every} == set(PIECES) - unused
    few = choose_pieces(teacher, ["the cat"] * 3 + ["the"] * 9 + ["xyz"], 258 + 8)
    assert {piece.replace("\u2581", " ") for piece in few} >= {" ", "t", "h", "e", " t", "he", " the"}
    assert len(few) <= 8 and build_tokeniser(few).encode("the the").tokens == ["\u2581the"] * 2


def test_a_student_of_all_layers_gives_the_teachers_logits(written: Written) -> None:
    taught = build_teacher(read_teacher(written.path), ["\u2581the", "\u2581t", "he", "\u2581", "t", "h", "e"]).eval()
    shape = TextLmShape().model_copy(
        update={"vocab_size": 265, "hidden": 16, "layers": 3, "heads": 2, "kv_heads": 1, "ffn": 24}
    )
    student = build_text_lm(shape, 1, LlamaConfig).eval()
    start_from_teacher(student, taught, [0, 1, 2])
    ids = torch.tensor([[1, 260, 258, 100]])
    torch.testing.assert_close(student(ids).logits, taught(ids).logits)
    start_from_teacher(student, taught, [2, 1, 0])
    assert torch.equal(student.model.layers[0].mlp.up_proj.weight, taught.model.layers[2].mlp.up_proj.weight)
    with pytest.raises(BadInput, match=r"teacher.layers=\[0, 3, 1\]: name one of the teacher's 3 layers"):
        start_from_teacher(student, taught, [0, 3, 1])
    narrow = build_text_lm(shape.model_copy(update={"ffn": 32}), 1, LlamaConfig)
    with pytest.raises(BadInput, match="intermediate_size is 32, the teacher's 24"):
        start_from_teacher(narrow, taught, [0, 1, 2])


def test_a_file_that_is_no_such_model_is_refused_in_one_line(written: Written, tmp_path: Path) -> None:
    data = written.path.read_bytes()
    apart = struct.pack("<7i", *{**SHAPE, "vocabulary": -SHAPE["vocabulary"]}.values()) + data[28:]
    for bad, said in (
        (b"", "0 bytes; not a model"),
        (np.arange(100, dtype="<f4").tobytes(), "begins with .*; not a model"),
        (data[:5000], "cut: 5000 bytes where"),
        (data[:-20], "its tokeniser is damaged|cut in its tokeniser"),
        (apart, "its head is apart"),
    ):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(BadInput, match=said):
            read_teacher(tmp_path / "bad")
