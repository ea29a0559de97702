"""Stages that ask whether speech and text say the same, in word error rate, on held-out sentences.

    task_sentences           sentences of evaluation documents, spoken; what the recogniser hears in the voice itself,
                             and in its units through the decoder
    text_to_token_quality    the text-to-token model says the same texts, through the same decoder
    tasks_*                  a checkpoint writes what it hears (ASR) and says what it reads (TTS)

The recogniser is PocketSphinx, no kin of any model here. Its own errors are in all figures alike: the voice's rate is
what none can be expected to beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slamray.config.base import Located, part_of
from slamray.config.evaluation import ScoringSettings
from slamray.config.joint import TextToTokenSampling
from slamray.config.model import BaseSettings
from slamray.config.speech import SpeakingSettings
from slamray.config.tree import Recipe
from slamray.data.ids import content_id
from slamray.data.item_pairs import spoken
from slamray.data.text import EVALUATION, TextDocument
from slamray.errors import BadInput
from slamray.evaluate.wer import check_recogniser, edits, word_errors
from slamray.stage.folder import Folder
from slamray.stage.parts import write_parts
from slamray.stage.records import from_table, to_table
from slamray.stage.stage import Inputs, Stage, read_manifest
from slamray.stage.work import Machine, Pool
from slamray.stages import corpus, text_to_token, units
from slamray.stages.checkpoints import MODEL
from slamray.stages.items import MOST_DOCUMENTS
from slamray.stages.saying import Said, Speaker, Turn, say
from slamray.stages.speak_and_listen import SpeechFacts, speak
from slamray.stages.units import SPEAKING
from slamray.stages.vocabulary import vocabulary_of
from slamray.tokens.interleave import cut_pieces
from slamray.tokens.vocabulary import Vocabulary

QUALITY_RATE = "text_to_token"
SENTENCES, QUALITY = "task_sentences", "text_to_token_quality"
TABLE, SAID = "sentences", "said"  # tables in the folders of the first stage and of the others
LEAST_WORDS, MOST_WORDS = 5, 20  # of a sentence: some 2 to 8 s of speech; chosen, not tuned
TOKENS_PER_WORD = 4  # that ASR may write at most; chosen, not tuned
BATCH = 16  # sentences that are heard together: what a kill may lose; chosen, not tuned


@dataclass(frozen=True)
class Sentence:
    """A sentence that is spoken. key: of its utterance."""

    key: str
    text: str


@dataclass(frozen=True)
class HeardSentence:
    """A sentence and what was heard in the voice, and in its units through the decoder."""

    key: str
    text: str
    units: Sequence[int]
    voice: str
    real_units: str


@dataclass(frozen=True)
class SaidSentence:
    """What a model made of a sentence: a text that it wrote, or what was heard in what it said, with its units."""

    task: str
    key: str
    wanted: str
    got: str
    units: Sequence[int]
    ended: bool


@dataclass(frozen=True)
class ErrorRate:
    """Word errors over the words of the reference. ended: sentences that a model ended by itself; None of a voice."""

    rate: float
    words: int
    sentences: int
    ended: int | None


@dataclass(frozen=True)
class SentenceFacts(SpeechFacts):
    """rates: of the `voice` and of its `real_units` through the decoder."""

    rates: Mapping[str, ErrorRate]


@dataclass(frozen=True)
class TaskFacts:
    """rates: by task, `asr` and `tts`."""

    rates: Mapping[str, ErrorRate]


@dataclass(frozen=True)
class QualityFacts:
    """rates: `text_to_token`, beside `real_units` and `voice` of the same sentences.

    unit_error_rate: fewest edits that turn the real units into the model's, over the real units. units_per_real_unit:
    how many it says for each. A model that says the same in other words of sound makes edits without being wrong.
    """

    rates: Mapping[str, ErrorRate]
    unit_error_rate: float
    units_per_real_unit: float


def stages(
    recipe: Recipe,
    documents: Stage,
    speaker: Stage | None,
    checkpoints: Sequence[Stage],
    given: Mapping[str, Located] | None = None,
) -> tuple[Stage, ...]:
    """Where the recipe asks for `evaluate.task_sentences`. speaker: the stage of the text-to-token model.

    given: folders of models from anywhere, by name.
    """
    count = recipe.evaluate.task_sentences
    if not count:
        return ()
    vocabulary = vocabulary_of(recipe)
    if not vocabulary.is_joint:
        raise BadInput(
            f"evaluate.task_sentences={count}: a model of units alone neither reads nor writes; say 0, or joint.kinds"
        )
    check_recogniser()
    scoring = part_of(recipe.evaluate, ScoringSettings)
    rules = {"count": count, "speaking": part_of(recipe.speech, SpeakingSettings), "scoring": scoring}
    sentences = Stage(SENTENCES, run_sentences, rules, (documents,), group=SPEAKING)
    settings = {
        "scoring": scoring,
        "sampling": recipe.joint.text_to_token.sampling,
        "vocabulary": vocabulary,
        "base": Located(lambda: None, part_of(recipe.model, BaseSettings)),
    }
    quality = (Stage(QUALITY, run_quality, settings, (speaker, sentences), version=2),) if speaker else ()
    asked = (
        Stage(f"tasks_{one.name}", run_tasks, {"checkpoint": one.name, **settings}, (one, sentences), version=2)
        for one in checkpoints
    )
    others = (
        Stage(f"tasks_{name}", run_tasks, {"checkpoint": name, "model": at, **settings}, (sentences,))
        for name, at in (given or {}).items()
    )
    return (sentences, *quality, *asked, *others)


def run_sentences(
    inputs: Inputs, out: Folder, machine: Machine, count: int, speaking: SpeakingSettings, scoring: ScoringSettings
) -> SentenceFacts:
    """Choose sentences, speak and encode them, and hear the voice and its units."""
    documents = list(corpus.read(inputs["corpus"], EVALUATION, MOST_DOCUMENTS))
    chosen = choose_sentences(documents, count)
    if not chosen:
        raise BadInput(
            f"evaluate.task_sentences={count}: no sentence of {LEAST_WORDS} to {MOST_WORDS} words in "
            f"{len(documents)} evaluation documents; bring more text, or say 0"
        )
    facts = speak([spoken(one.text) for one in chosen], out, machine, speaking, SENTENCES)
    known = units.by_id(out)
    heard = [HeardSentence(one.key, one.text, known[one.key].tolist(), "", "") for one in chosen if one.key in known]
    out.write_table("asked.parquet", to_table(heard, HeardSentence), group_rows=BATCH)
    batches = [SentenceBatch(str(out), number) for number in range(-(-len(heard) // BATCH))]
    pool = Pool(
        "slamray.stages.tasks_kernel:HearVoice",
        {"tts": speaking.tts, "vocoder": scoring.vocoder},
        machine.compute.tts_actors,
    )
    todo = [batch for batch in batches if not out.exists(batch.file)]
    machine.rows(f"{SENTENCES}: heard", todo, [pool], len(batches), "batches")
    found = [HeardSentence(**row) for batch in batches for row in out.read_json(batch.file)]
    write_parts(out, TABLE, found, HeardSentence)
    rates = {name: error_rate([(one.text, getattr(one, name)) for one in found]) for name in ("voice", "real_units")}
    return SentenceFacts(**asdict(facts), rates=rates)


@dataclass(frozen=True)
class SentenceBatch:
    """Sentences that are heard together: a row group of `asked.parquet` below `out`, an address."""

    out: str
    number: int

    @property
    def file(self) -> str:
        return f"batches/{self.number:06d}.json"


def choose_sentences(documents: Sequence[TextDocument], count: int) -> list[Sentence]:
    """At most so many distinct sentences, one of each document, in an order that is a hash of their documents' ids."""
    found: dict[str, Sentence] = {}
    for document in sorted(documents, key=lambda document: content_id("tasks", document.doc_id)):
        for text in document.sentences:
            if LEAST_WORDS <= len(text.split()) <= MOST_WORDS and text not in found:
                found[text] = Sentence(spoken(text).utterance_id, text)
                break
        if len(found) == count:
            break
    return list(found.values())


