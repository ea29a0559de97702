"""k-means, centroids on disk, run lengths, and pickles of scikit-learn."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from slamray.errors import BadInput
from slamray.speech.encoders.centroids import convert_joblib, load_centroids, save_centroids
from slamray.speech.encoders.kmeans import Quantiser, deduplicate, expand, fit_kmeans


def blobs(n: int = 3000, k: int = 20, width: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((k, width)) * 5)[rng.integers(k, size=n)] + rng.standard_normal((n, width))


def inertia(feats: np.ndarray, centroids: np.ndarray) -> float:
    return float(np.square(feats[:, None] - centroids[None]).sum(2).min(1).sum())


def test_units_are_those_of_scikit_learn() -> None:
    feats = blobs().astype(np.float32)
    model = KMeans(20, n_init=1, random_state=0).fit(feats)
    units = Quantiser(torch.from_numpy(model.cluster_centers_)).assign(feats)
    assert units.dtype == np.uint16
    np.testing.assert_array_equal(units, model.predict(feats))


def test_no_frames_give_no_units() -> None:
    assert Quantiser(torch.eye(3)).assign(np.zeros((0, 3), np.float32)).shape == (0,)


def test_centroids_of_another_width_than_the_features_are_bad_input() -> None:
    with pytest.raises(BadInput, match="centroids are 3 wide, features 4"):
        Quantiser(torch.eye(3)).assign(np.zeros((1, 4), np.float32))


def test_a_fit_is_as_good_as_that_of_scikit_learn() -> None:
    feats = np.random.default_rng(0).standard_normal((3000, 8))  # no islands: their share of good starts is luck
    ours = fit_kmeans(torch.from_numpy(feats), 50, seed=0).numpy()
    theirs = KMeans(50, n_init=1, random_state=0).fit(feats)
    assert ours.dtype == np.float32
    assert inertia(feats, ours) <= 1.02 * theirs.inertia_


def test_a_fit_depends_on_its_seed_alone() -> None:
    feats = torch.from_numpy(blobs())
    first, again, other = (fit_kmeans(feats, 50, seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_cluster_of_a_fit_holds_frames() -> None:
    feats = torch.from_numpy(np.repeat(blobs(60), 30, axis=0))
    centroids = fit_kmeans(feats, 60, seed=0)
    assert len(np.unique(Quantiser(centroids).assign(feats))) == 60


def test_too_few_frames_are_bad_input() -> None:
    with pytest.raises(BadInput, match="3 frames are too few for 5"):
        fit_kmeans(torch.zeros(3, 2), 5, seed=0)


def test_saved_centroids_come_back(tmp_path: Path) -> None:
    centroids = torch.randn(5, 3)
    save_centroids(tmp_path / "c.safetensors", centroids, encoder_sha256="ab", layer=2)
    assert torch.equal(load_centroids(tmp_path / "c.safetensors"), centroids)


def test_damaged_centroids_are_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_centroids(path, torch.randn(5, 3), encoder_sha256="ab", layer=2)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        load_centroids(path)
    path.write_bytes(content[:50])
    with pytest.raises(BadInput, match="centroids_KD"):
        load_centroids(path)
    with pytest.raises(BadInput, match="absent"):
        load_centroids(tmp_path / "absent")


@pytest.mark.parametrize(
    ("frames", "units", "durations"),
    [([], [], []), ([7], [7], [1]), ([3, 3, 5, 3, 3, 3], [3, 5, 3], [2, 1, 3]), ([1, 2], [1, 2], [1, 1])],
)
def test_repeats_are_counted_and_removed(frames: list[int], units: list[int], durations: list[int]) -> None:
    found_units, found_durations = deduplicate(np.array(frames, np.uint16))
    assert (found_units.tolist(), found_durations.tolist()) == (units, durations)
    assert found_units.dtype == found_durations.dtype == np.uint16
    np.testing.assert_array_equal(expand(found_units, found_durations), frames)


def test_a_run_that_uint16_cannot_count_is_cut() -> None:
    frames = np.repeat(np.array([4, 9], np.uint16), [70_000, 2])
    units, durations = deduplicate(frames)
    assert (units.tolist(), durations.tolist()) == ([4, 4, 9], [65_535, 4_465, 2])
    np.testing.assert_array_equal(expand(units, durations), frames)


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3)])
def test_a_joblib_file_of_scikit_learn_is_converted(tmp_path: Path, compress: int | tuple[str, int]) -> None:
    model = MiniBatchKMeans(10, random_state=np.random.RandomState(0), n_init=1).fit(blobs())
    joblib.dump(model, tmp_path / "km.bin", compress=compress)
    centroids = convert_joblib(tmp_path / "km.bin")
    assert centroids.dtype == torch.float32
    np.testing.assert_array_equal(centroids, model.cluster_centers_.astype(np.float32))


def test_a_plain_pickle_of_scikit_learn_is_converted(tmp_path: Path) -> None:
    model = KMeans(10, random_state=0, n_init=1).fit(blobs())
    (tmp_path / "km.pkl").write_bytes(pickle.dumps(model))
    np.testing.assert_array_equal(convert_joblib(tmp_path / "km.pkl"), model.cluster_centers_.astype(np.float32))


class Hostile:
    def __init__(self, call: object, *values: object) -> None:
        self.how = (call, values)

    def __reduce__(self) -> tuple:
        return self.how


@pytest.mark.parametrize("call", [os.system, eval, exec, np.load, np.lib.format.open_memmap], ids=lambda c: c.__name__)
def test_a_pickle_that_calls_anything_else_is_refused(tmp_path: Path, call: object) -> None:
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Hostile(call, f"touch {tmp_path}/harm")))
    with pytest.raises(BadInput, match="refused"):
        convert_joblib(tmp_path / "bad.pkl")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"a": 1}), pickle.dumps(np.eye(3))])
def test_a_file_that_is_no_k_means_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.pkl").write_bytes(content)
    with pytest.raises(BadInput, match=r"other\.pkl: no k-means"):
        convert_joblib(tmp_path / "other.pkl")
