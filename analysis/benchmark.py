"""python -m analysis.benchmark."""

import sys

from analysis.look.speed import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
