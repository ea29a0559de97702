"""Convert a published k-means (joblib) once: `python jobs/convert_centroids.py IN.bin OUT.safetensors LAYER`."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("convert_centroids", sys.argv[1:]))
