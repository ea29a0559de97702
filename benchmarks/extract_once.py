"""Units of the recordings of a folder once, in a process of its own: benchmarks/extraction.py times it whole.

python benchmarks/extract_once.py ROOT a.b=c ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from extraction import listen

from slamray.config.load import load_recipe
from slamray.runtime.engine import Engine


def main(words: list[str]) -> None:
    """ROOT holds the recordings, and gets the stage's folder."""
    root, *others = words
    recipe = load_recipe(others)
    engine = Engine(recipe.compute)
    try:
        engine.connect()
        listen(recipe, engine, Path(root))
    finally:
        engine.close()


if __name__ == "__main__":
    main(sys.argv[1:])
