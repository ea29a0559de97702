"""Auto-BLEU: the share of a sequence's n-grams that occur more than once, a measure of repetition."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|\w+(?:['-]\w+)*|[^\w\s]")


def word_tokens(text: str) -> list[str]:
    """Words and punctuation marks of a text, case kept.

    A word keeps its inner apostrophes and hyphens, a number its inner points and commas; every other mark is a token.
    slamkit uses NLTK's word_tokenize, which needs a download and differs in three ways: it cuts contractions
    ("don't" -> "do", "n't"), keeps "..." and an abbreviation's full stop ("Mr.") in one token, and rewrites quotes.
    """
    return _TOKEN.findall(text)


def auto_bleu(tokens: Sequence[Hashable], n: int = 2) -> float:
    """N-gram occurrences whose n-gram occurs at least twice, over all; 0..1 (the paper's tables are x 100).

    Works on words and on units alike. A sequence shorter than n has no n-gram and scores 0. Lakhotia et al. 2021
    (GSLM), as in slamkit's calculation_utils.py.
    """
    assert n >= 1
    counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = counts.total()
    return sum(count for count in counts.values() if count > 1) / total if total else 0.0
