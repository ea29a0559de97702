"""Preference pairs: SWAG's columns, stories, the filter, and what is not lost silently."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.machine import InProcess

from slamray.config.corpora import PreferencesSettings
from slamray.config.speech import SpeakingSettings
from slamray.data.preference_pairs import PreferencePair, from_spoken_swag, from_stories, from_swag
from slamray.data.text import TextDocument
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stage.tables import read_quarantine
from slamray.stages import preferences as stage
from slamray.tokens.vocabulary import Vocabulary

SWAG = PreferencesSettings(source="swag", voices=("af_heart", "am_fenrir", "bf_emma", "bm_george"))


def swag_row(**changes: Any) -> dict[str, Any]:
    row = {
        "sent1": "A man sits at a piano.",
        "sent2": "He",
        "gold-source": "gold",
        "ending0": "plays a slow song.",
        "ending1": "swims to the shore.",
        "ending2": "paints the fence red.",
        "ending3": "eats a large sandwich.",
        "label": 2,
    }
    return {**row, **changes}


def story(number: int, sentences: int = 12, words: int = 6) -> TextDocument:
    """A story whose every sentence names the story, its own place, and then fillers."""
    texts = [" ".join([f"s{number}", f"p{place}", *(f"w{number}x{place}x{k}" for k in range(words - 2))]) + "."
             for place in range(sentences)]  # fmt: skip
    return TextDocument(f"{number:016x}", tuple(texts), "", "train")


def test_a_swag_row_becomes_prompt_true_ending_and_a_wrong_ending() -> None:
    found = from_swag([swag_row()], SWAG)
    (pair,) = found.pairs
    assert pair.prompt == "A man sits at a piano."
    assert pair.chosen == "He paints the fence red."
    assert pair.rejected in {"He plays a slow song.", "He swims to the shore.", "He eats a large sandwich."}
    assert pair.voice in SWAG.voices
    assert not found.quarantined and not found.dropped


def test_every_wrong_ending_and_every_voice_is_drawn() -> None:
    rows = [swag_row(sent1=f"Man {number} sits.") for number in range(200)]
    pairs = from_swag(rows, SWAG).pairs
    assert {pair.distractor_id for pair in pairs} == {"ending0", "ending1", "ending3"}
    assert {pair.voice for pair in pairs} == set(SWAG.voices)


def test_a_pair_does_not_depend_on_its_neighbours_or_their_order() -> None:
    rows = [swag_row(sent1=f"Man {number} sits.") for number in range(50)]
    pairs = {(p.pair_id, p.rejected, p.voice) for p in from_swag(rows, SWAG).pairs}
    shuffled = random.Random(1).sample(rows, 20)
    assert {(p.pair_id, p.rejected, p.voice) for p in from_swag(shuffled, SWAG).pairs} <= pairs
    other_seed = from_swag(rows, SWAG.model_copy(update={"seed": 1})).pairs
    assert {(p.pair_id, p.rejected, p.voice) for p in other_seed} != pairs


def test_rows_that_are_not_gold_are_counted_and_not_quarantined() -> None:
    found = from_swag([swag_row(), swag_row(**{"gold-source": "gen", "sent1": "Other."})], SWAG)
    assert len(found.pairs) == 1
    assert found.dropped == {"gold-source is not gold": 1} and not found.quarantined


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({key: value for key, value in swag_row().items() if key != "ending3"}, "no value in column ending3"),
        ({"text": "another data set"}, "no value in column sent1 sent2"),
        (swag_row(sent2="  "), "no text in column sent2"),
        (swag_row(sent1=7), "no text in column sent1"),
        (swag_row(label=4), "label 4 is not one of 0 1 2 3"),
        (swag_row(label=-1), "label -1 is not one of 0 1 2 3"),
        (swag_row(label="2"), "label '2' is not one of 0 1 2 3"),
        (swag_row(label=True), "label True is not one of 0 1 2 3"),
        (swag_row(ending0="a.", ending1="a.", ending2="a.", ending3="a."), "every wrong ending equals the true one"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_index_and_the_good_ones_stay(row: dict[str, Any], reason: str) -> None:
    found = from_swag([swag_row(), row, swag_row(sent1="A woman sits.")], SWAG)
    assert len(found.pairs) == 2
    ((index, told),) = found.quarantined
    assert index == 1 and told.startswith(reason)


@pytest.mark.parametrize("unseen", ["\x1b", "\u200b \u00ad", "\x00\x07"])
def test_a_text_of_which_nothing_is_left_is_no_text(unseen: str) -> None:
    """Control and format characters are taken out of every text; a pair of the rest would have an empty side."""
    spoken = {"prompt_text": "A dog.", "chosen_text": "It ran.", "rejected_text": unseen, "speaker": "a"}
    found = from_spoken_swag([("a:0", spoken)], PreferencesSettings())
    assert not found.pairs and found.quarantined == [(0, "no text in column rejected_text")]
    swag = from_swag([swag_row(sent1=unseen)], PreferencesSettings())
    assert not swag.pairs and swag.quarantined == [(0, "no text in column sent1")]


def test_the_filter_is_strict_and_counts_what_it_drops() -> None:
    # "a b a b c d e f g h i": 10 bigrams, a-b twice: 0.2; prompt + chosen decide, the rejected text does not.
    row = swag_row(sent1="a b a b", sent2="c", ending2="d e f g h i")
    assert from_swag([row], SWAG).pairs[0].auto_bleu == pytest.approx(0.2)
    strict = SWAG.model_copy(update={"max_auto_bleu": 0.2})
    found = from_swag([row], strict)
    assert not found.pairs and found.dropped == {"auto-BLEU-2 too high": 1}
    assert from_swag([row], SWAG.model_copy(update={"max_auto_bleu": 0.2000001})).pairs


def test_equal_pairs_are_kept_once_and_counted() -> None:
    found = from_swag([swag_row(), swag_row()], SWAG)
    assert len(found.pairs) == 1 and found.dropped == {"duplicate pair": 1}


def test_a_story_pair_is_its_own_next_sentence_against_the_same_place_of_another_story() -> None:
    stories = {doc.doc_id: doc for doc in (story(number) for number in range(8))}
    found = from_stories(stories.values(), PreferencesSettings())
    assert len(found.pairs) == 8 * 4  # 12 sentences hold four windows of 2 + 1
    for pair in found.pairs:
        sentences = stories[pair.source_id].sentences
        place = sentences.index(pair.chosen)
        assert pair.prompt == " ".join(sentences[place - 2 : place])
        assert pair.distractor_id != pair.source_id
        assert pair.rejected == stories[pair.distractor_id].sentences[place]  # equal lengths: the same place


def test_places_are_relative_to_the_length_of_the_story() -> None:
    long, short = story(1, sentences=21), story(2, sentences=3)
    for pair in from_stories([long, short], PreferencesSettings()).pairs:
        if pair.source_id == short.doc_id:
            assert pair.rejected == long.sentences[2]  # the first window of the one, the first of the other
        else:
            assert pair.rejected == short.sentences[2]  # it has no other


def test_continuations_have_similar_length() -> None:
    docs = [story(number, words=4 + number % 7) for number in range(40)]
    found = from_stories(docs, PreferencesSettings(max_length_ratio=1.25))
    assert found.pairs
    for pair in found.pairs:
        shorter, longer = sorted((len(pair.chosen.split()), len(pair.rejected.split())))
        assert longer <= 1.25 * shorter


def test_a_window_without_a_fitting_distractor_is_counted() -> None:
    found = from_stories([story(1, words=4), story(2, words=30)], PreferencesSettings())
    assert not found.pairs
    assert found.dropped == {"no other story has a continuation of similar length": 8}


def test_story_pairs_do_not_depend_on_the_order_of_the_stories() -> None:
    docs = [story(number) for number in range(20)]
    pairs: list[PreferencePair] = from_stories(docs, PreferencesSettings()).pairs
    assert from_stories(docs[::-1], PreferencesSettings()).pairs == pairs
    assert [pair.pair_id for pair in pairs] == sorted(pair.pair_id for pair in pairs)


def test_short_and_duplicate_stories_are_counted() -> None:
    found = from_stories([story(1), story(2), story(3, sentences=2), story(1)], PreferencesSettings())
    assert found.dropped == {"story has too few sentences": 1, "duplicate story": 1}


def test_rows_of_swag_that_are_bad_are_quarantined_by_their_place_and_bounded(tmp_path: Path) -> None:
    rows = [json.dumps(swag_row(sent1=f"A man sits {n}.")) for n in range(5)]
    bad = ["{not json", "[1]", json.dumps(swag_row(label=7)), json.dumps(swag_row(sent1="a" * 200))]
    path = tmp_path / "mostly_bad.jsonl"
    path.write_text("\n".join([*rows, *bad]))
    settings = SWAG.model_copy(update={"path": str(path)})
    heldout = stage.HeldOut(0.02, 0.06)
    with pytest.raises(BadInput, match=r"preferences.max_bad_share: 4 of 9 rows are bad.*mostly_bad.jsonl:6: not JSON"):
        stage.check_pairs(settings, heldout, {})
    out = Folder(tmp_path / "out")
    arguments: Any = ({}, out, InProcess(), settings, SpeakingSettings(), 0.02, 0.06, Vocabulary.of_units(20))
    with pytest.raises(BadInput, match=r"preferences.max_bad_share: 4 of 9"):
        stage.run(*arguments)
    reasons = {row["id"]: row["reason"] for row in read_quarantine(out)}
    assert reasons == {
        "mostly_bad.jsonl:6": "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        "mostly_bad.jsonl:7": "no mapping of columns but list",
        "mostly_bad.jsonl:8": "label 7 is not one of 0 1 2 3",
        "mostly_bad.jsonl:9": f"a word of 200 characters, more than 100: {'a' * 20}...",
    }
    stage.check_pairs(settings.model_copy(update={"max_bad_share": 0.5}), heldout, {})
