"""Is a question answered? Two rules over texts, by name, and number words as digits before either.

    contains    a right answer's words stand in the text, side by side (DPR's has_answer)
    exact       the whole text is a right answer (SQuAD's normalisation)

Number words become digits in text and answer alike, as a recogniser writes words where a set writes digits.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_BELOW_20 = {word: value for value, word in enumerate(_SMALL.split())}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_WORD = re.compile(r"[a-z]+", re.IGNORECASE)
_GAP = re.compile(r"\s+|-")  # between the words of one number
_COMMA = re.compile(r"(?<=\d),(?=\d{3}\b)")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def contains(text: str, answers: Sequence[str]) -> bool:
    """Whether the words of one of the answers stand in the text, in their order and side by side.

    DPR's has_answer: NFD, words of letters, numbers and marks, small letters. Punctuation is no word here, as a
    recogniser writes none.
    """
    said = _words(text)
    wanted = [words for answer in answers if (words := _words(answer))]
    return any(said[n : n + len(words)] == words for words in wanted for n in range(len(said) - len(words) + 1))


def exact(text: str, answers: Sequence[str]) -> bool:
    """Whether the text is one of the answers, both without articles, punctuation and capitals (SQuAD)."""
    return _bare(text) in {bare for answer in answers if (bare := _bare(answer))}


RULES: Mapping[str, Callable[[str, Sequence[str]], bool]] = {"contains": contains, "exact": exact}


def number_words_to_digits(text: str) -> str:
    """English cardinals and years in words as digits: `twenty-one` 21, `nineteen sixty nine` 1969, `1,000` 1000."""
    text = _COMMA.sub("", text)
    words = list(_WORD.finditer(text))
    made, place, at = [], 0, 0
    while at < len(words):
        value, used = _number(list(_joined(text, words, at)))
        if used:
            made += [text[place : words[at].start()], str(value)]
            place = words[at + used - 1].end()
        at += used or 1
    return "".join([*made, text[place:]])


def _joined(text: str, words: Sequence[re.Match[str]], at: int) -> Iterator[str]:
    """The words from `at` on, as long as a blank or a hyphen alone stands between them."""
    yield words[at].group().lower()
    for before, word in zip(words[at:], words[at + 1 :], strict=False):
        if not _GAP.fullmatch(text[before.end() : word.start()]):
            return
        yield word.group().lower()


def _number(words: Sequence[str]) -> tuple[int, int]:
    """The number that the words begin with, and how many of them say it; 0 words where they begin with none."""
    value, used = _below_1000(words)
    if not used:
        return 0, 0
    if used == 1 and 10 <= value <= 20:  # a year: two numbers of two digits
        rest, more = _below_100(words[1:])
        if rest >= 10:
            return 100 * value + rest, 1 + more
    total, least = 0, max(_SCALES.values()) + 1
    while used < len(words) and (scale := _SCALES.get(words[used], least)) < least:
        total, least, used = total + value * scale, scale, used + 1
        value, more = _below_1000(words[used + _is_and(words[used:]) :])
        if not more:
            return total, used
        used += more + _is_and(words[used:])
    return total + value, used


def _below_1000(words: Sequence[str]) -> tuple[int, int]:
    value, used = _below_100(words)
    if not used and words[:1] == ["a"] and words[1:2] and words[1] in ("hundred", *_SCALES):
        value, used = 1, 1
    if not used or value >= 100 or words[used : used + 1] != ["hundred"]:
        return value, used
    used += 1
    rest, more = _below_100(words[used + _is_and(words[used:]) :])
    return (100 * value + rest, used + _is_and(words[used:]) + more) if more else (100 * value, used)


def _below_100(words: Sequence[str]) -> tuple[int, int]:
    if words and words[0] in _BELOW_20:
        return _BELOW_20[words[0]], 1
    if not words or words[0] not in _TENS:
        return 0, 0
    last = _BELOW_20.get(words[1], 0) if len(words) > 1 else 0
    return (_TENS[words[0]] + last, 2) if 1 <= last <= 9 else (_TENS[words[0]], 1)


def _is_and(words: Sequence[str]) -> int:
    return int(words[:1] == ["and"])


def _words(text: str) -> list[str]:
    """Maximal stretches of letters, numbers and marks, decomposed and in small letters."""
    plain = unicodedata.normalize("NFD", number_words_to_digits(text)).lower()
    return "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in plain).split()


def _bare(text: str) -> str:
    plain = number_words_to_digits(text).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())
