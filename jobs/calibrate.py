"""Measure what `--plan` counts with: `python jobs/calibrate.py [recipe=NAME] [seconds=6] [a.b=c ...]`, a minute."""

import sys

from slamray.commands.calibrate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
