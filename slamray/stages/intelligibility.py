"""Stage `intelligibility`: word error rate of resynthesised evaluation stories, beside that of the voice itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from slamray.config.assets import AssetsSettings
from slamray.config.speech import EncoderSettings
from slamray.runtime.engine import Engine
from slamray.stage.stage import Facts, Folders
from slamray.stages import corpus
from slamray.stages.vocoder import MODEL, Heard, encoder_of


def run(folders: Folders, out: Path, config: AssetsSettings, given: EncoderSettings, engine: Engine) -> Facts:
    """Recognise stories three ways: as spoken, and from their units with true and with predicted durations."""
    work = partial(
        measure, folders["recordings"], folders["corpus"], encoder_of(folders, config, given),
        folders["vocoder"] / MODEL, config.intelligibility_documents,
    )  # fmt: skip
    return engine.call("intelligibility", work)


def measure(audio: Path, texts: Path, encoder: EncoderSettings, vocoder: Path, documents: int) -> Facts:
    """Word error rates: `voice` of the recordings, `true_durations` and `predicted_durations` of resynthesis.

    vocoder: folder of the model. documents: the first evaluation stories by order of id.
    """
    from slamray.evaluate.wer import RATE_HZ, Recogniser, word_errors
    from slamray.speech.audio import resample
    from slamray.speech.decoders.source_filter import load_vocoder
    from slamray.speech.encoders.kmeans import deduplicate

    recognise, speak = Recogniser(), load_vocoder(vocoder)
    wanted = {row["doc_id"]: " ".join(row["sentences"]) for row in corpus.read(texts, "evaluation")}
    pairs: dict[str, list[tuple[str, str]]] = {"voice": [], "true_durations": [], "predicted_durations": []}
    for doc_id, units, pcm in Heard(audio, encoder).read("evaluation", documents):
        runs, durations = deduplicate(units)
        pairs["voice"].append((wanted[doc_id], recognise(pcm)))
        for name, given in (("true_durations", durations), ("predicted_durations", None)):
            made = resample(speak(runs, given), speak.rate_hz, RATE_HZ)
            pairs[name].append((wanted[doc_id], recognise(made)))
    found = {name: word_errors(rows) for name, rows in pairs.items()}
    rates = {name: round(errors.rate, 4) for name, errors in found.items()}
    return {"word_error_rate": rates, "stories": len(pairs["voice"]), "words": found["voice"].words}
