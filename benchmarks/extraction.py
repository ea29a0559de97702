"""How fast recordings become units, or text becomes speech and units, once the actors are up.

    python benchmarks/extraction.py [speak=true] [whole=true] [seconds=320] [pairs=3] [anchor=[a.b=c,...]]
        [ours=[a.b=c,...]] [toy=true] [root=runs/bench/extraction] [a.b=c ...]

The stage's own code on Ray: synthetic recordings of 4 to 16 s through an mHuBERT-base of random weights (its shape is
that of docs/paper.md 1.2), or with speak=true the demo's stories through its voice and hubert-nano. Figures are seconds
of audio a second, from when every actor has done its first shard to the end of the last. `anchor` and `ours` are words
of a recipe; both are measured in turn. With SLAMKIT=FOLDER in the environment, a clone of slp-rl/slamkit, the anchor of
recordings is its extractor (benchmarks/peer_slamkit.py). whole=true: from the start of both processes to their ends,
Ray's start and end included; the peer's writes no units. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pairs import Result, measure
from pydantic import Field

from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings
from slamray.config.load import load_recipe
from slamray.config.tree import Recipe
from slamray.data.ids import text_id
from slamray.data.recordings import Recording
from slamray.data.text import TRAIN
from slamray.errors import BadInput
from slamray.runtime.engine import Engine
from slamray.speech.audio import RATE_HZ, to_flac
from slamray.stage.folder import Folder
from slamray.stage.parts import parts_of
from slamray.stage.work import Done, Machine, Machines, Pool
from slamray.stages import corpus, speak_and_listen
from slamray.stages.recorded import listening_of

# Convolutions with a stride of 640 samples in all: HuBERT base's with one more layer. The rest is HuBERT base's.
MHUBERT: dict[str, Any] = {
    "conv_dim": (512,) * 8,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2, 2),
    "num_feat_extract_layers": 8,
}
SMALL: dict[str, Any] = MHUBERT | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 8,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
UNITS_OF = 500
LONGEST, SHORTEST = 16.0, 4.0  # seconds of a recording: about those of LibriSpeech
STORY_SECONDS = 50  # of a story of the demo, roughly
SHARD_DOCUMENTS = 1  # small beside the whole, so that no actor waits long at the end
COMMON = ("profile=laptop", f"speech.shard_documents={SHARD_DOCUMENTS}", "speech.sample_documents=0")
PEER_BATCH = 8  # recordings or pairs, for the peer: the batches of its configurations


class Words(Settings):
    """Words of this benchmark."""

    speak: bool = Field(False, description="stories through the demo's voice and encoder, rather than recordings")
    whole: bool = Field(False, description="from the start of the process to its end; recordings, against slamkit")
    seconds: float = Field(320, gt=0, description="of audio, about")
    pairs: int = Field(3, ge=1, description="how often each setting is measured")
    anchor: tuple[str, ...] = Field(("compute.encoder_actors=1",), description="words of the setting compared with")
    ours: tuple[str, ...] = Field((), description="words of the other setting")
    toy: bool = Field(False, description="a small encoder and 4 s recordings, to see that it works")
    root: str = Field("runs/bench/extraction", description="folder of the model, the recordings and the stages")


def main(words: Sequence[str]) -> int:
    """The whole benchmark: 0, or 2 with one line where a word is at fault."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, others = split_words(words, Words)
    root, peer = Path(own.root).resolve(), os.environ.get("SLAMKIT", "")
    model = root / ("toy" if own.toy else "mhubert")
    common = [*COMMON, *others]
    if not own.speak:
        common = [*mhubert_words(model, own.toy), *common]
        write_recordings(root / "recordings", recording_lengths(own.seconds, own.toy))
    if own.whole:
        print(json.dumps(asdict(compare_whole(own, root, model, others))))
        return 0
    recipes = [load_recipe([*common, *setting]) for setting in (own.anchor, own.ours)]
    engines = [Engine(recipe.compute) for recipe in recipes]
    anchor, ours = (partial(rate, recipe, engine, own, root) for recipe, engine in zip(recipes, engines, strict=True))
    what = (
        f"{'speaking and encoding stories' if own.speak else 'encoding recordings'}, {recipes[1].speech.encoder.dtype}"
    )
    against = " ".join(own.anchor) or "the same"
    if peer and not own.speak:
        anchor, against = (
            partial(ask_slamkit, Path(peer), "extract", model, root / "recordings"),
            f"slamkit, batches of {PEER_BATCH}, all cores",
        )
    ours_named = " ".join(own.ours) or f"profile=laptop ({recipes[1].compute.encoder_actors} encoding actors)"
    try:
        for engine in engines:
            engine.connect()  # by the main thread: a cluster ends with the thread that started it
        result = measure(f"{what}, x real time: {ours_named} against {against}", anchor, ours, own.pairs)
    finally:
        for engine in engines:
            engine.close()
    print(json.dumps(asdict(result)))
    return 0


