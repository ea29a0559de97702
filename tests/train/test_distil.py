"""A student learns a teacher's probabilities: the loss is theirs, and the text's own tokens are learned where asked."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from slamray.config.compute import Compute
from slamray.config.training import OptimSettings, PretrainSettings
from slamray.model.unit_lm import load_unit_lm
from slamray.tokens.documents import delimit
from slamray.tokens.rows import IGNORE, RowStore, write_rows
from slamray.tokens.vocabulary import Vocabulary
from slamray.train.distil import Distilling
from slamray.train.objective import summed_divergence
from slamray.train.pretrain import pretrain

CONTEXT = 32
CONFIG = PretrainSettings(
    budget="steps:60", tokens_per_step=8 * CONTEXT, optim=OptimSettings(learning_rate=1e-2), validation_rows=8
)
EXACT = Compute(micro_batch=8, dtype="float32", report_every_steps=1, checkpoint_every_seconds=1e6)
pytestmark = pytest.mark.usefixtures("group")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows/, model/ and teacher/: the teacher is random, and sure of itself."""
    folder = tmp_path_factory.mktemp("distilled")
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.of_text(22, 0, 1, "a tokeniser")
    write_rows(folder / "rows", [delimit(rng.integers(2, 22, 20), vocabulary) for _ in range(60)], vocabulary, CONTEXT)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2}
    shape |= {"vocab_size": 22, "num_hidden_layers": 1, "tie_word_embeddings": True}
    Qwen2ForCausalLM(Qwen2Config(**shape)).save_pretrained(folder / "model")
    teacher = LlamaForCausalLM(LlamaConfig(**shape))
    with torch.no_grad():
        teacher.model.embed_tokens.weight.mul_(30)
    teacher.save_pretrained(folder / "teacher")
    return folder


def _train(data: Path, out: Path, share: float) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    kind = partial(Distilling, data / "teacher", share)
    pretrain(CONFIG, EXACT, data / "model", data / "rows", data / "rows", out, reports.append, kind=kind)
    return reports


def _divergence(data: Path, student: Path) -> float:
    """Nats a target of KL(teacher || student), by scipy, row by row and piece by piece."""
    models = [load_unit_lm(folder).eval() for folder in (data / "teacher", student)]
    rows, total, targets = RowStore(data / "rows"), 0.0, 0
    for row in range(rows.rows):
        column = 0
        for length in rows.lengths_P[rows.offsets[row] : rows.offsets[row + 1]]:
            ids = torch.from_numpy(rows.tokens_RC[row, column : column + length].astype(np.int64))[None]
            with torch.no_grad():
                taught, own = (np.exp(log_softmax(model(ids).logits[0, :-1].double().numpy(), 1)) for model in models)
            total, targets, column = total + float(rel_entr(taught, own).sum()), targets + length - 1, column + length
    return total / targets


def test_the_divergence_is_that_of_scipy_and_counts_targets_alone() -> None:
    rng = np.random.default_rng(0)
    own, taught = rng.normal(size=(2, 5, 7)).astype(np.float32)
    targets = np.array([3, IGNORE, 0, 6, IGNORE])
    chosen = targets != IGNORE
    expected = rel_entr(np.exp(log_softmax(taught[chosen], 1)), np.exp(log_softmax(own[chosen], 1))).sum()
    found = summed_divergence(torch.from_numpy(own), torch.from_numpy(taught), torch.from_numpy(targets))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_student_comes_to_predict_as_its_teacher_does(data: Path, tmp_path: Path) -> None:
    before = _divergence(data, data / "model")
    reports = _train(data, tmp_path, 1.0)
    assert before > 0.5 and _divergence(data, tmp_path / "model") < before / 2
    first = next(report["loss"] for report in reports if "loss" in report)
    assert first == pytest.approx(before, rel=0.1)  # of the rows of the first step, not of all


def test_the_share_weighs_the_text_against_the_teacher(data: Path, tmp_path: Path) -> None:
    losses = {share: _train(data, tmp_path / str(share), share)[0]["loss"] for share in (1.0, 0.5, 1e-9)}
    assert losses[1e-9] == pytest.approx(math.log(22), rel=0.02)  # a fresh model knows nothing of the text
    assert losses[0.5] == pytest.approx((losses[1.0] + losses[1e-9]) / 2, rel=1e-5)
