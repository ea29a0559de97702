"""The file of a k-means' centroids: written, read, and converted from one that scikit-learn and joblib have pickled.

Shapes: K centroids, D features.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from slamray.errors import BadInput
from slamray.given import check_weights, reason_of
from slamray.speech.encoders.base import CENTROIDS, KEY, checksum

# The functions that build a pickled numpy array, data type or number.
_NUMPY = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": multiarray._reconstruct,
    "scalar": multiarray.scalar,
}


def save_centroids(path: Path, centroids_KD: torch.Tensor, encoder_sha256: str, layer: int) -> None:
    """A safetensors file; its metadata say which weights (their SHA-256) and which layer the centroids belong to."""
    metadata = {"encoder_sha256": encoder_sha256, "layer": str(layer), "sha256": checksum(centroids_KD.float().numpy())}
    save_file({CENTROIDS: centroids_KD.float().contiguous()}, path, metadata)


def load_centroids(path: Path) -> torch.Tensor:
    """Centroids float32 (K, D). BadInput when the file is none of `save_centroids` or is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            centroids_KD = file.get_tensor(CENTROIDS).float()
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{KEY}.centroids: {path} holds no {CENTROIDS} ({reason_of(error)})") from error
    if centroids_KD.ndim != 2 or not torch.isfinite(centroids_KD).all():
        raise BadInput(
            f"{KEY}.centroids: {CENTROIDS} of {path} is no finite matrix; fit or convert the centroids again"
        )
    if "sha256" in metadata and metadata["sha256"] != checksum(centroids_KD.numpy()):
        raise BadInput(f"{KEY}.centroids: {path} is damaged (its checksum differs); fetch or fit it again")
    return centroids_KD


def convert_joblib(path: Path) -> torch.Tensor:
    """Centroids float32 (K, D) of a published k-means of scikit-learn, pickled by joblib (uncompressed, gzip or zlib).

    Only the classes that such a file needs are built; any other is refused before it is imported. BadInput for such a
    class, and for a file that is no pickle of a k-means.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        elif content[:1] == b"\x78":
            content = zlib.decompress(content)
        centroids = _KMeansUnpickler(io.BytesIO(content)).load().centroids()
    except Exception as error:  # an unpickler raises whatever the bytes of a file lead it to
        check_weights(path)
        raise BadInput(f"{path}: no k-means of scikit-learn can be read from it ({reason_of(error)})") from error
    return torch.from_numpy(np.ascontiguousarray(centroids, np.float32))


class _KMeans:
    """Stands in for the pickled estimator: keeps its attributes, runs nothing of scikit-learn's."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._state = state

    def centroids(self) -> np.ndarray:
        found = self._state["cluster_centers_"]
        if not isinstance(found, np.ndarray) or found.ndim != 2:
            raise ValueError("cluster_centers_ is no matrix")
        return found


class _ArrayHeader:
    """Stands in for joblib's NumpyArrayWrapper: the array's raw bytes follow it in the stream."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._state = state

    def read(self, stream: Any) -> np.ndarray:
        dtype = self._state["dtype"]
        if dtype.hasobject:
            raise ValueError("an array of objects")
        if self._state.get("numpy_array_alignment_bytes") is not None:  # joblib >= 1.1 aligns uncompressed arrays
            stream.read(stream.read(1)[0])
        count = math.prod(self._state["shape"])
        values = np.frombuffer(stream.read(count * dtype.itemsize), dtype)
        return values.reshape(self._state["shape"], order=self._state["order"])


class _Empty:
    """Stands in for what a k-means carries beside its centroids, such as its random state."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _KMeansUnpickler(pickle._Unpickler):
    """Pickle's interpreter in Python, for joblib's arrays within the stream (joblib/numpy_pickle.py NumpyUnpickler)."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for scikit-learn's and joblib's classes, numpy's own for arrays and scalars, nothing else."""
        if name in ("MiniBatchKMeans", "KMeans") and module in ("sklearn.cluster._kmeans", "sklearn.cluster.k_means_"):
            return _KMeans
        if name == "NumpyArrayWrapper" and module in ("joblib.numpy_pickle", "sklearn.externals.joblib.numpy_pickle"):
            return _ArrayHeader
        if module.split(".")[0] == "sklearn" or module.startswith("numpy.random"):
            return _Empty
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in _NUMPY:
            return _NUMPY[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")

    def load_build(self) -> None:
        super().load_build()  # type: ignore[misc]
        if isinstance(self.stack[-1], _ArrayHeader):
            self.stack.append(self.stack.pop().read(self._file))

    dispatch[pickle.BUILD[0]] = load_build
