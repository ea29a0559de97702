"""What test_gpu_node.py runs apart: a cluster that says it has a GPU, and what its workers then run on, as JSON."""

import contextlib
import io
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.runtime import gpus
from slamray.runtime import train as train_module
from slamray.runtime.engine import Engine
from slamray.stage.work import Pool, Report

# `sitecustomize.py`: where DeepSpeed looks for a GPU it is to find one, whatever is visible; nobody else is.
PLANT = """
import sys
class Plant:
    def find_spec(self, name, path=None, target=None):
        if name == "deepspeed":
            import torch
            def planted(answer, function):
                def asked():
                    who = sys._getframe(1).f_globals["__name__"]
                    return answer if who == "deepspeed.accelerator.real_accelerator" else function()
                return asked
            torch.cuda.device_count = planted(1, torch.cuda.device_count)
            torch.cuda.is_available = planted(True, torch.cuda.is_available)
sys.meta_path.insert(0, Plant())
"""


@dataclass(frozen=True)
class Row:
    out: str


class Look:
    """An actor that asked for no GPU."""

    def __call__(self, row: Row) -> Row:
        Path(row.out).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        return row


def look() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all")


def loop(report: Report) -> dict[str, Any]:
    """A step of pre-training's engine."""
    import torch
    from deepspeed.accelerator import get_accelerator, real_accelerator
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from slamray.config.training import PretrainSettings
    from slamray.train.pretrain import make_engine

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=22, num_hidden_layers=1, **shape))
    engine, _ = make_engine(model, PretrainSettings(), Compute(dtype="float32", zero_stage=1), 1)
    loss = engine(input_ids=torch.ones(8, 16, dtype=torch.long)).logits.logsumexp(-1).sum()
    engine.backward(loss, scale_wrt_gas=False)
    engine.step()
    accelerator = get_accelerator().device_name()
    del os.environ["DS_ACCELERATOR"]
    real_accelerator.ds_accelerator = None
    return {
        "accelerator": accelerator,
        "accelerator without our word": get_accelerator().device_name(),
        "engine": str(engine.device),
        "loss": str(loss.device),
        "visible": look(),
    }


def tell(folder: Path, what: str) -> None:
    with (folder / "told").open("a") as file:
        file.write(what + "\n")


def train(folder: Path, report: Report) -> dict[str, Any]:
    """Its worker dies once, when scoring has asked for the GPU."""
    tell(folder, "trains")
    if not (folder / "died").exists():
        while not (folder / "asked").exists():
            time.sleep(0.1)
        time.sleep(3)  # an actor of a free GPU would be there now
        (folder / "died").touch()
        os._exit(1)
    tell(folder, "has trained")
    return {}


class Score:
    def __call__(self, row: Row) -> Row:
        tell(Path(row.out).parent, "scores")
        return row


def side_by_side(folder: Path) -> list[str]:
    """What was heard of a training that starts again while scoring wants the same GPU."""
    nccl = train_module.TorchConfig
    train_module.TorchConfig = lambda backend, timeout_s: nccl(backend="gloo", timeout_s=timeout_s)
    engine = Engine(Compute(device="cuda", stall_seconds=5))
    (seat,) = engine.seats(1)
    with ThreadPoolExecutor() as beside:
        training = beside.submit(engine.train, "train", partial(train, folder), folder / "train" / "0")
        while not (folder / "told").exists():
            time.sleep(0.1)
        (folder / "asked").touch()
        seat.rows("score", [Row(str(folder / "score"))], [Pool(Score, {}, actors=1, gpus=1)], 1, "rows")
        training.result()
    return (folder / "told").read_text().splitlines()


def main(folder: Path) -> None:
    # annotations stay classes, not strings, so that records travel with their kernels
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    ray.init = partial(ray.init, num_cpus=4, num_gpus=1)
    engine = Engine(Compute(max_failures=0))
    engine.connect()
    (seat,) = engine.seats(1)
    rows, pools = [Row(str(folder / "actor"))], [Pool(Look, {}, actors=1)]
    with ThreadPoolExecutor() as beside:  # most of the time is the start of processes
        asked = {
            "call": beside.submit(engine.call, "look", look),
            "call with a GPU": beside.submit(engine.call, "look", look, 1),
            "loop": beside.submit(engine.train, "loop", loop, folder / "loop"),
            "rows": beside.submit(seat.rows, "look", rows, pools, 1, "rows"),
        }
    found: dict[str, Any] = {name: one.result() for name, one in asked.items()}
    found["actor"] = (folder / "actor").read_text()
    with contextlib.redirect_stderr(io.StringIO()) as said:
        gpus.probe_gpus(Compute(dtype="float32"), 1)
    found["probe of a CPU"] = said.getvalue()
    try:
        Engine(Compute(device="cuda")).probe(1, folder)
    except BadInput as error:
        found["probe of the GPU"] = str(error)
    found["side by side"] = side_by_side(folder)
    found["node"] = ray.nodes()[0]["NodeManagerHostname"]
    engine.close()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
