"""The vocabulary of a recipe: of units alone, or of the base's text and units."""

from __future__ import annotations

from functools import lru_cache

from slamray.config.base import UNKNOWN
from slamray.config.outside import is_hub_id
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.speech.encoders.table import check_encoder
from slamray.tokens.vocabulary import Vocabulary


def vocabulary_of(recipe: Recipe) -> Vocabulary:
    """What the ids of the recipe's rows, pairs and models mean.

    A base on the hub that is not fetched yet has as many text tokens as `joint.text_tokens` says. BadInput where it
    says nothing, or another number than the tokeniser does.
    """
    units = check_encoder(recipe.speech.encoder).vocabulary
    if not recipe.joint.kinds:
        return units
    base, said = recipe.model.base, recipe.joint.text_tokens
    try:
        text = _text_vocabulary(base, recipe.model.revision)
    except BadInput:
        if not is_hub_id(base) or said is None:
            raise
        return Vocabulary.joint(Vocabulary.of_text(said, 0, 0, UNKNOWN), units)
    if said not in (None, text.size):
        raise BadInput(f"joint.text_tokens={said}, but the tokeniser of model.base={base} has {text.size}")
    return Vocabulary.joint(text, units)


@lru_cache(maxsize=8)
def _text_vocabulary(base: str, revision: str | None) -> Vocabulary:
    """Of a tokeniser that is on this machine; no hub is asked."""
    from slamray.model.text_tokeniser import TextTokeniser  # seconds that a recipe of units alone does not need

    return TextTokeniser(base, revision, fetch=False).vocabulary
