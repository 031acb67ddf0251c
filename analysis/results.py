"""python -m analysis.results."""

import sys

from analysis.compare.results import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
