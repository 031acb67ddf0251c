"""python -m analysis.beta."""

import sys

from analysis.compare.beta_figure import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
