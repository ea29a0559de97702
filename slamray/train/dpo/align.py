"""Preference training: TRL's DPOTrainer over a DeepSpeed engine, on unit ids.

The caller has initialised torch.distributed and set RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR (Ray Train does).
Shapes: P pairs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
import torch
import torch.distributed as dist
import transformers
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from trl.trainer.dpo_config import DPOConfig

from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.config.evaluation import SamplingSettings
from slamray.config.training import DpoSettings
from slamray.errors import BadInput
from slamray.model.sampling import Prompt, continue_units
from slamray.model.saved_vocabulary import model_vocabulary
from slamray.model.unit_lm import count_parameters, load_unit_lm, read_lm_config, recompute_layers, save_unit_lm
from slamray.stage.folder import Folder, Root
from slamray.stage.work import Report
from slamray.tokens.autobleu import auto_bleu
from slamray.tokens.vocabulary import Vocabulary
from slamray.train import zero
from slamray.train.checkpoint import MODEL
from slamray.train.dpo.pair_scores import score_pairs
from slamray.train.dpo.pairs import PairTokens, StepBatches, accumulation, to_pair_tokens
from slamray.train.dpo.trainer import ENDLESS, START_SCORES, TRL_TESTED, Lead, UnitDPOTrainer
from slamray.train.loop import Run
from slamray.train.memory import pair_attention
from slamray.train.ranks import rank_and_world
from slamray.train.spent import fit_pairs

EVALUATED = ".evaluated"  # in the stage's folder: the model in training, while it is evaluated
PROMPTS, NEW_TOKENS = 16, 100  # of an evaluation on the way: some seconds on a CPU; chosen, not tuned


def train_dpo(
    config: DpoSettings,
    compute: Compute,
    model_folder: Path,
    pairs: Sequence[Mapping[str, Any]],
    heldout: Sequence[Mapping[str, Any]],
    out: Root,
    report: Report,
) -> dict[str, Any]:
    """Train the model of `model_folder` on preference pairs and save it in transformers' format under out/model.

    Pairs are rows with `pair_id` and the unit lists `prompt`, `chosen`, `rejected`. The reference is the model as it
    was; its log-likelihoods are computed once, before training and off the clock. `config.evaluations` times, the first
    before training, a report holds `heldout_accuracy` and `auto_bleu` (see `evaluate`). out/checkpoints holds what a
    second call continues from, on any number of ranks; see loop.Run. out/history.json holds every report,
    out/heldout.parquet the held-out pairs' log-likelihoods before and after.
    Every rank returns the same facts. docs/paper.md 1.5 and 1.6.
    """
    began = time.perf_counter()
    rank, world = rank_and_world()
    compute = compute.model_copy(update={"dpo_micro_batch": fit_pairs(config.pairs_per_step, compute)})
    accumulation(config.pairs_per_step, compute.dpo_micro_batch, world)  # before any work
    assert config.budget is not None, "a recipe without DPO has no such stage"
    device = _claim_device(compute)
    run = Run(parse_budget(config.budget, "dpo.budget"), compute, out, report)
    start = run.newest / MODEL if run.newest else model_folder
    vocabulary = model_vocabulary(read_lm_config(str(start)).to_dict(), str(start))
    tokens, dropped = to_pair_tokens(pairs, vocabulary, config.context)
    heldout_tokens, heldout_dropped = to_pair_tokens(heldout, vocabulary, config.context)
    if not tokens:
        raise BadInput(f"no preference pair is left to train on ({dict(dropped) or 'none was given'}); see dpo.context")
    model = zero.load_lm(start, pair_attention(compute), compute.zero_stage, device)
    if run.newest is None:
        start_P2 = _scores(model, tokens + heldout_tokens, compute)
        if config.evaluations and heldout_tokens:
            whole = model if compute.zero_stage < 3 else _load(start, compute, device)
            report({"progress": 0.0, **evaluate(whole, heldout_tokens, compute)})
            del whole
    else:
        start_P2 = np.load(run.newest / START_SCORES)
    before_P2 = start_P2[len(tokens) :]
    referenced = time.perf_counter()

    trainer = _trainer(config, compute, model, tokens, start_P2, run)
    if config.evaluations and heldout_tokens:
        trainer.lead.evaluate = partial(_evaluate, trainer, run.out, compute, device, heldout_tokens)
    try:
        trainer.train()
    finally:  # whatever ends it, what is being written is a checkpoint
        run.wait()
    trained = time.perf_counter()

    _save_model(trainer, run.out, MODEL)
    if compute.zero_stage == 3:
        with zero.casts_are_not_kept(compute.zero_stage):
            after_P2 = score_pairs(trainer.model_wrapped, heldout_tokens, compute)
    del trainer, model
    unset_hf_deepspeed_config()  # ZeRO 3 would otherwise shard the next model that is loaded
    if compute.zero_stage < 3:
        after_P2 = score_pairs(_load(run.out.fetch(MODEL), compute, device), heldout_tokens, compute)
    if rank == 0:
        run.out.write_tree("heldout.parquet", partial(pq.write_table, _heldout(heldout_tokens, before_P2, after_P2)))
    dist.barrier()
    assert run.first_step_at is not None
    return {
        **run.history[-1],
        **run.finish(),
        "training_pairs": len(tokens),
        "dropped": dict(dropped),
        "resumed_from": run.newest.name if run.newest else "",
        "heldout": {"dropped": dict(heldout_dropped), **compare_heldout(before_P2, after_P2)},
        "reference_seconds": referenced - began,
        "setup_seconds": run.first_step_at - referenced,
        "finish_seconds": time.perf_counter() - trained,
    }


def _claim_device(compute: Compute) -> torch.device:
    """Tell accelerate and DeepSpeed about the process group that exists.

    accelerate knows no DeepSpeed on several CPU processes: asked for it, it believes that it is alone. So its state is
    made as for plain CPU (or GPU) processes and then marked; DPOConfig is told to use it as it is.
    """
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)  # as TrainingArguments does: a process may train twice
    state = PartialState(cpu=compute.device == "cpu")
    PartialState._shared_state["distributed_type"] = DistributedType.DEEPSPEED
    torch.set_num_threads(threads)  # PartialState sets its own where OMP_NUM_THREADS is not set
    assert state.num_processes == dist.get_world_size()
    return state.device


def _load(folder: Path, compute: Compute, device: torch.device) -> transformers.PreTrainedModel:
    model = load_unit_lm(folder, pair_attention(compute))
    torch.nn.Module.to(model, device)  # transformers' own `to` is wrapped and has lost its types
    return model


def _scores(
    model: transformers.PreTrainedModel, pairs: Sequence[PairTokens], compute: Compute
) -> npt.NDArray[np.float64]:
    """`score_pairs` under a model of zero.load_lm, of which a device holds no more than in training."""
    if compute.zero_stage < 3:
        return score_pairs(model, pairs, compute)
    with zero.computing(model, compute.precision) as engine:
        return score_pairs(engine, pairs, compute)


def _trainer(
    config: DpoSettings,
    compute: Compute,
    model: transformers.PreTrainedModel,
    tokens: Sequence[PairTokens],
    start_P2: npt.NDArray[np.float64],
    run: Run,
) -> UnitDPOTrainer:
    if compute.recompute:
        recompute_layers(model)
    trl_version = version("trl")
    if not trl_version.startswith(TRL_TESTED):
        raise BadInput(f"trl {trl_version} is installed, the adapter fits {TRL_TESTED}x; install requirements.lock")
    budget = run.budget
    steps = int(budget.amount) - run.spent.steps if budget.kind == "steps" else ENDLESS  # the run ends it before
    lengths = [pair.row for pair in tokens]
    batches = StepBatches(lengths, config, compute.dpo_micro_batch, run.spent.steps, steps)
    batches.seen = run.samples
    trainer = UnitDPOTrainer(
        lead=Lead(run, config, batches, tokens, count_parameters(model)),
        compute=compute,
        pairs=tokens,
        start_P2=start_P2,
        model=model,
        args=_arguments(config, compute, steps, run.out, count_parameters(model)),
        train_dataset=datasets.Dataset.from_dict({"pair": range(len(tokens))}),
        processing_class=special_tokens(model_vocabulary(model.config.to_dict(), "the model")),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _arguments(config: DpoSettings, compute: Compute, steps: int, out: Folder, parameters: int) -> DPOConfig:
    """TRL's arguments; what is not named here (sigmoid loss, AdamW) is TRL's default and the paper's choice."""
    accumulated = accumulation(config.pairs_per_step, compute.dpo_micro_batch, dist.get_world_size())
    optim = config.optim
    return DPOConfig(
        output_dir=str(out.scratch()),
        beta=config.beta,
        loss_type=["sigmoid"],
        precompute_ref_log_probs=True,
        max_length=None,  # nothing is truncated: longer pairs are left out before
        per_device_train_batch_size=compute.dpo_micro_batch,
        gradient_accumulation_steps=accumulated,
        max_steps=steps,
        learning_rate=optim.learning_rate,
        lr_scheduler_type="constant",  # the lead sets the rate of each step by progress
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        adam_epsilon=optim.epsilon,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.clip_norm,
        bf16=False,  # autocast in the adapter
        activation_checkpointing=False,
        logging_strategy="steps",  # each step to the lead, which sums and reports
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # the lead decides
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=config.seed,
        accelerator_config={"use_configured_state": True},
        deepspeed={
            "train_micro_batch_size_per_gpu": compute.dpo_micro_batch,
            "gradient_accumulation_steps": accumulated,
            "train_batch_size": config.pairs_per_step,
            "gradient_clipping": optim.clip_norm,
            "zero_optimization": {"stage": compute.zero_stage, **zero.bounds(parameters)},
            **zero.autocast_settings(compute.precision),
            "zero_allow_untested_optimizer": True,  # transformers' AdamW
            "steps_per_print": 10**9,
        },
    )


