"""Print stories interleaved from both sources of spoken spans, side by side, from a finished run of text and speech.

    python docs/side_by_side.py root=FOLDER [stories=4] [out=docs/results/side_by_side.md]

(a) is what the run made of the voice's sound and its word times (stage `documents`), (b) what its text-to-token model
says of the same validation stories, which it never read. A spoken span stands as <units n> with what PocketSphinx
(slamray[dev]) hears in its units through the run's decoder; without it the units stand alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from slamray.config.load import load_recipe
from slamray.data.text import VALIDATION, TextDocument
from slamray.errors import BadInput
from slamray.evaluate.wer import Recogniser, has_recogniser
from slamray.model.text_tokeniser import TextTokeniser
from slamray.speech.audio import RATE_HZ, resample
from slamray.speech.decoders.table import load_decoder
from slamray.speech.fetch import place_of
from slamray.stage.folder import Folder
from slamray.stage.parts import read_parts
from slamray.stage.stage import MANIFEST, Manifest, read_manifest
from slamray.stages import corpus, text_to_token
from slamray.stages.checkpoints import MODEL
from slamray.stages.joint_documents import AUDIO
from slamray.stages.spoken_text_kernel import SpeakText
from slamray.tokens.joint_documents import by_modality
from slamray.tokens.vocabulary import Tokens, Vocabulary, read_vocabulary

WORDS = {"root", "stories", "out"}
OWN = "units"  # the stage that spoke the run's own stories
HEAD = """# The same stories from both sources of speech

Made by `python docs/side_by_side.py root=FOLDER` of the run `{words}` at `{commit}`; the stories are
of its validation split. (a) is the voice's sound cut at its word times, (b) what the text-to-token model says of a text
without a sound. Which words are spoken is drawn by the story's id, so both speak the same ones; a span that (b) did not
end stays text. `<units n>` is a spoken span of n units; after it what PocketSphinx hears in them through the run's
decoder{heard}.
"""

Hear = Callable[[np.ndarray], str]


@dataclass(frozen=True)
class Story:
    """A text, and its documents by both sources: ids (T,)."""

    text: str
    sound: Tokens
    model: Tokens


def newest(root: Path, stage: str) -> Folder:
    """The folder of a stage that ended last; BadInput where none has."""
    done = sorted(root.glob(f"{stage}/*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    if not done:
        raise BadInput(
            f"root={root}: no finished stage {stage}; give the root of a run such as recipe=interleaved_laptop"
        )
    return Folder(done[-1].parent)


def read_stories(root: Path, count: int) -> tuple[list[Story], Vocabulary, Manifest]:
    """The first stories by id that both sources speak, the run's vocabulary, and the record of its model."""
    documents, model = newest(root, "documents"), newest(root, text_to_token.NAME)
    record = read_manifest(model)
    recipe = load_recipe([word for word in record["provenance"]["words"] if not word.startswith(("--", "root="))])
    spoken = Folder(root) / OWN / read_manifest(documents)["inputs"][OWN]
    texts = Folder(root) / "corpus" / read_manifest(spoken)["inputs"]["corpus"]
    vocabulary = read_vocabulary(documents.fetch(""))
    assert vocabulary is not None, "the stage writes it"
    own = {
        row["doc_id"]: np.array(row["ids"], vocabulary.dtype)
        for table in read_parts(documents, f"{VALIDATION}/{AUDIO}-{OWN}", filters=pc.field("kind") == "interleaved")
        for row in table.to_pylist()
    }
    both: list[TextDocument] = [one for one in corpus.read(texts, VALIDATION) if one.doc_id in own]
    speak = SpeakText(
        str(model / MODEL),
        recipe.joint.interleave,
        recipe.joint.text_to_token.sampling,
        recipe.joint.text_to_token.engine,
        recipe.model,
        vocabulary,
        "cpu",
        recipe.compute.speak_text_batch,
    )
    rows, _ = speak.say(both)
    said = {row["doc_id"]: np.asarray(row["ids"]) for row in rows}
    found = [Story(one.text, own[one.doc_id], said[one.doc_id]) for one in both if one.doc_id in said]
    if not found:
        raise BadInput(f"root={root}: the text-to-token model ended no span of {len(both)} validation stories")
    return found[:count], vocabulary, record


def shown(ids: Tokens, vocabulary: Vocabulary, decode: Callable[[Sequence[int]], str], hear: Hear | None) -> str:
    """A document for a reader: words as text, each spoken span as `<units n>` with what is heard in it."""
    said = []
    for is_speech, own in by_modality(ids, vocabulary):
        if not is_speech:
            said.append(decode(own.tolist()).strip())
            continue
        heard = hear(vocabulary.to_units(own)) if hear else None
        said.append(f"`<units {len(own)}>`" + (f" *{heard or 'nothing'}*" if heard is not None else ""))
    return " ".join(said).replace("|", "\\|")


def page(root: Path, count: int) -> str:
    """The whole page."""
    stories, vocabulary, record = read_stories(root, count)
    provenance = record["provenance"]
    words = [word for word in provenance["words"] if not word.startswith(("--", "root="))]
    recipe = load_recipe(words)
    text = TextTokeniser(recipe.model.base, recipe.model.revision)
    hear = load_hearing(recipe.evaluate.vocoder) if has_recogniser() else None
    heard = "" if hear else ", which was not installed here"
    lines = [HEAD.format(words=" ".join(words), commit=provenance.get("commit", "unknown")[:7], heard=heard)]
    for number, story in enumerate(stories, start=1):
        cells = [shown(ids, vocabulary, text.decode, hear) for ids in (story.sound, story.model)]
        lines += [f"## Story {number}", "", story.text, "", "| (a) sound with word times | (b) text-to-token model |"]
        lines += ["|---|---|", f"| {cells[0]} | {cells[1]} |", ""]
    return "\n".join(lines)


def load_hearing(vocoder: str) -> Hear:
    """Units to the text that is heard in them."""
    decoder, recognise = load_decoder(place_of(vocoder, "evaluate.vocoder")), Recogniser()
    return lambda units: recognise(resample(decoder(units), decoder.rate_hz, RATE_HZ))


def main(arguments: Sequence[str]) -> int:
    """Print the page, or write it; 2 with one line when the words are at fault."""
    try:
        given = dict(word.split("=", 1) for word in arguments if "=" in word)
        count = given.get("stories", "4")
        if len(given) != len(arguments) or "root" not in given or given.keys() - WORDS or not count.isdigit():
            raise BadInput("give root=FOLDER, and perhaps stories=4 and out=FILE")
        made = page(Path(given["root"]), int(count))
    except BadInput as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if "out" in given:
        Path(given["out"]).write_text(made, encoding="utf-8")
    else:
        print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
