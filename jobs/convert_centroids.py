"""Convert a published k-means (joblib) once: `python jobs/convert_centroids.py IN.bin OUT.safetensors LAYER`."""

import sys
from pathlib import Path

from slamray.errors import BadInput
from slamray.speech.encoders.kmeans import convert_joblib, save_centroids

if __name__ == "__main__":
    try:
        source, target, layer = sys.argv[1:]
        save_centroids(Path(target), convert_joblib(Path(source)), "", int(layer))
    except BadInput as error:
        sys.exit(f"error: {error}")
    except ValueError:
        sys.exit(f"usage: {__doc__}")
