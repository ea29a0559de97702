"""The two rules for answers: cases decided by hand, by what DPR's has_answer and SQuAD's exact match are."""

from __future__ import annotations

import pytest

from slamray.evaluate.answers import contains, exact, number_words_to_digits


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        ("It is Paris, of course.", ["paris"], True),
        ("the new york giants won", ["New York"], True),
        ("new in york", ["New York"], False),  # side by side
        ("york new", ["New York"], False),  # in their order
        ("a cathedral", ["cat"], False),  # whole words
        ("She was born in São Paulo", ["Sao Paulo"], False),  # a mark is part of a word
        ("She was born in Sa\u0303o Paulo", ["S\u00e3o Paulo"], True),  # composed or not
        ("st louis", ["St. Louis"], True),
        ("Rome", ["Milan", "Rome"], True),
        ("there are seven", ["7"], True),
        ("in 1969", ["nineteen sixty-nine"], True),
        ("seventeen", ["7"], False),
        ("", ["Rome"], False),
        ("anything", ["", "?"], False),  # an answer without a word is no answer
    ],
)
def test_contains_asks_for_the_words_of_an_answer_side_by_side(text: str, answers: list[str], right: bool) -> None:
    assert contains(text, answers) == right


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], True),
        ("Eiffel Tower in Paris", ["Eiffel Tower"], False),
        ("an apple", ["the apple"], True),
        ("U.S.A.", ["USA"], True),  # punctuation goes, and leaves no blank
        ("twenty-one", ["21"], True),
        ("theory", ["ory"], False),  # an article is a whole word
        ("", ["the"], False),
        ("Milan", ["Rome", "milan"], True),
    ],
)
def test_exact_asks_for_the_whole_text_without_articles_and_punctuation(
    text: str, answers: list[str], right: bool
) -> None:
    assert exact(text, answers) == right


@pytest.mark.parametrize(
    ("words", "digits"),
    [
        ("seven", "7"),
        ("Twenty-one dogs and two cats", "21 dogs and 2 cats"),
        ("one hundred and five", "105"),
        ("a hundred", "100"),
        ("a dog", "a dog"),
        ("three thousand and twelve", "3012"),
        ("two hundred thousand, and six", "200000, and 6"),
        ("one million two hundred thirty four thousand five hundred sixty seven", "1234567"),
        ("nineteen sixty nine", "1969"),
        ("twenty twenty", "2020"),
        ("twenty three", "23"),
        ("one and two", "1 and 2"),
        ("forty. Six came", "40. 6 came"),
        ("1,000 or 12,345,678", "1000 or 12345678"),
        ("1,2 and 3", "1,2 and 3"),
        ("phone none tent", "phone none tent"),
        ("hundred", "hundred"),
    ],
)
def test_number_words_become_digits_and_other_words_stay(words: str, digits: str) -> None:
    assert number_words_to_digits(words) == digits
