"""Export a checkpoint: `python jobs/export.py out=FOLDER [checkpoint=FOLDER | recipe=NAME a.b=c ...] [layout=...]`."""

import sys

from slamray.commands.export import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
