"""What slamkit does on all cores: extract units, pack them, score pairs; three benchmarks start it.

    python benchmarks/peer_slamkit.py SLAMKIT BATCH extract MODEL RECORDINGS
    python benchmarks/peer_slamkit.py SLAMKIT BATCH score MODEL RECORDINGS LM
    python benchmarks/peer_slamkit.py SLAMKIT BATCH score_units UNITS LM
    python benchmarks/peer_slamkit.py SLAMKIT BATCH pack FOLDER CONTEXT PROCESSES

SLAMKIT: a clone of slp-rl/slamkit. `extract` prints seconds of audio a second: its command sorts recordings by length,
pads a batch to its longest, and calls `extract`; so does this. `score` prints the seconds that one checkpoint's metric
takes from audio: a batch is that many pairs of recordings, encoded, tokenised and scored as `modelling_metric` does.
`score_units` prints the seconds of the LM alone; UNITS is a JSON list of lists. `pack` prints the seconds from
FOLDER's train.jsonl and validation.jsonl of units to its data set of pieces: the loop of its prepare_tokens, and then
what its training command calls. Recordings lie in memory: reading,
writing and starting are left out, in its favour.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import joblib
import soundfile
import torch
from safetensors.torch import load_file
from sklearn.cluster import MiniBatchKMeans
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, HubertConfig


def main(words: Sequence[str]) -> int:
    """Print the figure."""
    slamkit, batch, what, *rest = words
    sys.path.insert(0, slamkit)
    if what == "extract":
        print(extraction_rate(extractor_of(rest[0]), read(rest[1]), int(batch)))
    elif what == "score":
        print(scoring_seconds(extractor_of(rest[0]), read(rest[1]), int(batch), rest[2]))
    elif what == "pack":
        print(packing_seconds(Path(slamkit), Path(rest[0]), int(rest[1]), int(rest[2])))
    else:
        print(unit_scoring_seconds(json.loads(Path(rest[0]).read_text()), int(batch), rest[1]))
    return 0


def extractor_of(model: str) -> Any:
    """Its HuBERT, quantised at the layer before the last."""
    from slamkit.feature_extractor.hubert_feature_extractor import HubertFeatureExtractor

    write_kmeans(Path(model))
    layer = HubertConfig.from_pretrained(model).num_hidden_layers - 1
    return HubertFeatureExtractor(model, "", layer, cache_path=model)


def read(recordings: str) -> list[torch.Tensor]:
    """All recordings of a folder."""
    paths = sorted(Path(recordings).glob("*.flac"))
    return [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]


def extraction_rate(extractor: Any, audios: Sequence[torch.Tensor], batch: int) -> float:
    """Seconds of audio a second."""
    ordered = sorted(audios, key=len, reverse=True)
    batches = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    extractor.extract(*padded(batches[-1]))
    began = time.perf_counter()
    for some in batches:
        extractor.extract(*padded(some))
    return sum(map(len, audios)) / extractor.sample_rate / (time.perf_counter() - began)


@torch.inference_mode()
def scoring_seconds(extractor: Any, audios: Sequence[torch.Tensor], batch: int, lm: str) -> float:
    """Of pairs of recordings that follow each other."""
    from slamkit.tokeniser.unit_tokeniser import UnitTokeniser

    tokeniser, model = UnitTokeniser(extractor), AutoModelForCausalLM.from_pretrained(lm).eval()
    extractor.extract(*padded(audios[:2]))
    began = time.perf_counter()
    for start in range(0, len(audios), 2 * batch):
        for side in (0, 1):
            log_likelihood(
                model, tokeniser.tokenise(*padded(audios[start + side : start + 2 * batch : 2]))["input_ids"]
            )
    return time.perf_counter() - began


@torch.inference_mode()
def unit_scoring_seconds(units: Sequence[Sequence[int]], batch: int, lm: str) -> float:
    """Of pairs of units that follow each other, as tokens."""
    from slamkit.tokeniser.unit_tokeniser import UnitTokeniser

    tokeniser, model = UnitTokeniser(None), AutoModelForCausalLM.from_pretrained(lm).eval()
    texts = tokeniser.stringify_representation([{"units": row} for row in units])
    batches = [
        tokeniser.string_tokenise(texts[start + side : start + 2 * batch : 2], return_tensors="pt", padding=True)
        for start in range(0, len(texts), 2 * batch)
        for side in (0, 1)
    ]
    log_likelihood(model, batches[-1]["input_ids"])
    began = time.perf_counter()
    for tokens in batches:
        log_likelihood(model, tokens["input_ids"])
    return time.perf_counter() - began


def packing_seconds(slamkit: Path, folder: Path, context: int, processes: int) -> float:
    """Of its two commands' work, in its own order and with its own numbers of threads."""
    sys.path.insert(0, str(slamkit / "cli"))
    import datasets
    from omegaconf import OmegaConf
    from prepare_tokens import process_jsonl
    from slamkit.data import init_dataset
    from slamkit.tokeniser.unit_tokeniser import UnitTokeniser

    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    shutil.rmtree(folder / "cache", ignore_errors=True)
    tokeniser = UnitTokeniser(None)
    tokeniser.text_tokeniser.pad_token = "<PAD>"
    (folder / "tokens").mkdir(exist_ok=True)
    began = time.perf_counter()
    paths = {}
    for split in ("train", "validation"):
        paths[split] = folder / "tokens" / f"{split}.jsonl"
        prepare = partial(process_jsonl, tokeniser=tokeniser, requires_meta=False, meta_path=None)
        with (folder / f"{split}.jsonl").open() as read, paths[split].open("w") as written, ThreadPool(32) as threads:
            written.writelines(f"{line}\n" for line in threads.imap(prepare, read) if line)
    data = {"train_path": str(paths["train"]), "val_path": str(paths["validation"]), "num_proc": processes}
    init_dataset(OmegaConf.create({"data": data | {"packing": False}, "model": {"context_len": context}}), tokeniser)
    return time.perf_counter() - began


def log_likelihood(model: Any, tokens: torch.Tensor) -> list[float]:
    """The lines of its UnitLM.log_likelihood, whose wrapper does not build under the transformers of the lock."""
    from slamkit.utils.calculation_utils import calc_nll

    logits = model(input_ids=tokens).logits
    targets = tokens[..., 1:].clone()
    targets[targets == 0] = -100
    return (-calc_nll(logits[..., :-1, :], targets, targets.ne(-100), True)).tolist()


def padded(audios: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch and its lengths."""
    return pad_sequence(list(audios), batch_first=True), torch.tensor([len(audio) for audio in audios])


def write_kmeans(model: Path) -> None:
    """The centroids as scikit-learn's estimator, where slamkit looks for it."""
    centroids = load_file(model / "centroids.safetensors")["centroids_KD"].numpy()
    kmeans = MiniBatchKMeans(len(centroids), n_init=1, max_iter=1, batch_size=len(centroids)).fit(centroids)
    kmeans.cluster_centers_ = centroids
    joblib.dump(kmeans, model / "kmeans_model.bin")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