def run_quality(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    scoring: ScoringSettings,
    sampling: TextToTokenSampling,
    vocabulary: Vocabulary,
    base: Located,
) -> QualityFacts:
    """Have the text-to-token model say the sentences."""
    sentences = read(inputs[SENTENCES])
    model = str(inputs[text_to_token.NAME] / MODEL)
    speaker = Speaker(model, vocabulary, base.place, scoring.sampling, sampling, scoring.vocoder)
    said = _say_texts(QUALITY, sentences, speaker, sampling, out, machine)
    write_parts(out, SAID, said, SaidSentence)
    real = sum(len(one.units) for one in sentences)
    wrong = sum(edits(one.units, own.units) for one, own in zip(sentences, said, strict=True))
    made = sum(len(own.units) for own in said)
    return QualityFacts({QUALITY_RATE: _rate(said), **read_rates(inputs[SENTENCES])}, wrong / real, made / real)


def run_tasks(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    checkpoint: str,
    scoring: ScoringSettings,
    sampling: TextToTokenSampling,
    vocabulary: Vocabulary,
    base: Located,
    model: Located | None = None,
) -> TaskFacts:
    """Have a checkpoint write what it hears, and say what it reads.

    model: a folder; None: of the input `checkpoint`.
    """
    sentences = read(inputs[SENTENCES])
    folder = str(model.place if model else inputs[checkpoint] / MODEL)
    speaker = Speaker(folder, vocabulary, base.place, scoring.sampling, sampling, scoring.vocoder)
    name = f"tasks_{checkpoint}"
    turns = [_heard_turn(one, vocabulary) for one in sentences]
    written = say(name, turns, "text", speaker, out, machine)
    asr = [_said("asr", one, written[one.key]) for one in sentences]
    tts = _say_texts(name, sentences, speaker, sampling, out, machine)
    write_parts(out, SAID, [*asr, *tts], SaidSentence)
    return TaskFacts({"asr": _rate(asr), "tts": _rate(tts)})


