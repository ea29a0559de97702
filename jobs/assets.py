"""Make the models of the offline default: `python jobs/assets.py [a.b=c ...] [--plan] [--install]`."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("assets", sys.argv[1:]))