def compare_whole(own: Words, root: Path, model: Path, others: Sequence[str]) -> Result:
    """Two processes from their starts to their ends."""
    peer = os.environ.get("SLAMKIT", "")
    if own.speak or not peer:
        raise BadInput("whole=true: recordings against slamkit, which SLAMKIT names; say speak=false")
    audio = sum(recording_lengths(own.seconds, own.toy))
    script = Path(__file__).with_name("extract_once.py")

    def timed(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return audio / (time.perf_counter() - began)

    words = [*mhubert_words(model, own.toy), *COMMON, *others]
    command, dtype = [sys.executable, str(script), str(root), *words], load_recipe(words).speech.encoder.dtype
    return measure(
        f"extraction as a whole command, {audio / 3600:.1f} h of audio, {dtype}, x real time: profile=laptop against "
        f"slamkit, batches of {PEER_BATCH}, all cores",
        lambda: timed(partial(ask_slamkit, Path(peer), "extract", model, root / "recordings")),
        lambda: timed(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)),
        own.pairs,
    )


def mhubert_words(folder: Path, toy: bool) -> list[str]:
    """Words that name an encoder of random weights and random centroids, which is made unless it is there."""
    import torch
    from safetensors.torch import save_file
    from transformers import HubertConfig, HubertModel

    config, centroids = HubertConfig(**(SMALL if toy else MHUBERT)), folder / "centroids.safetensors"
    if not centroids.exists():
        torch.manual_seed(0)
        HubertModel(config).save_pretrained(folder)
        save_file({"centroids_KD": torch.randn(UNITS_OF, config.hidden_size)}, centroids)
    layer = config.num_hidden_layers - 1
    encoder = {"model": folder, "centroids": centroids, "layer": layer, "pad_samples": 40}
    return [f"speech.encoder.{key}={value}" for key, value in encoder.items()]


def recording_lengths(seconds: float, toy: bool) -> list[float]:
    """Of recordings that together last as long, and at most one more."""
    rng, lengths = np.random.default_rng(0), list[float]()
    while sum(lengths) < seconds:
        lengths.append(SHORTEST if toy else rng.uniform(SHORTEST, LONGEST))
    return lengths


def write_recordings(folder: Path, lengths: Sequence[float]) -> None:
    """Noise under a slow envelope, as 16-bit FLAC; what is said does not change how long it takes. lengths: seconds."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.flac"):
        left.unlink()
    for number, length in enumerate(lengths):
        times = np.arange(int(length * RATE_HZ)) / RATE_HZ
        audio = 0.1 * rng.standard_normal(len(times)) * np.abs(np.sin(2 * np.pi * times))
        (folder / f"{number:05d}.flac").write_bytes(to_flac(audio.astype(np.float32)))


def rate(recipe: Recipe, engine: Machines, own: Words, root: Path) -> float:
    """Seconds of audio a second of one setting."""
    if not own.speak:
        return steady_rate(listen(recipe, engine, root)[1], recipe.compute.encoder_actors)
    out = _empty(root / "stage")
    (seat,) = engine.seats(1)
    machine = Timed(seat)
    corpus.run({}, out / "corpus", machine, recipe.corpus)
    documents = parts_of(out / "corpus", TRAIN, int(own.seconds / STORY_SECONDS) + 1)
    speak_and_listen.speak_parts(documents, out, machine, recipe.speech, "speaking")
    seat.leave()
    return steady_rate(machine.finished, recipe.compute.encoder_actors)


class Timed:
    """A machine that notes when each shard was done, and the seconds of audio in it."""

    def __init__(self, seat: Machine) -> None:
        self.compute, self.train, self.call, self._seat = seat.compute, seat.train, seat.call, seat
        self.finished: list[tuple[float, float]] = []

    def rows(
        self,
        name: str,
        rows: Sequence[Any],
        pools: Sequence[Pool],
        total: int,
        unit: str,
        done: Done = lambda row: None,
    ) -> None:
        """See `slamray.stage.work.Machine`."""

        def noted(row: Mapping[str, Any]) -> None:
            self.finished.append((time.perf_counter(), row["audio_seconds"]))
            done(row)

        self._seat.rows(name, rows, pools, total, unit, noted)


def listen(recipe: Recipe, engine: Machines, root: Path) -> tuple[Folder, list[tuple[float, float]]]:
    """The units of the recordings in `root`, and when each shard was done, with the seconds of audio in it."""
    out = _empty(root / "stage")
    (seat,) = engine.seats(1)
    machine = Timed(seat)
    recordings = [Recording(text_id(path.name), str(path)) for path in sorted((root / "recordings").glob("*"))]
    speak_and_listen.listen(recordings, out, machine, listening_of(recipe), "listening", "recorded.max_bad_share")
    seat.leave()
    return out, machine.finished


def _empty(folder: Path) -> Folder:
    shutil.rmtree(folder, ignore_errors=True)
    return Folder(folder)


def steady_rate(finished: Sequence[tuple[float, float]], actors: int) -> float:
    """Audio of all shards but the first of each actor, over the time from then to the last.

    finished: of each shard, when it was done, and its seconds of audio.
    """
    if len(finished) <= actors:
        raise BadInput(f"seconds: {len(finished)} shards are too few for {actors} actor(s); give more")
    in_order = sorted(finished)
    return sum(seconds for _, seconds in in_order[actors:]) / (in_order[-1][0] - in_order[actors - 1][0])


def ask_slamkit(folder: Path, *words: object) -> float:
    """What benchmarks/peer_slamkit.py prints, in a process of its own; BadInput when it fails."""
    script = Path(__file__).with_name("peer_slamkit.py")
    command = [sys.executable, str(script), str(folder), str(PEER_BATCH), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadInput(f"SLAMKIT={folder}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
