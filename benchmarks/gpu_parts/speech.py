"""Sound to units by a HuBERT of random weights, and pairs scored by a unit LM.

Legend: K centroids, D features.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, HubertConfig, HubertModel, PreTrainedModel

from gpu_parts.bench import Bench, Measured
from gpu_parts.training import UNITS, random_lengths, random_units, unit_lm_shape
from slamray.config.speech import EncoderSettings
from slamray.data.item_pairs import ItemPair
from slamray.data.recordings import Recording
from slamray.evaluate.pair_scores import judge_pairs
from slamray.speech.audio import RATE_HZ, to_flac
from slamray.speech.encoders.centroids import save_centroids
from slamray.speech.encoders.hubert import open_features
from slamray.speech.encoders.kmeans import fit_kmeans
from slamray.speech.encoders.table import open_encoder
from slamray.stage.folder import Folder
from slamray.stage.parts import Stretches, parts_of, write_parts
from slamray.stages.encode_kernel import Encode
from slamray.stages.shards import Shard
from slamray.stages.speak_and_listen import REQUESTS
from slamray.stages.speech_kernels import Listen

PAD_SAMPLES = 40  # of mHuBERT 25 Hz
SHARD = 8  # recordings of a shard, speech.shard_documents
READERS = 8  # threads that read, at most; in a run they are actors of their own
SAME_UNITS = 0.985
GOAL_KERNEL, GOAL_ACTOR = 8000.0, 4000.0  # times real time, in bfloat16


@dataclass(frozen=True)
class Precision:
    """What the encoder computes in. tf32: whether float32 products may be rounded by the device."""

    name: str
    dtype: str
    tf32: bool


PRECISIONS = [
    Precision("float32", "float32", False),
    Precision("TF32", "float32", True),
    Precision("bfloat16", "bfloat16", False),
]


def extraction(bench: Bench) -> None:
    """Times real time of the encoder on arrays, and of the actor from FLAC to a shard's file; units as on the CPU?"""
    audios = _recordings(bench)
    compared = list(itertools.accumulate(len(audio) / RATE_HZ for audio in audios))
    few = audios[: 1 + sum(seconds < bench.sizes.compared_seconds for seconds in compared[:-1])]
    settings = _encoder_settings(bench, few)
    truth = open_encoder(settings, "cpu")(few, bench.sizes.batch_seconds)
    for precision in PRECISIONS:
        what = f"extraction, {precision.name}"
        if not bench.room(what):
            continue
        with bench.attempt(what), bench.device.tf32(precision.tf32):
            own = settings.model_copy(update={"dtype": precision.dtype})
            _extract(bench, what, own, audios, few, truth)


def _extract(
    bench: Bench,
    what: str,
    settings: EncoderSettings,
    audios: Sequence[np.ndarray],
    few: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
) -> None:
    half = settings.dtype == "bfloat16"
    same, kernel = _kernel(bench, settings, audios, few, truth)
    bench.tell(
        f"{what}, kernel",
        "times real time",
        kernel,
        gates={"units": same >= SAME_UNITS},
        goals={"kernel": (kernel.value, GOAL_KERNEL)} if half else {},
        units_as_on_the_cpu=same,
        compared_frames=sum(map(len, truth)),
        seconds_of_audio=sum(len(audio) for audio in audios) / RATE_HZ,
        distinct_units=len(np.unique(np.concatenate(truth))),
    )
    actor = _actor(bench, what, settings, audios)
    bench.tell(
        f"{what}, actor from FLAC",
        "times real time",
        actor,
        kernel,
        goals={"actor": (actor.value, GOAL_ACTOR)} if half else {},
        readers=_readers(),
    )


def _kernel(
    bench: Bench,
    settings: EncoderSettings,
    audios: Sequence[np.ndarray],
    few: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
) -> tuple[float, Measured]:
    """The share of frames with the unit of the truth, and times real time."""
    encoder, at_once = open_encoder(settings, bench.device.kind), bench.sizes.batch_seconds
    same = float(np.mean(np.concatenate(encoder(few, at_once)) == np.concatenate(truth)))
    seconds = sum(len(audio) for audio in audios) / RATE_HZ
    took = bench.device.seconds(lambda: encoder(audios, at_once), 1, 3)
    return same, Measured.of([seconds / one for one in took])


