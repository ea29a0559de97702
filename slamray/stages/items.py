"""Stage `items`: test items from text that no training stage saw, spoken and encoded, each utterance once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from slamray.config.compute import Compute
from slamray.config.evaluation import ItemsSettings
from slamray.config.speech import SpeechSettings
from slamray.data.grammar_items import make_grammar
from slamray.data.items import ItemSet, count_words, make_sentence_order, make_topic_cloze, merge
from slamray.data.word_items import invent, make_words, make_words_in_sentences
from slamray.errors import BadInput
from slamray.stage import store
from slamray.stage.stage import Asking, Folders
from slamray.stages import corpus, speech

ITEMS = "items.json"


def run(folders: Folders, out: Path, config: ItemsSettings, spoken: SpeechSettings, compute: Compute) -> Asking:
    """Make the items of all four metrics, and speak their utterances."""
    from slamray.speech.voices.table import load_synthesiser  # a second that a finished run does not need

    documents = corpus.read(folders["corpus"], "evaluation")
    if not documents:
        raise BadInput(
            "corpus.evaluation_share: no document is left for evaluation; raise the share or bring more text"
        )
    train = [" ".join(row["sentences"]) for row in corpus.read(folders["corpus"], "train")]
    counts, heard = count_words(train), count_words(train[: spoken.train_documents or None])
    voice = load_synthesiser(spoken.tts)
    c = config
    pool = invent(counts, heard, voice.phonemise, max(c.words, c.words_in_sentence), c.seed, c.min_word_count,
                  c.min_heard, c.min_phonemes, voice.lexicon())  # fmt: skip
    items = merge(
        make_topic_cloze(documents, c.topic_cloze, c.seed, c.prompt_sentences, c.max_sentence_words),
        make_sentence_order(documents, c.sentence_order, c.seed, c.order_sentences, c.max_opening_words),
        make_words(pool[: c.words]),
        make_words_in_sentences(
            pool, documents, voice.phonemise, c.words_in_sentence, c.max_sentence_words, c.sentences_per_word
        ),
        make_grammar(counts, c.grammar, c.seed),
    )
    facts = yield from speech.speak(items.utterances, out, spoken, compute, "items")
    store.write_json(out / ITEMS, items.to_json())
    return facts | {"pairs": dict(Counter(pair.metric for pair in items.pairs))}


def read(folder: Path) -> ItemSet:
    """The items as they were made."""
    return ItemSet.from_json(store.read_json(folder / ITEMS))
