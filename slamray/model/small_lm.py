"""The small text LM that TWIST starts from on a laptop: its BPE tokeniser, its documents as token ids, its model.

Training it is `pretrain`: the loop knows ids and masks, not what they mean. The tokeniser's first two ids are the
specials of the unit-only vocabulary (tokens/vocabulary.py), so a document begins and ends alike in both.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from slamray import store
from slamray.config.text_lm import TextLmShape
from slamray.errors import BadInput
from slamray.tokens.documents import Document, delimit
from slamray.tokens.vocabulary import BOS, PAD, SPECIALS, Vocabulary


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


def text_vocabulary(tokeniser_folder: Path) -> Vocabulary:
    """The vocabulary of a tokeniser that `train_tokeniser` left."""
    size = len(AutoTokenizer.from_pretrained(tokeniser_folder))
    return Vocabulary.of_text(size, PAD, BOS, store.sha256_of(tokeniser_folder / "tokenizer.json"))


def encode_documents(texts: Iterable[str], tokeniser_folder: Path, vocabulary: Vocabulary) -> list[Document]:
    """`<S> tokens <S>` of each text, every id a target."""
    tokeniser = AutoTokenizer.from_pretrained(tokeniser_folder)
    documents = [delimit(np.array(ids, vocabulary.dtype), vocabulary) for ids in tokeniser(list(texts))["input_ids"]]
    if not documents:
        raise BadInput("text_lm: there is no text to train on")
    return documents


def build_text_lm(
    config: TextLmShape, seed: int, kind: type[Qwen2Config | LlamaConfig] = Qwen2Config
) -> PreTrainedModel:
    """A fresh model of the given shape, float32, tied head, RoPE base 10 000.

    kind: AutoTokenizer reads the folder of a Qwen2 as byte-level BPE whatever is in it, and that of a Llama as it is.
    """
    if config.hidden % config.heads or config.heads % config.kv_heads:
        raise BadInput(
            f"text_lm: heads={config.heads} must divide hidden={config.hidden}, kv_heads={config.kv_heads} heads"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            kind(
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
        return model
