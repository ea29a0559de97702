"""The text tokeniser of a base model: which vocabulary it makes, and text to ids and back."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from slamray.config.base import asset_path
from slamray.errors import BadInput
from slamray.tokens.vocabulary import TAGS, Vocabulary

PROBE = "cat"  # transformers makes an empty tokeniser for a folder without one; this tells the two apart


class TextTokeniser:
    """Text to ids without specials, and back.

    base: a folder or hub id. fetch: whether the hub may be asked. BadInput where there is no tokeniser.
    """

    def __init__(self, base: str, revision: str | None = None, fetch: bool = True) -> None:
        found: Any = _read(base, revision, fetch)
        if found is None or PROBE not in found.decode(found(PROBE)["input_ids"]):
            raise BadInput(f"model.base={base}: no tokeniser is in it; a model of text needs its tokenizer.json")
        self._tokeniser = found

    @property
    def vocabulary(self) -> Vocabulary:
        """Its tokens, specials included. <S> is the token that begins texts, or else the one that ends them.

        Identity: SHA-256 of the tokeniser's own form, so that neither the order of keys in a file nor the file's name
        counts, and every change of a token, of its id or of how text is cut does.
        """
        tokeniser = self._tokeniser
        bos = tokeniser.eos_token_id if tokeniser.bos_token_id is None else tokeniser.bos_token_id
        if bos is None:
            raise BadInput("model.base: its tokeniser has no token that begins or ends a text; choose another base")
        pad = bos if tokeniser.pad_token_id is None else tokeniser.pad_token_id
        content = hashlib.sha256(tokeniser.backend_tokenizer.to_str().encode()).hexdigest()
        return Vocabulary.of_text(len(tokeniser), int(pad), int(bos), content)

    def __call__(self, text: str) -> list[int]:
        """Ids of a text, without specials."""
        ids: list[int] = self._tokeniser(text, add_special_tokens=False)["input_ids"]
        return ids

    def with_units(self, vocabulary: Vocabulary) -> Any:
        """A tokeniser for transformers that knows <Un0>, <Un1>, .. and the tags too, by the vocabulary's ids."""
        found = copy.deepcopy(self._tokeniser)
        words = [*(f"<Un{unit}>" for unit in range(vocabulary.n_units)), *TAGS]
        found.add_tokens([AddedToken(word, normalized=False) for word in words])
        assert len(found) == vocabulary.size, f"{len(found)} words, {vocabulary.size} ids"
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; those of other modalities must have been left out."""
        text: str = self._tokeniser.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _read(base: str, revision: str | None, fetch: bool) -> Any:
    """tokenizer.json as it is, or what transformers makes of older files (OPT's vocab.json and merges.txt).

    As it is: the class that transformers names for a family may add tokens of its own, which no row of the model is of
    (Qwen2's adds <|endoftext|>). What a folder holds is never executed: trust_remote_code stays off.
    """
    for kind in (PreTrainedTokenizerFast, AutoTokenizer):
        try:
            found = kind.from_pretrained(asset_path(base), revision=revision or "main", local_files_only=not fetch)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if found.is_fast:
            return found
    return None
