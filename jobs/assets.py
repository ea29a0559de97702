"""Make the models of the offline default: `python jobs/assets.py [a.b=c ...] [--plan] [--install]`."""

import sys

from slamray.commands.help import is_asked, print_help
from slamray.commands.run import main
from slamray.recipe.assets import build, install

if __name__ == "__main__":
    if is_asked(sys.argv[1:]):
        sys.exit(print_help("assets"))
    words = [word for word in sys.argv[1:] if word != "--install"]
    sys.exit(main(words, build, install if "--install" in sys.argv else None))
