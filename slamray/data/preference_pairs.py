"""Preference pairs as text: from SWAG, from SpokenSwag as it is published or, without a download, from stories.

A pair is a prompt, its chosen continuation and a rejected one. Nothing here reads files, and every draw is seeded by
(seed, pair_id), so neither the order of the rows nor the number of readers changes a pair.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slamray.config.corpora import PreferencesSettings
from slamray.data.text import TextDocument, long_word, normalise
from slamray.given import is_text
from slamray.tokens.autobleu import auto_bleu, word_tokens

ENDINGS = ("ending0", "ending1", "ending2", "ending3")
SWAG_COLUMNS = ("sent1", "sent2", *ENDINGS, "label", "gold-source")
PARTS = ("prompt", "chosen", "rejected")  # of a pair; SpokenSwag's columns of audio
SPOKEN_COLUMNS = (*(f"{part}_text" for part in PARTS), "speaker")

# How many other stories are tried for a continuation of similar length before a pair is given up; chosen, not tuned. Of
# the shipped stories 2 % of the windows find none: those with a very short or very long continuation.
DISTRACTOR_TRIES = 50


@dataclass(frozen=True)
class PreferencePair:
    """One preference pair; `source_id` and `distractor_id` say where chosen and rejected come from."""

    pair_id: str
    prompt: str
    chosen: str
    rejected: str
    voice: str
    auto_bleu: float
    source_id: str
    distractor_id: str


@dataclass(frozen=True)
class Unread:
    """Stands for a row of which nothing could be read, and says why."""

    reason: str


@dataclass
class PairSet:
    """Pairs in order of their ids, the rows that could not be used, and how many good rows were left out and why."""

    pairs: list[PreferencePair] = field(default_factory=list)
    quarantined: list[tuple[int, str]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def from_swag(rows: Iterable[Any], config: PreferencesSettings) -> PairSet:
    """Pairs from SWAG's columns (docs/paper.md 1.6): prompt sent1, chosen sent2 + true ending, rejected + a wrong one.

    Only rows whose gold-source is "gold" are used. A row without one of the columns, with empty text, with a label
    outside 0..3, with a word that no voice is given, or whose wrong endings all equal the true one, is quarantined with
    its index and the reason.
    """
    found = PairSet()
    candidates = []
    for index, row in enumerate(rows):
        problem = _swag_problem(row)
        if problem:
            found.quarantined.append((index, problem))
        elif row["gold-source"] != "gold":
            found.dropped["gold-source is not gold"] += 1
        else:
            pair = _swag_pair(row, index, config)
            if isinstance(pair, str):
                found.quarantined.append((index, pair))
            else:
                candidates.append(pair)
    return _filtered(candidates, found, config)


def from_spoken_swag(rows: Iterable[tuple[str, Mapping[str, Any]]], config: PreferencesSettings) -> PairSet:
    """Pairs from SpokenSwag's text columns; rows come with their place, which becomes a pair's source_id.

    The same filter applies, as the published set holds repetitive pairs too. A row without text is quarantined.
    """
    found = PairSet()
    candidates = []
    for index, (place, row) in enumerate(rows):
        texts = [row.get(column) for column in SPOKEN_COLUMNS]
        empty = [
            column
            for column, text in zip(SPOKEN_COLUMNS, texts, strict=True)
            if not isinstance(text, str) or not is_text(text) or not normalise(text)
        ]
        if empty:
            found.quarantined.append((index, f"no text in column {' '.join(empty)}"))
            continue
        prompt, chosen, rejected = (normalise(str(text)) for text in texts[:3])
        candidates.append(_pair(_pair_id(prompt, chosen), prompt, chosen, rejected, str(texts[3]), place, place))
    return _filtered(candidates, found, config)


def from_stories(documents: Iterable[TextDocument], config: PreferencesSettings) -> PairSet:
    """Pairs from stories: the true continuation against one from elsewhere.

    A story is cut into windows of prompt_sentences + continuation_sentences that do not overlap. The rejected
    continuation stands at the same relative position of another story (anywhere in it without same_place), drawn at
    random until the word counts of the two differ by at most max_length_ratio, so that length tells nothing.
    """
    found = PairSet()
    stories: dict[str, Sequence[str]] = {}
    window = config.prompt_sentences + config.continuation_sentences
    for document in documents:
        if document.doc_id in stories:
            found.dropped["duplicate story"] += 1
        elif len(document.sentences) < window:
            found.dropped["story has too few sentences"] += 1
        else:
            stories[document.doc_id] = document.sentences
    ids = sorted(stories)  # the draw below must not depend on the order of arrival
    candidates = []
    for doc_id in ids:
        for pair in _story_pairs(doc_id, ids, stories, config):
            if isinstance(pair, str):
                found.dropped[pair] += 1
            else:
                candidates.append(pair)
    return _filtered(candidates, found, config)


def _filtered(candidates: list[PreferencePair], found: PairSet, config: PreferencesSettings) -> PairSet:
    """Drop repetitive and duplicate pairs (auto-BLEU-2 of the text, strictly below the limit, as slamkit does)."""
    kept: dict[str, PreferencePair] = {}
    for pair in candidates:
        if pair.pair_id in kept:
            found.dropped["duplicate pair"] += 1
        elif pair.auto_bleu >= config.max_auto_bleu:
            found.dropped["auto-BLEU-2 too high"] += 1
        else:
            kept[pair.pair_id] = pair
    found.pairs = [kept[pair_id] for pair_id in sorted(kept)]
    return found


def _swag_problem(row: Any) -> str:
    if isinstance(row, Unread):
        return row.reason
    if not isinstance(row, Mapping):
        return f"no mapping of columns but {type(row).__name__}"
    missing = [column for column in SWAG_COLUMNS if row.get(column) is None]
    if missing:
        return f"no value in column {' '.join(missing)}"
    texts = ("sent1", "sent2", *ENDINGS)
    empty = [column for column in texts if not isinstance(row[column], str) or not normalise(row[column])]
    if empty:
        return f"no text in column {' '.join(empty)}"
    if odd := [column for column in texts if not is_text(row[column])]:
        return f"half a character (a lone surrogate) in column {' '.join(odd)}"
    if reason := long_word(" ".join(row[column] for column in texts)):
        return reason
    label = row["label"]
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(ENDINGS):
        return f"label {label!r} is not one of 0 1 2 3"
    return ""


def _swag_pair(row: Mapping[str, Any], index: int, config: PreferencesSettings) -> PreferencePair | str:
    prompt, start = normalise(row["sent1"]), normalise(row["sent2"])
    endings = [normalise(row[column]) for column in ENDINGS]
    true = endings[row["label"]]
    pair_id = _pair_id(prompt, f"{start} {true}")
    wrong = [number for number, ending in enumerate(endings) if ending != true]
    if not wrong:
        return "every wrong ending equals the true one"
    rng = random.Random(f"{config.seed} {pair_id}")
    number = rng.choice(wrong)
    voice = rng.choice(config.voices)
    return _pair(
        pair_id, prompt, f"{start} {true}", f"{start} {endings[number]}", voice, f"row {index}", ENDINGS[number]
    )


def _story_pairs(
    doc_id: str, ids: list[str], stories: Mapping[str, Sequence[str]], config: PreferencesSettings
) -> Iterator[PreferencePair | str]:
    """The pairs of one story, or for each window without a distractor the reason."""
    sentences, window = stories[doc_id], config.prompt_sentences + config.continuation_sentences
    starts = range(0, len(sentences) - window + 1, window)
    for start in starts[: config.windows_per_story or None]:
        middle = start + config.prompt_sentences
        prompt = " ".join(sentences[start:middle])
        chosen = " ".join(sentences[middle : start + window])
        pair_id = _pair_id(prompt, chosen)
        rng = random.Random(f"{config.seed} {pair_id}")
        place = start / max(len(sentences) - window, 1) if config.same_place else rng.random()
        for _ in range(DISTRACTOR_TRIES):
            other = ids[rng.randrange(len(ids))]
            rejected = _continuation(stories[other], place, config)
            if other != doc_id and rejected != chosen and _similar_length(chosen, rejected, config.max_length_ratio):
                yield _pair(pair_id, prompt, chosen, rejected, rng.choice(config.voices), doc_id, other)
                break
        else:
            yield "no other story has a continuation of similar length"


def _continuation(sentences: Sequence[str], place: float, config: PreferencesSettings) -> str:
    """The continuation whose window starts at the share `place` (0..1) of a story's possible starts."""
    window = config.prompt_sentences + config.continuation_sentences
    start = round(place * (len(sentences) - window)) + config.prompt_sentences
    return " ".join(sentences[start : start + config.continuation_sentences])


def _similar_length(first: str, second: str, ratio: float) -> bool:
    shorter, longer = sorted((len(first.split()), len(second.split())))
    return longer <= ratio * shorter


def _pair(
    pair_id: str, prompt: str, chosen: str, rejected: str, voice: str, source_id: str, distractor_id: str
) -> PreferencePair:
    score = auto_bleu(word_tokens(f"{prompt} {chosen}"))
    return PreferencePair(pair_id, prompt, chosen, rejected, voice, score, source_id, distractor_id)


def _pair_id(prompt: str, chosen: str) -> str:
    """First 16 hex digits of the SHA-256 of prompt and chosen; the rejected text is drawn from this id."""
    return hashlib.sha256(f"{prompt}\n{chosen}".encode()).hexdigest()[:16]
