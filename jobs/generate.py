"""Continue prompts: `python jobs/generate.py input=FILE|FOLDER|text=TEXT out=FOLDER [say=both] [a.b=c ...]`."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("generate", sys.argv[1:]))
