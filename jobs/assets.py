"""Make the models of the offline default: `python jobs/assets.py [a.b=c ...] [--plan] [--install]`."""

import sys

from slamray.recipe_assets import build, install
from slamray.run import main

if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--install"]
    sys.exit(main(words, build, install if "--install" in sys.argv else None))
