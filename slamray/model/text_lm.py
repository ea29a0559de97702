"""The small text LM that TWIST starts from on a laptop: its BPE tokeniser, its documents as token ids, its model.

Training it is `pretrain`: a loop over packed tokens does not care what the tokens are. The specials are those of the
unit vocabulary (slamray/units.py), so packing and loop need no second convention.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from slamray.config.training import TextLmShape
from slamray.errors import BadInput
from slamray.tokens.documents import to_document
from slamray.tokens.vocabulary import BOS, PAD, Ints, Tokens

SPECIALS = ("<PAD>", "<S>")  # ids 0 and 1, as PAD and BOS in slamray/units.py


def train_tokeniser(texts: Iterable[str], size: int, folder: Path) -> None:
    """Byte-level BPE of `size` tokens, bytes and specials included, as a folder that AutoTokenizer loads."""
    tokeniser = Tokenizer(models.BPE())
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokeniser.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokeniser.train_from_iterator(texts, trainer)
    if tokeniser.get_vocab_size() != size:
        raise BadInput(f"text_lm.vocab_size={size}: more than the text yields")
    pad, special = SPECIALS
    assert (tokeniser.token_to_id(pad), tokeniser.token_to_id(special)) == (PAD, BOS)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokeniser, pad_token=pad, bos_token=special, eos_token=special)
    fast.save_pretrained(folder)


def encode_documents(texts: Iterable[str], tokeniser_folder: Path) -> tuple[Tokens, Ints]:
    """Token ids (uint16) of all documents, each `<S> .. <S>`, concatenated, and their lengths: for write_rows."""
    tokeniser = AutoTokenizer.from_pretrained(tokeniser_folder)
    assert len(tokeniser) <= 2**16
    documents = [to_document(np.array(ids, dtype=np.uint16)) for ids in tokeniser(list(texts))["input_ids"]]
    if not documents:
        raise BadInput("text_lm: there is no text to train on")
    return np.concatenate(documents), np.array([len(document) for document in documents], dtype=np.int64)


def build_text_lm(config: TextLmShape, seed: int) -> Qwen2ForCausalLM:
    """A fresh Qwen2 of the given shape, float32, tied head, RoPE base 10 000."""
    if config.hidden % config.heads or config.heads % config.kv_heads:
        raise BadInput(
            f"text_lm: heads={config.heads} must divide hidden={config.hidden}, kv_heads={config.kv_heads} heads"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.kv_heads,
                intermediate_size=config.ffn,
                tie_word_embeddings=True,
                pad_token_id=PAD,
                bos_token_id=BOS,
                eos_token_id=BOS,
            )
        )
