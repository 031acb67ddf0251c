"""python -m analysis.report."""

import sys

from analysis.compare.report import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
