"""Stage `spoken_text`: spans of the corpus's text as units by a text-to-token model, as interleaved documents.

No sound is made. The kernel is in spoken_text_kernel.py; shards are merged into parts as those of speech are.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import pyarrow.compute as pc

from slamray.config.base import Located, part_of
from slamray.config.joint import ENGINE, OWN_ENGINE, Engine, InterleaveSettings, TextToTokenSampling
from slamray.config.model import BaseSettings
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN, VALIDATION
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stage.parts import Stretches, parts_of, read_parts
from slamray.stage.stage import Inputs, Stage
from slamray.stage.tables import read_quarantine
from slamray.stage.work import Machine, Pool
from slamray.stages import text_to_token
from slamray.stages.checkpoints import MODEL
from slamray.stages.joint_documents import TEXTS
from slamray.stages.shards import Plan
from slamray.stages.speak_and_listen import make_shards
from slamray.tokens.vocabulary import Vocabulary

NAME = "spoken_text"
SHARD_DOCUMENTS = 32  # what a kill may lose: on a CPU some ten seconds; chosen, not tuned


@dataclass(frozen=True)
class SpokenTextFacts:
    """spans: that were to be spoken; not_ended, loops: of these, spans that stayed text, by why. units: of the rest.

    quarantined: documents of which no span could be spoken.
    """

    documents: int
    quarantined: int
    spans: int
    not_ended: int
    loops: int
    units: int


def check(recipe: Recipe) -> None:
    """BadInput for an engine that does not run here."""
    if not recipe.joint.makes("synthetic") or recipe.joint.text_to_token.engine == "own":
        return
    if recipe.compute.device != "cuda":
        raise BadInput(f"{ENGINE}=vllm: vLLM runs on GPUs and compute.device is {recipe.compute.device}; {OWN_ENGINE}")
    if find_spec("vllm") is None:
        raise BadInput(f"{ENGINE}=vllm: vLLM is not installed here; {OWN_ENGINE}")


def stage(recipe: Recipe, documents: Stage, model: Stage, vocabulary: Vocabulary) -> Stage:
    """From the text of the corpus and the trained text-to-token model."""
    joint = recipe.joint
    settings = {
        "interleave": joint.interleave,
        "sampling": joint.text_to_token.sampling,
        "engine": joint.text_to_token.engine,
        "base": Located(lambda: None, part_of(recipe.model, BaseSettings)),
        "vocabulary": vocabulary,
        "train_documents": joint.synthetic_documents,
        "validation_documents": recipe.speech.validation_documents,
    }
    many = joint.synthetic_documents or "all"
    cost = f"spans of {many} documents, without a sound"
    return Stage(NAME, run, settings, (documents, model), version=2, cost=lambda: cost)


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    interleave: InterleaveSettings,
    sampling: TextToTokenSampling,
    engine: Engine,
    base: Located,
    vocabulary: Vocabulary,
    train_documents: int,
    validation_documents: int,
) -> SpokenTextFacts:
    """A table of documents for each split, of the kind `synthetic`."""
    cuda = machine.compute.device == "cuda"
    args = {
        "model": str(inputs[text_to_token.NAME] / MODEL),
        "interleave": interleave,
        "sampling": sampling,
        "engine": engine,
        "base": base.place,
        "vocabulary": vocabulary,
        "device": "cuda" if cuda else "cpu",
        "batch": machine.compute.speak_text_batch,
    }
    pool = Pool(
        "slamray.stages.spoken_text_kernel:SpeakText", args, machine.compute.score_actors, gpus=1 if cuda else 0
    )
    (text,) = (inputs[name] for name in TEXTS if name in inputs)
    found = SpokenTextFacts(0, 0, 0, 0, 0, 0)
    for split, limit in ((TRAIN, train_documents), (VALIDATION, validation_documents)):
        requests = Stretches(parts_of(text, split, limit), SHARD_DOCUMENTS)
        plan = Plan(requests, out / split, SHARD_DOCUMENTS, 0, table="synthetic")
        make_shards(f"spoken_text: {split}", plan, [pool], machine)
        found = _added(found, out / split)
    if not found.documents:
        raise BadInput("joint.kinds.synthetic: the text-to-token model ended no span; train it longer")
    return found


def _added(before: SpokenTextFacts, out: Folder) -> SpokenTextFacts:
    sums = dict.fromkeys(("spans", "not_ended", "loops", "units"), 0)
    documents = 0
    for table in read_parts(out, "synthetic", [*sums]):
        documents += len(table)
        sums = {name: count + (pc.sum(table[name]).as_py() or 0) for name, count in sums.items()}
    bad = len(read_quarantine(out))
    return SpokenTextFacts(
        before.documents + documents,
        before.quarantined + bad,
        **{name: getattr(before, name) + count for name, count in sums.items()},
    )