def _heard_turn(sentence: HeardSentence, vocabulary: Vocabulary) -> Turn:
    """`<S> <speech> units <text>`, as an asr document begins."""
    heard = vocabulary.to_tokens(np.array(sentence.units)).tolist()
    most = TOKENS_PER_WORD * len(sentence.text.split())
    return Turn(sentence.key, [*vocabulary.before_units, *heard, vocabulary.text_tag], most)


def _say_texts(
    name: str,
    sentences: Sequence[HeardSentence],
    speaker: Speaker,
    sampling: TextToTokenSampling,
    out: Folder,
    machine: Machine,
) -> list[SaidSentence]:
    """Each sentence after `<S> <text> words <speech>`, as a tts document begins, drawn as spoken text is."""
    from slamray.model.text_tokeniser import TextTokeniser  # seconds that a plan does not need

    assert speaker.base is not None
    encode, vocabulary = TextTokeniser(speaker.base.base, speaker.base.revision), speaker.vocabulary
    turns = []
    for one in sentences:
        ids = [vocabulary.bos, vocabulary.text_tag, *encode(one.text), vocabulary.speech_tag]
        turns.append(Turn(one.key, ids, sampling.most_units_per_piece * len(cut_pieces(one.text))))
    said = say(name, turns, "speech", speaker, out, machine)
    return [_said("tts", one, said[one.key]) for one in sentences]


def _said(task: str, sentence: HeardSentence, said: Said) -> SaidSentence:
    return SaidSentence(task, sentence.key, sentence.text, said.text, said.units, said.ended)


def _rate(said: Sequence[SaidSentence]) -> ErrorRate:
    return error_rate([(one.wanted, one.got) for one in said], sum(one.ended for one in said))


def error_rate(pairs: Sequence[tuple[str, str]], ended: int | None = None) -> ErrorRate:
    """Over (reference, heard) texts."""
    found = word_errors(pairs)
    return ErrorRate(found.rate, found.words, len(pairs), ended)


def lines(errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """For a terminal: a row for each rate, which has a name."""
    if not errors:
        return []
    head = f"{'held-out sentences':<28}{'WER in %':>10}{'words':>8}{'sentences':>11}"
    return [head] + [f"{r['name']:<28}{100 * r['rate']:>10.1f}{r['words']:>8,}{r['sentences']:>11,}" for r in errors]


def read_rates(folder: Folder) -> dict[str, ErrorRate]:
    """The rates of a finished stage."""
    return {name: ErrorRate(**rate) for name, rate in read_manifest(folder)["facts"]["rates"].items()}


def read(folder: Folder) -> list[HeardSentence]:
    """The sentences as they were heard."""
    names = folder.names(f"{TABLE}/part-*.parquet")
    return [one for name in names for one in from_table(folder.read_table(name), HeardSentence)]


def read_said(folder: Folder) -> list[SaidSentence]:
    """What a model made of each sentence."""
    names = folder.names(f"{SAID}/part-*.parquet")
    return [one for name in names for one in from_table(folder.read_table(name), SaidSentence)]
