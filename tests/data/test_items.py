"""Items are deterministic, balanced, and made of utterances that are each spoken once."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from slamray.data import grammar_items as grammar
from slamray.data.grammar_items import PARTS, make_grammar
from slamray.data.item_pairs import ItemSet, count_words, make_sentence_order, make_topic_cloze, merge
from slamray.data.text import TextDocument
from slamray.data.word_items import Phonotactics, invent, make_words, make_words_in_sentences, segments

ANIMALS = ("frog", "bear", "owl", "duck", "cow", "snail", "lion", "mouse", "horse", "sheep", "goat", "fox")
PLACES = ("pond", "cave", "tree", "lake", "barn", "leaf", "hill", "wall", "field", "farm", "shed", "wood")


def stories() -> list[TextDocument]:
    """Twelve stories of one animal and one place each, with words in common that tell nothing."""
    return [
        TextDocument(
            f"{i:016x}",
            (
                f"Once there was a {animal}.",
                "It was very happy there.",
                f"The {animal} lived near the {place}.",
                f"It played all day near the {place}.",
                "Oh no!",
                f"The {animal} went home {'and slept ' * (i % 3)}at night.",
                "Then it was very happy again.",
                f"All friends came to the {place}.",
                f"So {animal} number {i} was glad.",
            ),
            source="",
            split="evaluation",
        )
        for i, (animal, place) in enumerate(zip(ANIMALS, PLACES, strict=True))
    ]


ALL_WORDS = dict.fromkeys(
    " ".join(grammar.KINDS.values()).lower().split() + [form for row in grammar.IRREGULAR for form in row[:2]], 100
)

# A toy pronunciation: words of consonant, vowel, consonant, vowel with stress on the first vowel.
TOY_WORDS = [c + "\u02c8" + v + d + w for c in "bdpt" for v in "\u00e6\u026a" for d in "kmn" for w in "iu"]
TOY_COUNTS = {f"word{'ab'[i // 26]}{chr(97 + i % 26)}": 100 - i for i in range(len(TOY_WORDS))}
# Half of them are words: every first and every last three segments occur, so the other half are good pseudo-words.
IN_USE = [i for i in range(len(TOY_WORDS)) if (i // 12 + i) % 2 == 0]


def toy_phonemise(text: str) -> list[str]:
    return [TOY_WORDS[list(TOY_COUNTS).index(text.rstrip("."))] + "."]


def toy_words(n: int = 12, seed: int = 0, known: tuple[str, ...] = ()) -> ItemSet:
    counts = {word: count for i, (word, count) in enumerate(TOY_COUNTS.items()) if i in IN_USE}
    return make_words(
        invent(counts, counts, toy_phonemise, n, seed, min_count=1, min_heard=1, min_phonemes=4, known=known)
    )


def test_each_ending_is_right_once_and_wrong_once() -> None:
    pairs = make_topic_cloze(stories(), 12, 0, 3, 12).pairs
    assert len(pairs) == 12
    assert Counter(pair.chosen for pair in pairs) == Counter(pair.rejected for pair in pairs)
    assert set(Counter(pair.chosen for pair in pairs).values()) == {1}


def test_the_true_ending_takes_up_the_prompt_and_the_wrong_one_does_not() -> None:
    for pair in make_topic_cloze(stories(), 12, 0, 3, 12).pairs:
        topic = {word for word in ANIMALS + PLACES if word in pair.prompt_text}
        assert any(word in pair.chosen_text for word in topic)
        assert not any(word in pair.rejected_text for word in topic)


def test_no_sentence_keeps_its_place_in_the_wrong_order() -> None:
    for pair in make_sentence_order(stories(), 12, 0, 4, 12).pairs:
        assert sorted(pair.chosen) == sorted(pair.rejected) and len(set(pair.chosen)) == 4
        assert all(a != b for a, b in zip(pair.chosen, pair.rejected, strict=True))


def test_sentence_order_takes_the_opening_of_a_story() -> None:
    openings = {tuple(story.sentences[:4]) for story in stories()}
    items = make_sentence_order(stories(), 12, 0, 4, 12)
    said = {utterance.utterance_id: utterance.sentences for utterance in items.utterances}
    for pair in items.pairs:
        assert tuple(sentence for u in pair.chosen for sentence in said[u] or ()) in openings


def test_openings_with_long_sentences_are_not_used() -> None:
    assert (
        len(make_sentence_order(stories(), 12, 0, 4, 7).pairs) == 12
    )  # "It played all day near the pond." has 7 words
    assert make_sentence_order(stories(), 12, 0, 4, 6).pairs == ()


def test_a_pseudo_word_in_a_sentence_changes_that_word_alone() -> None:
    counts = {word: count for i, (word, count) in enumerate(TOY_COUNTS.items()) if i in IN_USE}
    invented = invent(counts, counts, toy_phonemise, 6, 0, min_count=1, min_heard=1, min_phonemes=4)
    first, second = invented[0].word, invented[1].word
    documents = [TextDocument("0", (f"{first.title()} {second}.", f"{first} {first}.", "word"), "", "evaluation")]

    def phonemise(sentence: str) -> list[str]:
        return [" ".join(toy_phonemise(word.lower())[0] for word in sentence.split())]

    items = make_words_in_sentences(invented, documents, phonemise, 6, 12)
    said = {utterance.utterance_id: utterance.phonemes or "" for utterance in items.utterances}
    assert len(items.pairs) == 2  # the sentence that holds a word twice is not used
    for pair, item, place in zip(items.pairs, invented[:2], (0, 1), strict=True):
        right, wrong = (said[side[0]].split(" ") for side in (pair.chosen, pair.rejected))
        assert segments(right[place]) == item.plain and segments(wrong[place]) == item.pseudo
        assert right[1 - place] == wrong[1 - place]


def test_a_word_in_several_sentences_is_one_item() -> None:
    counts = {word: count for i, (word, count) in enumerate(TOY_COUNTS.items()) if i in IN_USE}
    (item, *_) = invent(counts, counts, toy_phonemise, 1, 0, min_count=1, min_heard=1, min_phonemes=4)
    documents = [TextDocument("0", tuple(f"{item.word}{mark}" for mark in ".!?"), "", "evaluation")]
    pairs = make_words_in_sentences([item], documents, lambda said: toy_phonemise(said[:-1]), 9, 12, per_word=2).pairs
    assert [pair.item for pair in pairs] == [item.word] * 2 and len({pair.prompt_text for pair in pairs}) == 2


def test_a_word_that_was_not_spoken_often_enough_is_no_test_word() -> None:
    counts = {word: count for i, (word, count) in enumerate(TOY_COUNTS.items()) if i in IN_USE}
    everything = invent(counts, counts, toy_phonemise, 12, 0, min_count=1, min_heard=1, min_phonemes=4)
    one = everything[1].word
    for heard, expected in ((20, [one]), (19, [])):
        found = invent(counts, {one: heard}, toy_phonemise, 12, 0, min_count=1, min_heard=20, min_phonemes=4)
        assert [item.word for item in found] == expected


def test_items_depend_on_the_seed_and_not_on_the_order_of_documents() -> None:
    def make(documents: list[dict[str, object]], seed: int) -> ItemSet:
        return merge(make_topic_cloze(documents, 6, seed, 3, 12), make_sentence_order(documents, 6, seed, 4, 12))

    assert make(stories(), 0) == make(stories()[::-1], 0)
    assert make(stories(), 0) != make(stories(), 1)


def test_fewer_documents_give_fewer_pairs() -> None:
    assert len(make_sentence_order(stories()[:5], 250, 0, 4, 12).pairs) == 5
    assert make_topic_cloze(stories()[:1], 250, 0, 3, 12).pairs == ()


def test_every_utterance_a_pair_names_is_there_once() -> None:
    items = merge(make_topic_cloze(stories(), 12, 0, 3, 12), toy_words(), make_grammar(ALL_WORDS, 40, 0))
    ids = [utterance.utterance_id for utterance in items.utterances]
    assert len(set(ids)) == len(ids)
    assert {u for pair in items.pairs for u in pair.prompt + pair.chosen + pair.rejected} == set(ids)


def test_items_survive_a_trip_through_json() -> None:
    items = merge(make_topic_cloze(stories(), 12, 0, 3, 12), toy_words())
    assert ItemSet.from_json(json.loads(json.dumps(items.to_json()))) == items


def test_a_pseudo_word_is_attested_in_every_trigram_and_is_no_word() -> None:
    plain = {segments(TOY_WORDS[i]) for i in IN_USE}
    model = Phonotactics(plain)
    items = toy_words()
    by_id = {u.utterance_id: u.phonemes or "" for u in items.utterances}
    assert len(items.pairs) == 12 and {pair.part for pair in items.pairs} == {"trigram"}
    for pair in items.pairs:
        word, pseudo = by_id[pair.chosen[0]], by_id[pair.rejected[0]]
        assert segments(word) in plain and segments(pseudo) not in plain
        assert len(word) == len(pseudo) and word.index("\u02c8") == pseudo.index("\u02c8")
        assert sum(a != b for a, b in zip(word, pseudo, strict=True)) == 1  # a third of four segments
        assert model.attests(segments(pseudo), 3)


def test_a_pseudo_word_is_no_word_of_the_given_lexicon() -> None:
    words = {TOY_WORDS[i] + "." for i in IN_USE}
    made = {u.phonemes or "" for u in toy_words().utterances} - words
    assert made and not made & {u.phonemes for u in toy_words(known=tuple(made)).utterances}


def test_the_most_frequent_words_are_taken() -> None:
    items = toy_words(n=3)
    assert [pair.chosen_text.split()[0] for pair in items.pairs] == [list(TOY_COUNTS)[i] for i in IN_USE[:3]]


def test_trigram_probability_is_that_of_the_word_list() -> None:
    # #ab# and #ac#: after "#a" b and c are equally likely, all else is certain.
    assert Phonotactics({"ab", "ac"}).log_probability("ab") == pytest.approx(-0.693147, abs=1e-6)


def test_grammatical_pairs_have_the_same_words_but_one_or_the_same_words_in_another_order() -> None:
    pairs = make_grammar(ALL_WORDS, 60, 0).pairs
    assert Counter(pair.part for pair in pairs) == dict.fromkeys(PARTS, 12)
    for pair in pairs:
        right, wrong = pair.chosen_text.lower().split(), pair.rejected_text.lower().split()
        assert len(right) == len(wrong)
        places = [i for i, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b]
        assert len(places) == (1 if pair.part != "word_order" else 2)
        if pair.part == "word_order":
            assert sorted(right) == sorted(wrong) and places[1] == places[0] + 1


def test_no_form_is_right_more_often_than_it_is_wrong() -> None:
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for pair in make_grammar(ALL_WORDS, 300, 0).pairs:
        right.update(pair.chosen_text.lower().rstrip(".").split())
        wrong.update(pair.rejected_text.lower().rstrip(".").split())
    assert right == wrong


def test_words_that_the_stories_do_not_use_are_not_used() -> None:
    counts = dict.fromkeys(("lily", "dog", "ball", "park", "red", "happy", "saw", "run", "went", "gone"), 100)
    used = count_words([f"{p.chosen_text} {p.rejected_text}" for p in make_grammar(counts, 100, 0).pairs])
    assert used["lily"] and used["dog"] and used["gone"]
    assert not any(used[word] for word in ("tim", "cat", "doll", "forest", "blue", "took", "taken"))
