"""Convert a published unit vocoder (torch pickle) once: `python jobs/convert_vocoder.py IN.pt CONFIG.json OUT`."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("convert_vocoder", sys.argv[1:]))
