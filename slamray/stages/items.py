"""Stage `items`: test items from text that no training stage saw, spoken and encoded, each utterance once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from slamray.config.base import part_of
from slamray.config.evaluation import ItemsSettings
from slamray.config.speech import SpeakingSettings
from slamray.config.tree import Recipe
from slamray.data.grammar_items import make_grammar
from slamray.data.items import ItemSet, count_words, make_sentence_order, make_topic_cloze, merge
from slamray.data.text import Document
from slamray.data.word_items import invent, make_words, make_words_in_sentences
from slamray.errors import BadInput
from slamray.speech.voices.base import PhonemeVoice
from slamray.speech.voices.table import load_voice
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import corpus
from slamray.stages.speech import SpeechFacts, speak
from slamray.stages.units import SPEAKING

ITEMS = "items.json"


@dataclass(frozen=True)
class ItemsFacts(SpeechFacts):
    """pairs: of each metric."""

    pairs: Mapping[str, int]


def stage(recipe: Recipe, documents: Stage) -> Stage:
    settings = {
        "items": recipe.evaluate.items,
        "speaking": part_of(recipe.speech, SpeakingSettings),
        "heard_documents": recipe.speech.train_documents,
    }
    return Stage("items", run, settings, (documents,), group=SPEAKING)


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    items: ItemsSettings,
    speaking: SpeakingSettings,
    heard_documents: int | None,
) -> ItemsFacts:
    """Make the items of all metrics, and speak their utterances. heard_documents: spoken to train on; 0 is all."""
    made = _make(inputs["corpus"], items, speaking, heard_documents)
    facts = speak(made.utterances, out, machine, speaking, "items")
    out.write_json(ITEMS, made.to_json())
    return ItemsFacts(**asdict(facts), pairs=dict(Counter(pair.metric for pair in made.pairs)))


def _make(folder: Folder, items: ItemsSettings, speaking: SpeakingSettings, heard_documents: int | None) -> ItemSet:
    documents = corpus.read(folder, "evaluation")
    if not documents:
        raise BadInput(
            "corpus.evaluation_share: no document is left for evaluation; raise the share or bring more text"
        )
    train = [" ".join(document.sentences) for document in corpus.read(folder, "train")]
    counts, heard, c = count_words(train), count_words(train[: heard_documents or None]), items
    return merge(
        make_topic_cloze(documents, c.topic_cloze, c.seed, c.prompt_sentences, c.max_sentence_words),
        make_sentence_order(documents, c.sentence_order, c.seed, c.order_sentences, c.max_opening_words),
        *(_word_tests(documents, counts, heard, items, speaking) if has_word_tests(items) else ()),
        make_grammar(counts, c.grammar, c.seed),
    )


def has_word_tests(items: ItemsSettings) -> bool:
    """Whether words are set against pseudo-words, which only a voice that speaks phonemes can say."""
    return items.words > 0 or items.words_in_sentence > 0


def _word_tests(
    documents: Sequence[Document],
    counts: Mapping[str, int],
    heard: Mapping[str, int],
    items: ItemsSettings,
    speaking: SpeakingSettings,
) -> tuple[ItemSet, ItemSet]:
    """Words alone and in sentences. counts, heard: of the words of all training text, and of what is spoken of it."""
    voice, c = load_voice(speaking.tts), items
    assert isinstance(voice, PhonemeVoice), "recipe/check.py refuses word tests for other voices"
    words = max(c.words, c.words_in_sentence)
    pool = invent(
        counts, heard, voice.phonemise, words, c.seed, c.min_word_count, c.min_heard, c.min_phonemes, voice.lexicon()
    )
    in_sentences = make_words_in_sentences(
        pool, documents, voice.phonemise, c.words_in_sentence, c.max_sentence_words, c.sentences_per_word
    )
    return make_words(pool[: c.words]), in_sentences


def read(folder: Folder) -> ItemSet:
    """The items as they were made."""
    return ItemSet.from_json(folder.read_json(ITEMS))
