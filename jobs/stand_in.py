"""Make stand-ins for recordings, for a laptop that has none: `python jobs/stand_in.py FOLDER`."""

import sys

from slamray.commands.help import is_asked, print_help
from slamray.speech.stand_in import main

if __name__ == "__main__":
    sys.exit(print_help("stand_in") if is_asked(sys.argv[1:]) else main(sys.argv[1:]))
