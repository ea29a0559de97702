"""The machines that `profile=` names; a profile moves a recipe to one of them."""

from __future__ import annotations

from slamray.config.compute import Compute

# The peaks are NVIDIA's dense bf16 figures; the A100s are those of 80 GB (the paper does not say which it
# used; on the ones of 40 GB say compute.memory_gb=40); the numbers of actors on GPU machines are chosen, not tuned.
PROFILES: dict[str, Compute] = {
    # A CPU gains nothing from large batches, which leave its caches: training and scoring are fastest at some 1,024
    # tokens in a pass (docs/LOG.md, 2026-11-30).
    "laptop": Compute(
        cpus_per_worker=2,
        micro_batch=2,
        report_every_steps=10,
        encoder_actors=2,
        encoder_batch_seconds=10,
        score_batch_tokens=1024,
    ),
    "a5000": Compute(
        device="cuda",
        cpus_per_worker=4,
        memory_gb=24,
        peak_tflops=111.1,
        checkpoint_every_seconds=600,
        tts_actors=10,
        encoder_gpus=0.5,
        encoder_batch_seconds=600,
        score_actors=1,
    ),
    "a100x2": Compute(
        workers=2,
        device="cuda",
        cpus_per_worker=4,
        memory_gb=80,
        peak_tflops=312,
        checkpoint_every_seconds=600,
        tts_actors=16,
        encoder_actors=2,
        encoder_gpus=0.5,
        encoder_batch_seconds=1200,
    ),
    "cluster": Compute(
        workers=8,
        device="cuda",
        cpus_per_worker=4,
        memory_gb=80,
        peak_tflops=312,
        zero_stage=1,
        checkpoint_every_seconds=600,
        tts_actors=128,
        encoder_actors=8,
        encoder_gpus=0.5,
        encoder_batch_seconds=1200,
        score_actors=8,
        parallel_stages=4,
    ),
}
