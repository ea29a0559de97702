"""What the device can do at best, and whether attention over packed rows is right on it.

Legend: B rows, C context, V vocabulary, H heads, G key and value heads, D channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AutoModelForCausalLM, OPTConfig, PreTrainedConfig, Qwen2Config

from gpu_parts.bench import Bench, Measured
from slamray.model.attention import BLOCKWISE, VARLEN, inside_pieces, register_attention, varlen_attention
from slamray.tokens.documents import Document
from slamray.tokens.rows import Batch, RowStore, write_rows
from slamray.tokens.vocabulary import Vocabulary

EXPANDED = "varlen_expanded"
CONTEXT, ROWS, WIDTH, HEADS = 128, 4, 256, 4
UNITS = Vocabulary.of_units(30)
# Of the size of all logits, or of the gradient. bfloat16 keeps 8 bits, through two layers and back; attention over the
# whole row is 0.3 and more off.
TOLERANCE = {"bfloat16": (0.03, 0.06), "float32": (1e-4, 1e-3)}
CROSSED = 1e-3  # the most that other pieces may change, of the change of the piece whose tokens are others


def ceilings(bench: Bench) -> None:
    """A large product in bfloat16, and a copy, counted in bytes read and written."""
    device, size, copied = bench.device, bench.sizes.product, bench.sizes.copied_bytes
    tflops, gigabytes = device.nominal
    one, other = (torch.randn(size, size, dtype=torch.bfloat16, device=device.kind) for _ in range(2))
    speeds = [2 * size**3 / seconds / 1e12 for seconds in device.seconds(lambda: one @ other, 10, 5)]
    bench.peak_tflops = max(speeds)
    what = f"product of two {size} x {size} matrices in bfloat16"
    bench.tell(what, "TFLOP/s", Measured.of(speeds), None if tflops is None else Measured.single(tflops))
    source = torch.randint(0, 255, (copied,), dtype=torch.uint8, device=device.kind)
    target = torch.empty_like(source)
    speeds = [2 * copied / seconds / 1e9 for seconds in device.seconds(lambda: target.copy_(source), 10, 5)]
    what = f"copy of {copied:,} bytes"
    bench.tell(what, "GB/s", Measured.of(speeds), None if gigabytes is None else Measured.single(gigabytes))


@dataclass(frozen=True)
class Path:
    """A way to compute attention."""

    name: str
    attention: str
    precision: str


PATHS = [
    Path("sdpa, float32", "sdpa", "float32"),
    Path("sdpa", "sdpa", "bfloat16"),
    Path("blockwise", BLOCKWISE, "bfloat16"),
    Path("varlen", VARLEN, "bfloat16"),
    Path("varlen, grouped heads expanded", EXPANDED, "bfloat16"),
]


def attention(bench: Bench) -> None:
    """Logits and gradients of a packed batch against those of each piece alone, in float32 on the CPU."""
    AttentionInterface.register(EXPANDED, _expanded_varlen)
    store = _rows_of_pieces(bench)
    batch = store.batch(np.arange(ROWS))
    counted_BC = _in_pieces(store)
    for family, config in _small_models().items():
        truth = _alone(config, store)
        for path in PATHS:
            if path.attention == EXPANDED and family != "qwen2":  # the one with grouped heads
                continue
            what = f"attention, {family}, {path.name}"
            if not bench.room(what):
                continue
            with bench.attempt(what), bench.device.tf32(False):
                _compare(bench, what, config, path, batch, counted_BC, truth, store)


@dataclass(frozen=True)
class Answer:
    """logits (places that count, V) float32, and the gradient of the sum of their logsumexp, flat."""

    logits: torch.Tensor
    gradient: torch.Tensor


def _compare(
    bench: Bench,
    what: str,
    config: PreTrainedConfig,
    path: Path,
    batch: Batch,
    counted_BC: torch.Tensor,
    truth: Answer,
    store: RowStore,
) -> None:
    model = _model(config, path.attention).to(bench.device.kind)
    found = _packed(bench, model, path, batch.inputs, batch, counted_BC)
    first_BC = torch.from_numpy(np.arange(CONTEXT) < store.lengths_P[store.offsets[:ROWS]][:, None])
    others = np.where(first_BC, (batch.inputs - 2 + 7) % 30 + 2, batch.inputs)
    change = (_packed(bench, model, path, others, batch, counted_BC).logits - found.logits).abs().amax(-1)
    inside, outside = (change[place[counted_BC]].max().item() for place in (first_BC, ~first_BC))
    off, size = (found.logits - truth.logits).abs().max().item(), truth.logits.abs().max().item()
    logits, gradient = (_relative(a, b) for a, b in ((found.logits, truth.logits), (found.gradient, truth.gradient)))
    most = TOLERANCE[path.precision]
    bench.tell(
        what,
        "largest difference of a logit",
        Measured.single(off),
        Measured.single(size),
        # written so that what is not a number fails
        gates={"logits": logits <= most[0], "gradient": gradient <= most[1], "pieces": outside <= CROSSED * inside},
        logits_off=logits,
        gradient_off=gradient,
        changed_in_other_pieces=outside,
        changed_in_the_piece=inside,
        tolerance=most,
    )


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def _packed(bench: Bench, model: Any, path: Path, inputs: np.ndarray, batch: Batch, counted_BC: torch.Tensor) -> Answer:
    """The packed batch as pre-training computes it."""
    device = bench.device.kind
    tokens_BC, positions_BC, boundaries_N = (
        torch.from_numpy(array).to(device) for array in (inputs, batch.positions, batch.boundaries)
    )
    attention = VARLEN if path.attention == EXPANDED else path.attention
    words = inside_pieces(positions_BC, boundaries_N, batch.context, attention)
    model.zero_grad()
    half = path.precision == bench.device.compute.precision == "bfloat16"
    with torch.autocast(device, torch.bfloat16, enabled=half):
        logits_BCV = model(input_ids=tokens_BC, position_ids=positions_BC, use_cache=False, **words).logits
    return _answer(model, logits_BCV[counted_BC.to(device)].float())


def _alone(config: PreTrainedConfig, store: RowStore) -> Answer:
    """Each piece by itself, in float32 on the CPU, by transformers' plain attention."""
    model, logits = _model(config, "eager"), []
    for piece in store.pieces()[: store.offsets[ROWS]]:
        tokens_C = torch.from_numpy(piece.ids.astype(np.int64))
        positions_C = torch.arange(len(tokens_C))
        logits.append(model(input_ids=tokens_C[None], position_ids=positions_C[None], use_cache=False).logits[0])
    return _answer(model, torch.cat(logits))


