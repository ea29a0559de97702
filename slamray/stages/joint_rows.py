"""Stage `packed` of a model of text and speech: documents of each kind to rows, and how often each kind is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from slamray.config.joint import JointSettings
from slamray.config.model import PackSettings
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN, VALIDATION
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import joint_documents
from slamray.stages.packed import write_documents, write_mixture
from slamray.tokens.documents import Documents
from slamray.tokens.vocabulary import Vocabulary


def stage(recipe: Recipe, documents: Stage, synthetic: Sequence[Stage], vocabulary: Vocabulary) -> Stage:
    """From documents of every kind; synthetic: the stage `spoken_text`, where there is one."""
    settings = {"pack": recipe.pack, "kinds": recipe.joint.kinds, "vocabulary": vocabulary}
    return Stage("packed", run, settings, (documents, *synthetic))


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    pack: PackSettings,
    kinds: dict[str, float],
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """Training rows of each kind apart, read by their shares of the tokens; validation rows hold every kind.

    Facts count rows, tokens and targets of each split, and of each kind its share and its passes in a round.
    """
    used = [kind for kind, share in kinds.items() if share > 0]
    folders = {kind: inputs["spoken_text" if kind == "synthetic" else "documents"] for kind in used}
    train = {kind: partial(joint_documents.read, folders[kind], TRAIN, kind) for kind in used}
    mixed = pack.model_copy(update={"mixture": {kind: kinds[kind] for kind in used}})

    def validation() -> Iterator[Documents]:
        return itertools.chain.from_iterable(joint_documents.read(folders[kind], VALIDATION, kind) for kind in used)

    return {
        TRAIN: write_mixture(out / TRAIN, train, vocabulary, mixed, "joint.kinds"),
        VALIDATION: write_documents(out / VALIDATION, validation, vocabulary, pack, VALIDATION),
    }


def check(joint: JointSettings, pack: PackSettings) -> None:
    """BadInput for shares that are none, and for a mixture beside them."""
    shares = joint.kinds
    if not shares:
        if joint.text is not None:
            raise BadInput("joint.text: of a model of text and speech; say joint.kinds={text: SHARE, ...} too")
        return
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise BadInput(f"joint.kinds: {dict(shares)} are no shares: they sum to {sum(shares.values()):g}, not to 1")
    if pack.mixture:
        raise BadInput("pack.mixture: of units alone; in a model of text and speech joint.kinds says the shares")
