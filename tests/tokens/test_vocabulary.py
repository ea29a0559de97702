"""The vocabulary: fixed ids, a checksum of all that gives them meaning, and a refusal that names what differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slamray.errors import BadInput
from slamray.tokens.vocabulary import (
    FILE,
    Block,
    Vocabulary,
    read_vocabulary,
    reconcile,
    write_vocabulary,
)

UNITS = Vocabulary.of_units(500, "a" * 64)
# What a joint vocabulary will be: Qwen2.5's text tokens, then units, then two tags (docs/paper.md 1.3).
JOINT = Vocabulary((Block("text", 151_665, "t"), Block("units", 500, "u"), Block("specials", 2, "<s> <t>")), 7, 8)


def test_the_unit_vocabulary_has_the_papers_ids() -> None:
    assert (UNITS.size, UNITS.pad, UNITS.bos, UNITS.first_unit, UNITS.n_units) == (502, 0, 1, 2, 500)
    tokens = UNITS.to_tokens(np.array([0, 499], np.uint16))
    assert tokens.tolist() == [2, 501] and tokens.dtype == np.uint16


def test_units_come_back_and_other_tokens_are_left_out() -> None:
    units = np.random.default_rng(0).integers(0, 500, 100)
    assert (UNITS.to_units(UNITS.to_tokens(units)) == units).all()
    assert UNITS.to_units(np.array([0, 1, 2, 1, 501])).tolist() == [0, 499]
    assert UNITS.to_units(np.array([], np.int64)).dtype == np.uint16


def test_ids_beyond_two_bytes_are_held_in_four() -> None:
    assert JOINT.size == 152_167 and JOINT.first_unit == 151_665
    tokens = JOINT.to_tokens(np.array([3]))
    assert tokens.dtype == np.uint32 and tokens.tolist() == [151_668]
    assert JOINT.to_units(np.array([5, 151_668, 152_165])).tolist() == [3]
    assert Vocabulary.of_units(2**16 - 2).dtype == np.uint16 and Vocabulary.of_units(2**16 - 1).dtype == np.uint32


def test_a_unit_that_is_none_is_a_programmers_error() -> None:
    with pytest.raises(AssertionError, match="not among 500"):
        UNITS.to_tokens(np.array([500]))


def test_the_checksum_depends_on_everything_that_gives_ids_their_meaning() -> None:
    text, units, specials = JOINT.blocks
    others = [
        replace(JOINT, pad=8),
        replace(JOINT, bos=7),
        replace(JOINT, blocks=(units, text, specials)),
        replace(JOINT, blocks=(replace(text, size=151_666), units, specials)),
        replace(JOINT, blocks=(replace(text, identity="x"), units, specials)),
        replace(JOINT, blocks=(text, replace(units, identity="x"), specials)),
        replace(JOINT, blocks=(text, units, replace(specials, identity="<t> <s>"))),
    ]
    assert len({JOINT.checksum, *(other.checksum for other in others)}) == 8
    for other in others:
        with pytest.raises(BadInput, match="have different vocabularies"):
            reconcile(JOINT, other, "the model", "the rows")


@pytest.mark.parametrize("vocabulary", [UNITS, JOINT, Vocabulary.of_text(300, 0, 1, "t")])
def test_it_is_read_as_it_was_written(tmp_path: Path, vocabulary: Vocabulary) -> None:
    assert read_vocabulary(tmp_path) is None
    write_vocabulary(tmp_path, vocabulary)
    assert read_vocabulary(tmp_path) == vocabulary


def test_a_file_that_was_edited_or_is_another_is_refused_by_name(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, UNITS)
    tree = json.loads((tmp_path / FILE).read_text())
    tree["blocks"].reverse()
    (tmp_path / FILE).write_text(json.dumps(tree))
    with pytest.raises(BadInput, match=r"vocabulary\.json: .* its checksum differs"):
        read_vocabulary(tmp_path)
    (tmp_path / FILE).write_text('{"blocks": 3}')
    with pytest.raises(BadInput, match=r"vocabulary\.json: this is no vocabulary"):
        read_vocabulary(tmp_path)


def test_units_of_unknown_origin_are_compared_by_number_and_take_the_known_identity() -> None:
    published = Vocabulary.of_units(500)
    assert reconcile(published, UNITS, "a", "b") == reconcile(UNITS, published, "a", "b") == UNITS
    with pytest.raises(BadInput, match="500 units here, 20 there"):
        reconcile(published, Vocabulary.of_units(20), "a", "b")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Vocabulary.of_units(500, "b" * 64), f"the units are {'a' * 16} here, {'b' * 16} there"),
        (Vocabulary.of_units(20, "a" * 64), "500 units here, 20 there"),
        (Vocabulary.of_text(502, 0, 1, "t"), "the order of ids is specials units here, text there"),
        (replace(UNITS, pad=1, bos=0), "<PAD> and <S> are ids 0 and 1 here, 1 and 0 there"),
    ],
)
def test_a_mismatch_is_one_line_that_names_both_sides_and_what_differs(other: Vocabulary, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        reconcile(UNITS, other, "model m", "rows r")
    line = str(caught.value)
    assert "\n" not in line and "model m (2 specials, 500 units (aaaaaaaa)) and rows r (" in line and message in line


def test_a_joint_vocabulary_is_text_then_units_then_tags_as_slamkits() -> None:
    joint = Vocabulary.joint(Vocabulary.of_text(151_665, 151_643, 151_643, "t"), UNITS)
    # slamkit's interleaving tokeniser adds <Un0> .. <Un499>, <speech> and <text> to Qwen2.5's tokens, in this order.
    assert (joint.size, joint.first_unit, joint.speech_tag, joint.text_tag) == (152_167, 151_665, 152_165, 152_166)
    assert (joint.pad, joint.bos, joint.before_units) == (151_643, 151_643, (151_643, 152_165))
    assert joint.is_joint and not UNITS.is_joint and UNITS.before_units == (1,)
    assert Vocabulary.from_json(joint.to_json(), "here") == joint
    assert (joint.text_ids, joint.unit_ids) == (range(151_665), range(151_665, 152_165))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (Vocabulary.joint(Vocabulary.of_text(100, 0, 1, "x" * 64), UNITS), "the text are ttt"),
        (Vocabulary.joint(Vocabulary.of_text(101, 0, 1, "t" * 64), UNITS), "100 text here, 101 there"),
        (Vocabulary.joint(Vocabulary.of_text(100, 0, 1, "t" * 64), Vocabulary.of_units(500, "c" * 64)), "the units"),
        (Vocabulary.joint(Vocabulary.of_text(100, 0, 2, "t" * 64), UNITS), "<PAD> and <S>"),
        (UNITS, "the order of ids is text units specials here, specials units there"),
    ],
)
def test_a_joint_vocabulary_that_changed_is_refused_by_what_changed(other: Vocabulary, difference: str) -> None:
    joint = Vocabulary.joint(Vocabulary.of_text(100, 0, 1, "t" * 64), UNITS)
    with pytest.raises(BadInput, match=difference):
        reconcile(joint, other, "the rows", "the model")
