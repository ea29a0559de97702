"""Measure what `--plan` counts with: `python jobs/calibrate.py [recipe=NAME] [seconds=6] [a.b=c ...]`, a minute."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("calibrate", sys.argv[1:]))
