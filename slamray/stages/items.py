"""Stage `items`: test items from text that no training stage saw, spoken and encoded, each utterance once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from slamray import store
from slamray.config import ItemsConfig, SpeechConfig
from slamray.errors import BadInput
from slamray.evaluate.grammar import make_grammar
from slamray.evaluate.items import ItemSet, count_words, make_sentence_order, make_topic_cloze, merge
from slamray.evaluate.pseudowords import make_words
from slamray.runtime.engine import Engine
from slamray.stage import Facts, Folders
from slamray.stages import corpus, speech

ITEMS = "items.json"


def run(folders: Folders, out: Path, config: ItemsConfig, spoken: SpeechConfig, engine: Engine) -> Facts:
    """Make the items of all four metrics, and speak their utterances."""
    from slamray.speech.synthesise import load_synthesiser  # a second that a finished run does not need

    documents = corpus.read(folders["corpus"], "evaluation")
    if not documents:
        raise BadInput(
            "corpus.evaluation_share: no document is left for evaluation; raise the share or bring more text"
        )
    counts = count_words([" ".join(row["sentences"]) for row in corpus.read(folders["corpus"], "train")])
    voice = load_synthesiser(spoken.tts.backend)
    items = merge(
        make_topic_cloze(
            documents, config.topic_cloze, config.seed, config.prompt_sentences, config.max_sentence_words
        ),
        make_sentence_order(
            documents, config.sentence_order, config.seed, config.prompt_sentences, config.max_sentence_words
        ),
        make_words(
            counts,
            voice.phonemise,
            config.words,
            config.seed,
            config.min_word_count,
            config.min_phonemes,
            voice.lexicon(),
        ),
        make_grammar(counts, config.grammar, config.seed),
    )
    facts = speech.speak(items.utterances, out, spoken, engine, "items")
    store.write_json(out / ITEMS, items.to_json())
    return facts | {"pairs": dict(Counter(pair.metric for pair in items.pairs))}


def read(folder: Path) -> ItemSet:
    """The items as they were made."""
    return ItemSet.from_json(store.read_json(folder / ITEMS))
