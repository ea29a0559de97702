"""Seconds of audio a second of slamkit's HuBERT extractor, on all cores; benchmarks/extraction.py starts it.

    python benchmarks/peer_slamkit.py SLAMKIT MODEL RECORDINGS BATCH

SLAMKIT: a clone of slp-rl/slamkit. Its command sorts recordings by length, pads a batch to its longest, and calls
`extract`; so does this, on recordings that lie in memory: reading, writing and starting are left out, in its favour.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import soundfile
import torch
from safetensors.torch import load_file
from sklearn.cluster import MiniBatchKMeans
from torch.nn.utils.rnn import pad_sequence
from transformers import HubertConfig


def main(words: Sequence[str]) -> int:
    """Print the figure."""
    slamkit, model, recordings, batch = words
    sys.path.insert(0, slamkit)
    from slamkit.feature_extractor.hubert_feature_extractor import HubertFeatureExtractor

    write_kmeans(Path(model))
    layer = HubertConfig.from_pretrained(model).num_hidden_layers - 1
    extractor = HubertFeatureExtractor(model, "", layer, cache_path=model)
    audios = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in Path(recordings).glob("*.flac")]
    audios.sort(key=len, reverse=True)
    batches = [audios[start : start + int(batch)] for start in range(0, len(audios), int(batch))]
    extract(extractor, batches[-1])
    began = time.perf_counter()
    for some in batches:
        extract(extractor, some)
    print(sum(map(len, audios)) / extractor.sample_rate / (time.perf_counter() - began))
    return 0


def extract(extractor: Any, audios: Sequence[torch.Tensor]) -> None:
    """One batch."""
    extractor.extract(pad_sequence(list(audios), batch_first=True), torch.tensor([len(audio) for audio in audios]))


def write_kmeans(model: Path) -> None:
    """The centroids as scikit-learn's estimator, where slamkit looks for it."""
    centroids = load_file(model / "centroids.safetensors")["centroids_KD"].numpy()
    kmeans = MiniBatchKMeans(len(centroids), n_init=1, max_iter=1, batch_size=len(centroids)).fit(centroids)
    kmeans.cluster_centers_ = centroids
    joblib.dump(kmeans, model / "kmeans_model.bin")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
