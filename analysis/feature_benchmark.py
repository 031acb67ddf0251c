"""python -m analysis.feature_benchmark."""

import sys

from analysis.look.feature_speed import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
