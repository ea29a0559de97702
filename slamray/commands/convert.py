"""Convert published pickles once, without executing them: a k-means (joblib), a unit vocoder (torch)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from slamray import store
from slamray.commands.words import as_command
from slamray.errors import BadInput


def centroids(words: Sequence[str]) -> int:
    """`IN.bin OUT.safetensors LAYER`; 2 with one line for what is wrong with the words or the file."""
    return as_command(partial(_centroids, words))


def vocoder(words: Sequence[str]) -> int:
    """`IN.pt CONFIG.json OUT`; 2 with one line for what is wrong with the words or the files."""
    return as_command(partial(_vocoder, words))


def _centroids(words: Sequence[str]) -> int:
    if len(words) != 3 or not words[2].isdigit():
        raise BadInput(f"give IN.bin OUT.safetensors LAYER, not {' '.join(words) or 'nothing'}; --help shows examples")
    source, target, layer = words
    store.check_folder(Path(target).parent, "OUT")
    if Path(target).is_dir():
        raise BadInput(f"OUT={target}: a folder; give the name of a file")
    from slamray.speech.encoders.centroids import convert_joblib, save_centroids

    centroids_KD = convert_joblib(Path(source))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    save_centroids(Path(target), centroids_KD, "", int(layer))
    return 0


def _vocoder(words: Sequence[str]) -> int:
    if len(words) != 3:
        raise BadInput(f"give IN.pt CONFIG.json OUT, not {' '.join(words) or 'nothing'}; --help shows examples")
    checkpoint, config, out = map(Path, words)
    store.check_folder(out, "OUT")
    from slamray.speech.decoders.hifigan import convert_published  # torch; not before the words are right

    convert_published(checkpoint, config, out)
    return 0