def evaluate(model: transformers.PreTrainedModel, heldout: Sequence[PairTokens], compute: Compute) -> dict[str, float]:
    """What DPO is judged by on its way, the same on every rank.

    `heldout_accuracy`: share of held-out pairs whose chosen side has the greater mean log-likelihood; with pairs from
    stories that is topic-cloze. `auto_bleu`: repetition in the units of sampled continuations of their prompts, 0..1.
    """
    scores_P2 = score_pairs(model, heldout, compute)
    targets_P2 = np.array([(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in heldout])
    chosen_P, rejected_P = (scores_P2 / targets_P2).T
    vocabulary = model_vocabulary(model.config.to_dict(), "the model")
    prompts = [Prompt(pair.pair_id, vocabulary.to_units(np.array(pair.prompt_ids))) for pair in heldout[:PROMPTS]]
    rank, world = dist.get_rank(), dist.get_world_size()
    settings = SamplingSettings(prompts=PROMPTS, batch=PROMPTS, max_new_tokens=NEW_TOKENS)
    said = [one.units.tolist() for one in continue_units(model, prompts[rank::world], settings)]
    repeated = torch.tensor(
        [sum(auto_bleu(units) for units in said), len(said)],
        dtype=torch.float64,
        device=next(model.parameters()).device,
    )
    dist.all_reduce(repeated)
    return {
        "heldout_accuracy": float(np.mean(chosen_P > rejected_P)),
        "auto_bleu": float(repeated[0] / repeated[1]),
    }


def _evaluate(
    trainer: UnitDPOTrainer,
    out: Folder,
    compute: Compute,
    device: torch.device,
    heldout: Sequence[PairTokens],
) -> dict[str, float]:
    """`evaluate` the model in training; by way of a file, as ZeRO 3 shards the weights in memory."""
    name = f"{EVALUATED}-{trainer.lead.run.spent.steps}"
    _save_model(trainer, out, name)
    sharding = trainer.args.hf_deepspeed_config
    unset_hf_deepspeed_config()
    try:
        return evaluate(_load(out.fetch(name), compute, device), heldout, compute)
    finally:
        set_hf_deepspeed_config(sharding)
        dist.barrier()
        if trainer.args.process_index == 0:
            out.remove(name)


def special_tokens(vocabulary: Vocabulary) -> transformers.PreTrainedTokenizerFast:
    """What TRL wants to know of a tokeniser: the ids of padding, start and end. It never sees a text."""
    words = tokenizers.models.WordLevel({"<PAD>": vocabulary.pad, "<S>": vocabulary.bos}, unk_token="<PAD>")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), pad_token="<PAD>", bos_token="<S>", eos_token="<S>"
    )