def _actor(bench: Bench, what: str, settings: EncoderSettings, audios: Sequence[np.ndarray]) -> Measured:
    """The two kernels of a run: recordings are read by threads while the encoder is at work."""
    sizes, out = bench.sizes, Folder(bench.folder / what)
    files = _flac_files(bench, audios)
    recordings = [
        Recording(f"{turn}-{file.stem}", str(file)) for turn in range(sizes.actor_passes + 1) for file in files
    ]
    write_parts(out, REQUESTS, recordings, Recording)
    requests = Stretches(parts_of(out, REQUESTS), SHARD)
    shards = [Shard(number, asked, str(out), 0) for number, asked in enumerate(requests)]
    threads = torch.get_num_threads()
    encode, listen = Encode(settings, sizes.batch_seconds, bench.device.kind), Listen()
    warm = max(1, len(files) // SHARD)  # shards of the first pass, which is not timed
    for shard in shards[:warm]:
        encode(listen(shard))
    with ThreadPoolExecutor(_readers()) as pool:
        began = time.perf_counter()
        seconds = sum(encode(sound).audio_seconds for sound in pool.map(listen, shards[warm:]))
        took = time.perf_counter() - began
    torch.set_num_threads(threads)  # an actor takes one
    return Measured.single(seconds / took)


def _readers() -> int:
    return max(1, min(READERS, (os.cpu_count() or 1) - 1))


def _flac_files(bench: Bench, audios: Sequence[np.ndarray]) -> list[Path]:
    folder = bench.folder / "flac"
    if not folder.exists():
        folder.mkdir()
        for number, audio in enumerate(audios):
            (folder / f"{number:04d}.flac").write_bytes(to_flac(audio))
    return sorted(folder.iterdir())


def _encoder_settings(bench: Bench, audios: Sequence[np.ndarray]) -> EncoderSettings:
    """A folder with a HuBERT of random weights, and centroids of its own features."""
    sizes, folder = bench.sizes, bench.folder / "hubert"
    torch.manual_seed(0)
    HubertModel(HubertConfig(**sizes.hubert)).save_pretrained(folder)
    file = folder / "centroids.safetensors"
    settings = EncoderSettings(
        model=str(folder), layer=sizes.layer, centroids=str(file), dtype="float32", pad_samples=PAD_SAMPLES
    )
    features = open_features(settings, bench.device.kind)
    feats_TD = [torch.from_numpy(features([audio])[0]) for audio in audios]
    centroids_KD = fit_kmeans(torch.cat(feats_TD), sizes.centroids, 0, bench.device.kind, iterations=5)
    save_centroids(file, centroids_KD, "", sizes.layer)
    return settings


def _recordings(bench: Bench) -> list[np.ndarray]:
    """Something like speech, about as long as asked."""
    rng, sizes = np.random.default_rng(2), bench.sizes
    return [_babble(rng, sizes.recording_seconds * share) for share in rng.uniform(0.7, 1.3, sizes.recordings)]


def _babble(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Syllables of 0.2 s, float32 at 16 kHz: a buzz with two formants, or noise, or silence."""
    syllables = [_syllable(rng, RATE_HZ // 5) for _ in range(int(5 * seconds) + 1)]
    return np.concatenate(syllables).astype(np.float32)


def _syllable(rng: np.random.Generator, samples: int) -> np.ndarray:
    envelope = np.hanning(samples) ** 0.5 * rng.uniform(0.1, 0.3)
    kind = rng.uniform()
    if kind < 0.15:
        return 1e-3 * rng.standard_normal(samples)
    if kind < 0.3:
        return envelope * 0.3 * rng.standard_normal(samples)
    pitch_hz = np.linspace(rng.uniform(90, 220), rng.uniform(90, 220), samples)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    formants_hz = rng.uniform(300, 900), rng.uniform(1000, 2800)
    harmonics = np.arange(1, 16)
    loud = sum(np.exp(-(((harmonics * pitch_hz.mean() - formant) / 150) ** 2)) for formant in formants_hz) + 0.02
    return envelope * sum(level * np.sin(n * phase) for n, level in zip(harmonics, loud / loud.sum(), strict=True))


def scoring(bench: Bench) -> None:
    """Pairs a second of the score that evaluation gives, in float32."""
    sizes, rng = bench.sizes, np.random.default_rng(3)
    lengths = random_lengths(rng, 2 * sizes.side_units, 2 * sizes.scored_pairs)
    units = {str(number): random_units(rng, length) for number, length in enumerate(lengths)}
    pairs = [
        ItemPair(str(n), "random", "all", (), (str(2 * n),), (str(2 * n + 1),), "", "", "")
        for n in range(sizes.scored_pairs)
    ]
    torch.manual_seed(0)
    with torch.device(bench.device.kind):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(unit_lm_shape(bench), dtype=torch.float32).eval()
    for tokens in sizes.score_batch_tokens:
        what = f"scoring, float32, batches of {tokens} tokens"
        with bench.attempt(what), bench.device.tf32(False):
            took = bench.device.seconds(lambda: judge_pairs(model, pairs, units, UNITS, "mean", tokens), 1, 2)  # noqa: B023
            speed = Measured.of([len(pairs) / seconds for seconds in took])
            bench.tell(what, "pairs/s", speed, tokens_per_second=speed.value * sum(lengths) / len(pairs))
