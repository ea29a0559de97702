"""Convert a published unit vocoder (torch pickle) once: `python jobs/convert_vocoder.py IN.pt CONFIG.json OUT`."""

import sys
from pathlib import Path

from slamray import store
from slamray.commands.help import is_asked, print_help
from slamray.commands.words import as_command
from slamray.errors import BadInput
from slamray.speech.decoders.hifigan import convert_published


def convert() -> int:
    """Read two files and write a folder; BadInput for what is wrong with the words or the files."""
    words = sys.argv[1:]
    if len(words) != 3:
        raise BadInput(f"give IN.pt CONFIG.json OUT, not {' '.join(words) or 'nothing'}; --help shows examples")
    checkpoint, config, out = map(Path, words)
    store.check_folder(out, "OUT")
    convert_published(checkpoint, config, out)
    return 0


if __name__ == "__main__":
    sys.exit(print_help("convert_vocoder") if is_asked(sys.argv[1:]) else as_command(convert))
