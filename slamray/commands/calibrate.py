"""Measure on this machine the rates that `--plan` counts with, and leave them in rates.json below the root.

Each is measured with the recipe's own voice, encoder and shape of model, by the code that runs them, for some seconds;
texts are the stories that ship with the package. Voice and encoder get one core, as an actor does.
"""

from __future__ import annotations

import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from slamray import store
from slamray.commands.help import is_asked, print_help
from slamray.commands.run import quiet
from slamray.commands.words import as_command, split_words
from slamray.config.base import ASSETS, Settings, asset_path
from slamray.config.compute import Compute
from slamray.config.load import load_recipe
from slamray.config.rates import RATES, Rates
from slamray.config.tree import Recipe
from slamray.console import say
from slamray.recipe.ready import known
from slamray.runtime.engine import Engine
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.parts import Stretch
from slamray.stage.work import Pool
from slamray.stages import planning
from slamray.stages.estimate import Calibration, about
from slamray.stages.shards import Shard, ShardDone

STORIES = 200  # of the package's, at most, that are spoken
DISK_BYTES = 64_000_000  # of a file that is written
SHARDS = 2_000  # that are handed out
PAIRS = 64  # of DPO, in a step as many as one worker holds at once; of test pairs in a call
PAIR_UNITS = (60, 100), (30, 60), (30, 60)  # least and most of a prompt and its two sides: the demo's
SPOKEN_UNITS = 120, 260  # of a test utterance
TEXT_TOKENS = 15  # of a span of ten words, about
GROUP = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


class Words(Settings):
    """Words of this job beside those of a recipe."""

    seconds: float = Field(6.0, gt=0, description="that each measurement takes, about; starts come on top")


def main(words: Sequence[str]) -> int:
    """The whole command: 0 when rates.json is written, 2 when the user's input is at fault."""
    if is_asked(words):
        return print_help("calibrate")
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, others = split_words([word for word in words if word != "--verbose"], Words)
    recipe = known(load_recipe(others))
    path = Path(recipe.root) / RATES
    store.check_folder(path.parent, "root")
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, float] = {}
    with (
        quiet(Folder(recipe.root), words),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".calibrate-") as folder,
    ):
        for name, work in (
            ("voice and encoder", partial(apart, measure_speech, recipe, own.seconds)),
            ("training", partial(apart, measure_training, recipe, own.seconds, Path(folder))),
            ("scoring", partial(apart, measure_scoring, recipe, own.seconds, Path(folder))),
            ("text to units", partial(apart, measure_spoken_text, recipe, own.seconds)),
            ("disk", partial(measure_disk, Path(folder), own.seconds)),
            ("driver", partial(measure_driver, recipe.compute)),
        ):
            began = time.monotonic()
            found |= work()
            say(f"{name:<18} measured in {time.monotonic() - began:.0f} s")
    rates = Rates.model_validate({name: float(f"{value:.4g}") for name, value in found.items()})
    cores = len(os.sched_getaffinity(0))
    measured = f"{platform.node()}, {cores} cores, {time.strftime('%Y-%m-%d')}"
    calibration = Calibration(rates, about(recipe, planning.parameters(recipe)), measured)
    store.write_json(path, calibration.to_json())
    print("\n".join(f"rates.{name}={value:g}" for name, value in calibration.to_json()["rates"].items()))
    print(f"written to {path}; --plan with the same root counts with them")
    return 0