def _save_model(trainer: UnitDPOTrainer, out: Folder, name: str) -> None:
    """Plain transformers format; every rank takes part, and may read it then."""
    if trainer.zero_stage == 3:
        zero.save_whole(trainer.unit_lm, out, name)
    elif trainer.args.process_index == 0:
        out.write_tree(name, partial(save_unit_lm, trainer.unit_lm))
    dist.barrier()


def _heldout(
    pairs: Sequence[PairTokens], before_P2: npt.NDArray[np.float64], after_P2: npt.NDArray[np.float64]
) -> pa.Table:
    """One row a pair: summed log-likelihoods before and after, and the tokens that they sum over."""
    return pa.table(
        {
            "pair_id": [pair.pair_id for pair in pairs],
            "chosen_tokens": [len(pair.chosen_ids) for pair in pairs],
            "rejected_tokens": [len(pair.rejected_ids) for pair in pairs],
            "chosen_before": before_P2[:, 0],
            "rejected_before": before_P2[:, 1],
            "chosen_after": after_P2[:, 0],
            "rejected_after": after_P2[:, 1],
        }
    )


def compare_heldout(before_P2: npt.NDArray[np.float64], after_P2: npt.NDArray[np.float64]) -> dict[str, float]:
    """What training did to held-out pairs, log-likelihoods (P, 2) of chosen and rejected, summed over tokens.

    `margin` is the mean of (chosen - rejected) after less before: the implicit reward margin over beta, above 0 when
    chosen was moved over rejected; `margin_half_width` is half its 95 % interval (normal). `moved` is the share of
    pairs with a positive one (TRL's rewards/accuracies), `accuracy_*` the share with chosen above rejected.
    """
    if not len(before_P2):
        return {"pairs": 0}
    gain_P2 = after_P2 - before_P2
    margin_P = gain_P2[:, 0] - gain_P2[:, 1]
    deviation = float(margin_P.std(ddof=1)) if len(margin_P) > 1 else math.inf
    return {
        "pairs": len(margin_P),
        "margin": float(margin_P.mean()),
        "margin_half_width": 1.96 * deviation / math.sqrt(len(margin_P)),
        "moved": float((margin_P > 0).mean()),
        "chosen_gain": float(gain_P2[:, 0].mean()),
        "rejected_gain": float(gain_P2[:, 1].mean()),
        "accuracy_before": float((before_P2[:, 0] > before_P2[:, 1]).mean()),
        "accuracy_after": float((after_P2[:, 0] > after_P2[:, 1]).mean()),
    }
