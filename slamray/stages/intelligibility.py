"""Stage `intelligibility`: word error rate of resynthesised evaluation stories, beside that of the voice itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from slamray.config.speech import EncoderSettings
from slamray.config.tree import Recipe
from slamray.speech.audio import RATE_HZ, resample
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import corpus, decoder
from slamray.stages.checkpoints import MODEL
from slamray.stages.decoder import Heard, Hearing, encoder_of, heard_by


@dataclass(frozen=True)
class IntelligibilityFacts:
    """word_error_rate: of the `voice`, and of resynthesis with `true_durations` and `predicted_durations`."""

    word_error_rate: Mapping[str, float]
    stories: int
    words: int


def stage(recipe: Recipe, documents: Stage, spoken: Stage, encoder: Stage | None, trained: Stage) -> Stage:
    """trained: the stage of the decoder. encoder: as in `decoder.stage`."""
    settings = {"documents": recipe.assets.intelligibility_documents, **heard_by(recipe, encoder)}
    inputs = (documents, spoken, *((encoder,) if encoder else ()), trained)
    return Stage("intelligibility", run, settings, inputs)


def run(
    inputs: Inputs, out: Folder, machine: Machine, documents: int, given: EncoderSettings | None, layer: int
) -> IntelligibilityFacts:
    """Recognise the first evaluation stories, by order of id, three ways."""
    work = partial(
        measure_intelligibility,
        inputs["recordings"],
        inputs["corpus"],
        encoder_of(inputs, given, layer),
        inputs[decoder.NAME] / MODEL,
        documents,
    )
    facts: IntelligibilityFacts = machine.call("intelligibility", work)
    return facts


def measure_intelligibility(
    audio: Folder, texts: Folder, encoder: Hearing, vocoder: Folder, documents: int
) -> IntelligibilityFacts:
    """Word error rates of the voice and of resynthesis. vocoder: folder of the model."""
    from slamray.evaluate.wer import Recogniser, word_errors
    from slamray.speech.decoders.table import load_decoder
    from slamray.speech.encoders.kmeans import deduplicate

    recognise, speak = Recogniser(), load_decoder(vocoder.fetch())
    wanted = {document.doc_id: document.text for document in corpus.read(texts, "evaluation")}
    pairs: dict[str, list[tuple[str, str]]] = {"voice": [], "true_durations": [], "predicted_durations": []}
    for doc_id, units, pcm in Heard(audio, encoder.settings()).read("evaluation", documents):
        runs, durations = deduplicate(units)
        pairs["voice"].append((wanted[doc_id], recognise(pcm)))
        for name, frames in (("true_durations", durations), ("predicted_durations", None)):
            sound = resample(speak(runs, frames), speak.rate_hz, RATE_HZ)
            pairs[name].append((wanted[doc_id], recognise(sound)))
    found = {name: word_errors(rows) for name, rows in pairs.items()}
    rates = {name: round(errors.rate, 4) for name, errors in found.items()}
    return IntelligibilityFacts(rates, len(pairs["voice"]), found["voice"].words)