def apart(measure: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """In a process of its own, whose memory is then known."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, *args).result()


def _held_mb() -> float:
    """The most memory that this process has held, in MB, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def measure_speech(recipe: Recipe, seconds: float) -> dict[str, float]:
    """Voice and encoder on one core: its processor time, which others hardly change; on a GPU by the clock."""
    from slamray.data.item_pairs import Utterance
    from slamray.speech.audio import RATE_HZ, from_pcm
    from slamray.speech.encoders.table import open_encoder
    from slamray.stages.speech_kernels import Speak

    voice, on_gpu = Speak(recipe.speech.tts), recipe.compute.encoder_gpus > 0
    encode = open_encoder(recipe.speech.encoder, "cuda" if on_gpu else "cpu")
    clock = time.perf_counter if on_gpu else time.process_time
    audios, sentences = [], 0
    spent = {"speak": 0.0, "encode": 0.0}
    for number, story in enumerate(_stories()):
        began = clock()
        sound = voice.speak(Utterance(f"{number:08x}", story, None))
        audio = from_pcm(sound.pcm)
        spoken = clock()
        encode([audio], recipe.compute.encoder_batch_seconds)
        if number:  # the first one warms up
            spent["speak"] += spoken - began
            spent["encode"] += clock() - spoken
            audios.append(len(audio) / RATE_HZ)
            sentences += len(story)
        if audios and sum(spent.values()) > seconds:
            break
    rates = {name: sum(audios) / amount for name, amount in spent.items()}
    lengths = {"document_seconds": sum(audios) / len(audios), "sentence_seconds": sum(audios) / sentences}
    return rates | lengths | {"speech_mb": _held_mb()}


def _stories() -> Iterator[tuple[str, ...]]:
    """Sentences of stories of the package, as the corpus cuts them."""
    from slamray.data.text import TextDocument, read_documents, to_document

    for raw, _ in zip(read_documents(asset_path(f"{ASSETS}stories.jsonl.gz"), "text"), range(STORIES), strict=False):
        document = to_document(raw, 6, 2000, 0.0, 0.0)
        if isinstance(document, TextDocument):
            yield document.sentences


def measure_training(recipe: Recipe, seconds: float, folder: Path) -> dict[str, float]:
    """Pre-training and DPO on one worker, the whole loops, on random units."""
    import torch
    import torch.distributed as dist

    compute = recipe.compute.model_copy(
        update={"workers": 1, "report_every_steps": 1, "checkpoint_every_seconds": 1e9, "min_workers": None}
    )
    os.environ |= GROUP | {"DS_ACCELERATOR": compute.device, "TRL_EXPERIMENTAL_SILENCE": "1"}
    torch.set_num_threads(compute.cpus_per_worker)
    if compute.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    kind = "nccl" if compute.device == "cuda" else "gloo"
    dist.init_process_group(kind, init_method=f"file://{folder}/group", rank=0, world_size=1)
    _write_model(recipe, folder / "model")
    rates = {"flops": _flops(recipe, compute, seconds, folder)}
    if recipe.dpo.budget is not None:
        rates["pairs"] = _pairs(recipe, compute, seconds, folder)
    dist.destroy_process_group()
    return rates | {"training_mb": _held_mb()}


def _write_model(recipe: Recipe, folder: Path) -> None:
    """A unit LM of the recipe's shape; how fast it is does not depend on its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    shape = planning.unit_shape(recipe)
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)


def _flops(recipe: Recipe, compute: Compute, seconds: float, folder: Path) -> float:
    """6 N FLOPs a second of steps of one micro-batch, after the first."""
    from slamray.tokens.documents import Document, unit_document
    from slamray.tokens.packing import pack
    from slamray.tokens.rows import write_rows
    from slamray.train.pretrain import pretrain

    n_units = check_encoder(recipe.speech.encoder).n_units
    vocabulary = check_encoder(recipe.speech.encoder).vocabulary
    step_tokens = planning.micro_batch(recipe) * recipe.pack.row_tokens
    rng = np.random.default_rng(0)
    documents: list[Document] = []
    while sum(len(document) for document in documents) < 4 * step_tokens:
        documents.append(unit_document(rng.integers(0, n_units, max(60, round(rng.normal(700, 200)))), vocabulary))
    lengths = np.array([len(document) for document in documents])
    packing = pack(lengths, recipe.pack.context, recipe.pack.row_tokens)
    write_rows(folder / "rows", documents, vocabulary, packing)
    settings = recipe.pretrain.model_copy(
        update={
            "budget": f"time:{max(1.0, seconds):.0f}s",
            "trunk": None,
            "tokens_per_step": step_tokens,
            "validations": 1,
            "validation_rows": 1,
        }
    )
    said: list[float] = []
    places = folder / "model", folder / "rows", folder / "rows", folder / "pretrained"
    pretrain(settings, compute, *places, lambda metrics: said.append(metrics.get("tokens_per_second", 0.0)))
    speeds = sorted(speed for speed in (said[1:] or said) if speed)
    return 6.0 * planning.parameters(recipe) * speeds[len(speeds) // 2]


def _pairs(recipe: Recipe, compute: Compute, seconds: float, folder: Path) -> float:
    """Preference pairs a second of steps of one micro-batch, after the first."""
    from slamray.train.dpo.align import train_dpo

    n_units = check_encoder(recipe.speech.encoder).n_units
    rng, parts = np.random.default_rng(0), ("prompt", "chosen", "rejected")
    pairs = [
        {"pair_id": f"{number:04d}"}
        | {
            part: rng.integers(0, n_units, rng.integers(*most)).tolist()
            for part, most in zip(parts, PAIR_UNITS, strict=True)
        }
        for number in range(PAIRS)
    ]
    at_once = min(PAIRS, planning.pairs_at_once(recipe))
    settings = recipe.dpo.model_copy(
        update={
            "budget": f"time:{max(1.0, seconds):.0f}s",
            "pairs_per_step": at_once,
            "evaluations": 0,
            "context": max(recipe.dpo.context, 256),
        }
    )
    ends: list[float] = []
    out = folder / "aligned"
    train_dpo(settings, compute, folder / "model", pairs, [], out, lambda metrics: ends.append(time.perf_counter()))
    return at_once * (len(ends) - 1) / (ends[-1] - ends[0])


def measure_scoring(recipe: Recipe, seconds: float, folder: Path) -> dict[str, float]:
    """Log-likelihoods of pairs by one actor, on the model that training has left in `folder`."""
    import torch

    from slamray.data.item_pairs import ItemPair
    from slamray.evaluate.pair_scores import judge_pairs
    from slamray.model.unit_lm import load_unit_lm
    from slamray.stages.speech_kernels import one_thread

    one_thread()
    encoder = check_encoder(recipe.speech.encoder)
    rng = np.random.default_rng(0)
    known = {f"{n}": rng.integers(0, encoder.n_units, rng.integers(*SPOKEN_UNITS)) for n in range(2 * PAIRS)}
    pairs = [
        ItemPair(f"{n}", "topic_cloze", "", (), (f"{2 * n}",), (f"{2 * n + 1}",), "", "", "") for n in range(PAIRS)
    ]
    model = load_unit_lm(folder / "model")
    model.to(torch.device(recipe.compute.device))  # type: ignore[arg-type]
    model.eval()
    judge_pairs(model, pairs[:4], known, encoder.vocabulary, "mean", recipe.compute.score_batch_tokens)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        judge_pairs(model, pairs, known, encoder.vocabulary, "mean", recipe.compute.score_batch_tokens)
        done += PAIRS
    return {"scored": done / (time.perf_counter() - began), "scoring_mb": _held_mb()}


def measure_spoken_text(recipe: Recipe, seconds: float) -> dict[str, float]:
    """Units a second of one actor, by a text-to-token model of the recipe's shape; nothing where a recipe has none."""
    if not recipe.joint.makes("synthetic"):
        return {}
    import torch
    from transformers import AutoModelForCausalLM

    from slamray.model.text_to_units import Request, speak_texts
    from slamray.stages.speech_kernels import one_thread
    from slamray.stages.text_to_token import model_of
    from slamray.stages.vocabulary import vocabulary_of

    one_thread()
    torch.manual_seed(0)
    vocabulary, sampling = vocabulary_of(recipe), recipe.joint.text_to_token.sampling
    shape = planning.unit_shape(recipe.model_copy(update={"model": model_of(recipe)}))
    dtype = torch.float32 if recipe.compute.device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_config(shape, dtype=dtype).to(recipe.compute.device).eval()
    rng, most = np.random.default_rng(0), sampling.most_units_per_piece * recipe.joint.interleave.span_pieces // 3
    spent = made = 0.0
    for number in range(10_000):
        texts = rng.integers(0, vocabulary.n_text, (recipe.compute.speak_text_batch, TEXT_TOKENS)).tolist()
        begin = [vocabulary.bos, vocabulary.text_tag]
        asked = [Request([*begin, *ids, vocabulary.speech_tag], most, seed) for seed, ids in enumerate(texts)]
        began = time.perf_counter()
        said = speak_texts(model, asked, vocabulary, sampling, recipe.compute.speak_text_batch)
        if number:  # the first one warms up
            spent += time.perf_counter() - began
            made += sum(len(one.units) for one in said)
        if spent > seconds:
            break
    return {"spoken_units": made / spent}


def measure_disk(folder: Path, seconds: float) -> dict[str, float]:
    """MB a second that are written and synced, for some seconds and a GB at most."""
    content, written, path = os.urandom(DISK_BYTES), 0, folder / "written"
    began = time.perf_counter()
    while time.perf_counter() - began < seconds and written < 1e9:
        with path.open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        written += len(content)
    spent = time.perf_counter() - began
    path.unlink()
    return {"disk_mb": written / 1e6 / spent}


class Nothing:
    """Kernel: a shard that costs nothing."""

    def __call__(self, shard: Shard) -> ShardDone:
        return ShardDone(shard.number, 0.0)


def measure_driver(compute: Compute) -> dict[str, float]:
    """Shards a second that go through one actor which does nothing with them, and what the driver holds."""
    engine = Engine(compute)
    ends: list[float] = []
    try:
        engine.connect()
        (seat,) = engine.seats(1)
        rows = [Shard(number, Stretch("", 0, 1), "", 0) for number in range(SHARDS)]
        pools = [Pool(f"{__name__}:Nothing", {}, 1)]
        seat.rows("driver", rows, pools, SHARDS, "shards", lambda row: ends.append(time.perf_counter()))
        seat.leave()
    finally:
        engine.close()
    return {"shards": (len(ends) - 1) / (ends[-1] - ends[0]), "driver_mb": _held_mb()}
