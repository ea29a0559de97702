"""Convert a published unit vocoder (torch pickle) once: `python jobs/convert_vocoder.py IN.pt CONFIG.json OUT`."""

import sys
from pathlib import Path

from slamray.errors import BadInput
from slamray.speech.decoders.hifigan import convert_published

if __name__ == "__main__":
    try:
        checkpoint, config, out = (Path(word) for word in sys.argv[1:])
    except ValueError:
        sys.exit(f"usage: {__doc__}")
    try:
        convert_published(checkpoint, config, out)
    except BadInput as error:
        sys.exit(f"error: {error}")
