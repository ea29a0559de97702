"""Stage `items`: test items from text that no training stage saw, spoken and encoded, each utterance once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial

from slamray.config.base import part_of
from slamray.config.evaluation import ItemsSettings
from slamray.config.speech import SpeakingSettings
from slamray.config.tree import Recipe
from slamray.data.corpus_items import CorpusText, sentence_order, topic_cloze
from slamray.data.item_pairs import ItemSet, merge
from slamray.data.text import EVALUATION, TRAIN, TextDocument
from slamray.errors import BadInput
from slamray.evaluate.metrics import corpus_metrics, make_items
from slamray.speech.voices.base import PhonemeVoice
from slamray.speech.voices.table import load_voice
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import corpus
from slamray.stages.speak_and_listen import SpeechFacts, speak
from slamray.stages.units import SPEAKING

ITEMS = "items.json"
MOST_DOCUMENTS = 10_000  # of the evaluation split that items are made from, the first by id; chosen, not tuned


@dataclass(frozen=True)
class ItemsFacts(SpeechFacts):
    """pairs: of each metric."""

    pairs: Mapping[str, int]


def stage(recipe: Recipe, documents: Stage) -> Stage:
    """From the evaluation split of the documents."""
    check_others(recipe.evaluate.items)
    settings = {
        "items": recipe.evaluate.items,
        "speaking": part_of(recipe.speech, SpeakingSettings),
        "heard_documents": recipe.speech.train_documents,
    }
    check = partial(check_documents, recipe.evaluate.items)
    return Stage("items", run, settings, (documents,), group=SPEAKING, check=check)


def check_others(items: ItemsSettings) -> None:
    """BadInput for a metric in `evaluate.items.others` that the table lacks, or that has a field."""
    fields = set(ItemsSettings.model_fields)
    for name in items.others:
        if name not in corpus_metrics() or name in fields:
            known = " ".join(metric for metric in corpus_metrics() if metric not in fields)
            raise BadInput(f"evaluate.items.others.{name}: no such metric is made of text; there are {known or 'none'}")


def check_documents(items: ItemsSettings, inputs: Inputs) -> None:
    """BadInput when the evaluation documents are too few for a metric that is made of text alone."""
    documents = _documents(inputs["corpus"])
    makers = {"topic_cloze": topic_cloze, "sentence_order": sentence_order}
    for name, make in makers.items():
        text = CorpusText(documents, lambda at_most: (), None, items, no_voice)
        if items.pairs(name) and not make(text, items.pairs(name)).pairs:
            raise BadInput(
                f"evaluate.items.{name}: no pair can be made of {len(documents)} evaluation documents; bring more "
                f"text, raise corpus.evaluation_share, or say evaluate.items.{name}=0"
            )


def no_voice() -> PhonemeVoice:
    """In place of a voice, for metrics that need none."""
    raise AssertionError("these metrics are made of text alone")


def _documents(folder: Folder) -> list[TextDocument]:
    documents = list(corpus.read(folder, EVALUATION, MOST_DOCUMENTS))
    if not documents:
        raise BadInput(
            "corpus.evaluation_share: no document is left for evaluation; raise the share or bring more text"
        )
    return documents


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
    def load_phonemes() -> PhonemeVoice:
        voice = load_voice(speaking.tts)
        assert isinstance(voice, PhonemeVoice), "recipe/check.py refuses word tests for other voices"
        return voice

    documents = _documents(folder)

    def train(at_most: int) -> Iterator[str]:
        return (document.text for document in corpus.read(folder, TRAIN, at_most))

    text = CorpusText(documents, train, heard_documents, items, load_phonemes)
    return merge(*make_items(text, items))


def has_word_tests(items: ItemsSettings) -> bool:
    """Whether words are set against pseudo-words, which only a voice that speaks phonemes can say."""
    return items.words > 0 or items.words_in_sentence > 0


def read(folder: Folder) -> ItemSet:
    """The items as they were made."""
    return ItemSet.from_json(folder.read_json(ITEMS))
