"""Stage `packed` of a model of text and speech: documents of each kind to rows, and how often each kind is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from slamray.config.budget import parse_budget
from slamray.config.model import PackSettings
from slamray.config.shares import REST, Share, epochs_of, is_read, resolve
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN, VALIDATION
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import joint_documents
from slamray.stages.packed import SOURCES, pack_apart_from_driver, source_names, write_documents, write_mixture
from slamray.tokens.documents import Documents
from slamray.tokens.rows import Source, lengths_of
from slamray.tokens.vocabulary import Vocabulary

STAGES = {source: stage for stage, source in SOURCES.items()}  # of sources whose name is not their stage's


def stage(recipe: Recipe, documents: Stage, synthetic: Sequence[Stage], vocabulary: Vocabulary) -> Stage:
    """From documents of every kind; synthetic: the stage `spoken_text`, where there is one."""
    settings: dict[str, Any] = {"pack": recipe.pack, "kinds": recipe.joint.kinds, "vocabulary": vocabulary}
    if _in_epochs(recipe.joint.kinds):
        settings["budget_tokens"] = budget_tokens(recipe)
    return Stage("packed", run, settings, (documents, *synthetic))


def budget_tokens(recipe: Recipe) -> float | None:
    """Training tokens of a budget that says how many they are; else None."""
    budget = parse_budget(recipe.pretrain.budget, "pretrain.budget")
    per_unit = {"tokens": 1, "steps": recipe.pretrain.tokens_per_step}.get(budget.kind)
    return None if per_unit is None else budget.amount * per_unit


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    pack: PackSettings,
    kinds: dict[str, Share],
    vocabulary: Vocabulary,
    budget_tokens: float | None = None,
) -> dict[str, Any]:
    """Training rows of each kind and source apart, read by their shares of the tokens; validation rows hold all.

    budget_tokens: of the training, where shares are whole epochs. Facts count rows, tokens and targets of each split,
    and of each kind its share and its passes in a round.
    """
    work = partial(_packed, inputs, out, pack, kinds, vocabulary, budget_tokens)
    return pack_apart_from_driver(machine, "packed", work)


def _packed(
    inputs: Inputs,
    out: Folder,
    pack: PackSettings,
    kinds: dict[str, Share],
    vocabulary: Vocabulary,
    budget_tokens: float | None,
) -> dict[str, Any]:
    used = [key for key, share in kinds.items() if is_read(share)]
    train = {key: _source(inputs, TRAIN, key) for key in used}
    shares = _numbers({key: kinds[key] for key in used}, train, budget_tokens)
    mixed = pack.model_copy(update={"mixture": shares})

    def validation() -> Iterator[Documents]:
        return itertools.chain.from_iterable(_source(inputs, VALIDATION, key)() for key in used)

    return {
        TRAIN: write_mixture(out / TRAIN, train, vocabulary, mixed, "joint.kinds"),
        VALIDATION: write_documents(out / VALIDATION, validation, vocabulary, pack, VALIDATION),
    }


def _source(inputs: Inputs, split: str, key: str) -> Source:
    """Documents of a kind, or of a kind from one source."""
    kind, _, source = key.partition("/")
    folder = inputs["spoken_text" if kind == "synthetic" else "documents"]
    return partial(joint_documents.read, folder, split, kind, STAGES.get(source, source))


def _numbers(kinds: Mapping[str, Share], train: Mapping[str, Source], budget_tokens: float | None) -> dict[str, float]:
    """Each share as a number: what is said in epochs is counted."""
    counted = {key: int(lengths_of(train[key]).sum()) for key in kinds if _in_epochs({key: kinds[key]})}
    found = {one.name: one.share for one in resolve(kinds, counted, budget_tokens)}
    return {key: share for key, share in found.items() if share is not None}


def _in_epochs(kinds: Mapping[str, Share]) -> bool:
    return any(epochs_of(share) is not None for share in kinds.values())


def check(recipe: Recipe) -> None:
    """BadInput for shares that are none, and for a mixture beside them."""
    joint, shares = recipe.joint, recipe.joint.kinds
    if not shares:
        if joint.text is not None:
            raise BadInput("joint.text: of a model of text and speech; say joint.kinds={text: SHARE, ...} too")
        return
    _check_together(shares)
    if _in_epochs(shares) and budget_tokens(recipe) is None:
        raise BadInput(
            f"joint.kinds: shares in epochs need to know how many tokens are read, and pretrain.budget="
            f"{recipe.pretrain.budget} does not say; give it in tokens or steps"
        )
    sources = source_names(recipe.recorded)
    for key in shares:
        source = key.partition("/")[2]
        if source and source not in sources:
            raise BadInput(f"joint.kinds.{key}: no source is called {source}; there are {' '.join(sources)}")
    if recipe.pack.mixture:
        raise BadInput("pack.mixture: of units alone; in a model of text and speech joint.kinds says the shares")


def _check_together(shares: Mapping[str, Share]) -> None:
    rests = [key for key, share in shares.items() if share == REST]
    fixed = sum(share for share in shares.values() if not isinstance(share, str))
    if len(rests) > 1:
        raise BadInput(f"joint.kinds: one of {', '.join(rests)} alone can be the rest; give the others a share")
    if _in_epochs(shares) and not rests:
        raise BadInput("joint.kinds: beside shares in epochs one must be the rest, as in synthetic: rest")
    if rests and fixed >= 1:
        raise BadInput(f"joint.kinds: {fixed:g} of the tokens are given away, nothing is left for {rests[0]}")
    if not rests and abs(fixed - 1) > 1e-6:
        raise BadInput(f"joint.kinds: {dict(shares)} are no shares: they sum to {fixed:g}, not to 1")
