"""The vocabulary of a saved model: what its config.json says of its ids, read without torch.

It stands in config.json under the key `vocabulary`, for that is what transformers' `save_pretrained` writes and
`from_pretrained` reads back with no code of ours: checkpoints, exports and copies of a model keep it, where a file of
our own beside the weights would stay behind. Models without the key still open: their vocabulary follows from their
number of rows, and who their units are is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from slamray.errors import BadInput
from slamray.given import check_weights, read_mapping
from slamray.tokens.vocabulary import BOS, FIRST_UNIT, PAD, Block, Vocabulary, reconcile

KEY = "vocabulary"
SLAMKIT_TYPE = "speech_language_model"  # model_type of the published unit LMs (slprl/slam; slamkit model/unit_lm.py)
_TOKENISERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")  # of text LMs


def stated_vocabulary(config: Mapping[str, Any], source: str, wanted: Vocabulary | None = None) -> Vocabulary | None:
    """What a config.json states about its ids; None where it states nothing. source: for errors.

    wanted: see `read_unit_vocabulary`. Who the text and the units of such a model are is unknown.
    """
    inner = config.get("base_config") or {}
    rows = config.get("vocab_size")
    if tree := config.get(KEY) or inner.get(KEY):
        found = Vocabulary.from_json(tree, source)
        if found.size != rows:
            raise BadInput(f"{source}: {rows} rows, but its vocabulary ({found}) has {found.size} ids")
        return found
    if config.get("model_type") == SLAMKIT_TYPE and wanted is not None and wanted.is_joint and rows == wanted.size:
        return replace(wanted, blocks=tuple(_unknown(block) for block in wanted.blocks))
    if config.get("n_units") is not None or config.get("model_type") == SLAMKIT_TYPE:
        return Vocabulary.of_units(int(rows or 0) - FIRST_UNIT)
    return None


def _unknown(block: Block) -> Block:
    return block if block.kind == "specials" else replace(block, identity="")


def model_vocabulary(config: Mapping[str, Any], source: str, wanted: Vocabulary | None = None) -> Vocabulary:
    """The vocabulary of a unit LM: what its config states, or else what its number of rows says."""
    return stated_vocabulary(config, source, wanted) or Vocabulary.of_units(int(config["vocab_size"]) - FIRST_UNIT)


def read_unit_vocabulary(
    folder: Path, source: str, by_itself: bool = False, wanted: Vocabulary | None = None
) -> Vocabulary:
    """The vocabulary of the unit LM in a folder, in transformers' or slamkit's layout.

    BadInput that begins with `source` for a text LM: a model that states a vocabulary without units, or states none
    and begins sequences with another id than <S>, or has a tokeniser beside it that does not know the unit <Un0>.
    by_itself: nothing else says how many units there are, so one that states none must have <S> and <PAD> for its
    special tokens. wanted: the vocabulary that it is to have; a published model of text and speech (slamkit's
    interleaved layout) states none, and is known by it where its rows are as many. BadInput, too, for weights that are
    not all there.
    """
    if not (folder / "config.json").is_file():
        raise BadInput(f"{source}: {folder} holds no model: config.json is missing")
    check_weights(folder)
    config = read_mapping(folder / "config.json")
    found = stated_vocabulary(config, source, wanted)
    if found is None:
        text = config.get("bos_token_id") not in (None, BOS) or _has_text_tokeniser(folder)
        text = text or (by_itself and not _has_our_specials(config))
        found = None if text else model_vocabulary(config, source)
    if found is None or not found.n_units:
        kind = f"vocabulary: {found}" if found else f"{config.get('vocab_size')} rows"
        raise BadInput(f"{source}: {folder} is a text LM ({kind}), not a unit LM; give a checkpoint that knows units")
    return found


def _has_our_specials(config: Mapping[str, Any]) -> bool:
    return [config.get(f"{name}_token_id") for name in ("pad", "bos", "eos")] == [PAD, BOS, BOS]


def _has_text_tokeniser(folder: Path) -> bool:
    files = [folder / name for name in _TOKENISERS if (folder / name).is_file()]
    return bool(files) and not any(b"<Un0>" in file.read_bytes() for file in files)


def adopt_vocabulary(config: Any, rows: Vocabulary | None, model_name: str, rows_name: str) -> None:
    """Check that a model (its transformers configuration) and its training rows have one vocabulary, and mark it.

    A model that states none must have as many rows as there are ids. rows None: nothing is known, nothing is done.
    BadInput names both sides and what differs.
    """
    if rows is None:
        return
    stated = stated_vocabulary(config.to_dict(), model_name)
    if stated is None and config.vocab_size != rows.size:
        raise BadInput(f"{model_name} has {config.vocab_size} rows, but {rows_name} ({rows}) has {rows.size} ids")
    set_vocabulary(config, reconcile(stated, rows, model_name, rows_name) if stated else rows)


def set_vocabulary(config: Any, vocabulary: Vocabulary) -> None:
    """Mark a transformers configuration; it keeps what it does not know, and writes it to config.json."""
    setattr(config, KEY, vocabulary.to_json())
