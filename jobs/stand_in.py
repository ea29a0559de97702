"""Make stand-ins for recordings, for a laptop that has none: `python jobs/stand_in.py FOLDER`."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("stand_in", sys.argv[1:]))
