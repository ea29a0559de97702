"""Convert a published k-means (joblib) once: `python jobs/convert_centroids.py IN.bin OUT.safetensors LAYER`."""

import sys
from pathlib import Path

from slamray import store
from slamray.commands.help import is_asked, print_help
from slamray.commands.words import as_command
from slamray.errors import BadInput
from slamray.speech.encoders.kmeans import convert_joblib, save_centroids


def convert() -> int:
    """Read one file and write the other; BadInput for what is wrong with the words or the file."""
    words = sys.argv[1:]
    if len(words) != 3 or not words[2].isdigit():
        raise BadInput(f"give IN.bin OUT.safetensors LAYER, not {' '.join(words) or 'nothing'}; --help shows examples")
    source, target, layer = words
    store.check_folder(Path(target).parent, "OUT")
    if Path(target).is_dir():
        raise BadInput(f"OUT={target}: a folder; give the name of a file")
    centroids_KD = convert_joblib(Path(source))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    save_centroids(Path(target), centroids_KD, "", int(layer))
    return 0


if __name__ == "__main__":
    sys.exit(print_help("convert_centroids") if is_asked(sys.argv[1:]) else as_command(convert))