def _answer(model: Any, logits: torch.Tensor) -> Answer:
    logits.logsumexp(-1).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return Answer(logits.detach().cpu(), gradient.cpu())


def _rows_of_pieces(bench: Bench) -> RowStore:
    """Rows of two pieces and more, some of which end in padding."""
    folder = bench.folder / "pieces"
    rng = np.random.default_rng(0)
    lengths = (100, 88, 60, 50, 40, 40, 30, 25, 20, 15, 10)
    documents = [Document(rng.integers(2, UNITS.size, n).astype(np.uint16)) for n in lengths]
    write_rows(folder, documents, UNITS, CONTEXT)
    store = RowStore(folder)
    assert store.rows == ROWS and np.diff(store.offsets).min() >= 2 and store.tokens_R.min() < CONTEXT
    return store


def _in_pieces(store: RowStore) -> torch.Tensor:
    """(B, C): True at tokens, False at padding."""
    return torch.from_numpy(np.arange(CONTEXT) < store.tokens_R[:ROWS, None])


def _small_models() -> dict[str, PreTrainedConfig]:
    """Two layers; the heads are as wide as those of the models that are trained."""
    common: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "vocab_size": UNITS.size,
    }
    return {
        "qwen2": Qwen2Config(**common, num_key_value_heads=HEADS // 2, intermediate_size=2 * WIDTH),
        "opt": OPTConfig(**common, ffn_dim=2 * WIDTH, word_embed_proj_dim=WIDTH, max_position_embeddings=CONTEXT),
    }


def _model(config: PreTrainedConfig, attention: str) -> Any:
    """The same weights every time, so large that attention shows in the logits."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation=register_attention(attention)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.1, generator=generator)
    return model


def _expanded_varlen(
    module: torch.nn.Module,
    queries_BHCD: torch.Tensor,
    keys_BGCD: torch.Tensor,
    values_BGCD: torch.Tensor,
    mask: None,
    scaling: float,
    **words: Any,
) -> tuple[torch.Tensor, None]:
    """The project's varlen attention with a key and value head for each query head."""
    groups = queries_BHCD.shape[1] // keys_BGCD.shape[1]
    keys_BHCD, values_BHCD = (heads.repeat_interleave(groups, dim=1) for heads in (keys_BGCD, values_BGCD))
    return varlen_attention(module, queries_BHCD, keys_BHCD, values_BHCD, mask, scaling, **words)
