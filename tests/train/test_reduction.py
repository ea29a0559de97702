"""In which type and in how large buckets gradients are added up over workers: real DeepSpeed, two ranks on gloo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from deepspeed import comm
from support.processes import run_ranks
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2ForCausalLM

from slamray.config.budget import Budget
from slamray.config.compute import Compute
from slamray.config.training import DpoSettings, PretrainSettings
from slamray.tokens.vocabulary import Vocabulary
from slamray.train.dpo import align as dpo
from slamray.train.dpo.pairs import to_pair_tokens
from slamray.train.loop import Run
from slamray.train.pretrain import make_engine

COMPUTE = Compute(workers=2, dtype="bfloat16", micro_batch=2, dpo_micro_batch=2)
FEW = 100  # numbers: losses, norms and times are fewer, and a bucket of gradients holds more
REDUCTIONS = ("all_reduce", "reduce", "reduce_scatter_tensor", "all_to_all_single")


def build_model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=22, num_hidden_layers=2, tie_word_embeddings=True, **shape))


class Reduced:
    """Hears in which types tensors are reduced that may be gradients: those of many numbers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.types: set[str] = set()
        for name in REDUCTIONS:
            monkeypatch.setattr(dist, name, self._heard(getattr(dist, name)))
        monkeypatch.setattr(comm, "reduce_scatter_fn", self._heard(comm.reduce_scatter_fn))  # of ZeRO 3

    def _heard(self, function: Any) -> Any:
        def heard(*args: Any, **kwargs: Any) -> Any:
            tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor) and one.numel() > FEW]
            self.types |= {str(one.dtype) for one in tensors if one.is_floating_point()}
            return function(*args, **kwargs)

        return heard


def pretraining(rank: int, zero_stage: int, deepspeeds_own: bool) -> dict[str, Any]:
    """A step of pre-training's engine. deepspeeds_own: with its own list of modules to reduce in autocast's type."""
    compute = COMPUTE.model_copy(update={"zero_stage": zero_stage})
    with pytest.MonkeyPatch.context() as monkeypatch:
        if deepspeeds_own:
            monkeypatch.setattr("deepspeed.runtime.config.get_lower_precision_safe_modules", lambda settings: None)
        heard = Reduced(monkeypatch)
        engine, optimiser = make_engine(build_model(), PretrainSettings(), compute, 1)
        tokens_BC = torch.randint(2, 22, (2, 32), generator=torch.Generator().manual_seed(rank))
        logits_BCV = engine(input_ids=tokens_BC, use_cache=False).logits
        loss = cross_entropy(logits_BCV.flatten(0, 1).float(), tokens_BC.flatten())
        types = {str(module.weight.dtype) for module in engine.module.modules() if isinstance(module, torch.nn.Linear)}
        engine.backward(loss, scale_wrt_gas=False)
        engine.step()
    buckets = sorted(str(one) for one in optimiser.ipg_buckets)
    return {
        "buckets": buckets,
        "reduced": sorted(heard.types),
        "weights": sorted(types),
        "products": str(logits_BCV.dtype),
        "size": optimiser.reduce_bucket_size,
    }


def preferences(out: Path, zero_stage: int) -> dict[str, Any]:
    """The same of DPO's engine, after a step of TRL's loop."""
    compute = COMPUTE.model_copy(update={"zero_stage": zero_stage})
    config = DpoSettings(budget="steps:1", pairs_per_step=4, context=64)
    rng = np.random.default_rng(0)
    pairs = [
        {"pair_id": f"{n}"} | {part: rng.integers(0, 20, 9) for part in ("prompt", "chosen", "rejected")}
        for n in range(8)
    ]
    tokens, _ = to_pair_tokens(pairs, Vocabulary.of_units(20), 64)
    dpo._claim_device(compute)
    run = Run(Budget("steps", 1), compute, out, lambda metrics: None)
    trainer = dpo._trainer(config, compute, build_model(), tokens, np.zeros((8, 2)), run)
    with pytest.MonkeyPatch.context() as monkeypatch:
        heard = Reduced(monkeypatch)
        trainer.train()
    optimiser = trainer._engine.optimizer
    run.wait()
    buckets = sorted(str(one) for one in optimiser.ipg_buckets)
    sizes = [optimiser.reduce_bucket_size, optimiser.allgather_bucket_size]
    autocast = trainer._engine.torch_autocast_enabled()  # else it would switch the trainer's own off on a GPU
    return {"buckets": buckets, "reduced": sorted(heard.types), "sizes": sizes, "autocast": autocast}


def measure(rank: int, folder: Path) -> None:
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in build_model().parameters())}
    for zero_stage in (1, 2, 3):
        found[f"ours {zero_stage}"] = pretraining(rank, zero_stage, False)
        found[f"DeepSpeed's {zero_stage}"] = pretraining(rank, zero_stage, True)
    found["DPO"] = preferences(folder / "dpo", 1)
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_gradients_are_reduced_in_float32_under_zero_where_deepspeed_would_round_them(tmp_path: Path) -> None:
    run_ranks(measure, 2, tmp_path)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for zero_stage in (1, 2, 3):
            ours, own = (found[f"{whose} {zero_stage}"] for whose in ("ours", "DeepSpeed's"))
            assert ours["buckets"] == ours["reduced"] == ours["weights"] == ["torch.float32"]
            assert ours["products"] == "torch.bfloat16"
            assert "torch.bfloat16" in own["buckets"] and "torch.bfloat16" in own["reduced"]  # the check can fail
            assert ours["size"] == found["parameters"]
        assert found["DPO"]["buckets"] == found["DPO"]["reduced"] == ["torch.float32"]
        assert found["DPO"]["autocast"]
        assert found["DPO"]["sizes"] == [found["parameters"]] * 2
