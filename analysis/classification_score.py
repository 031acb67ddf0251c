"""python -m analysis.classification_score."""

import sys

from analysis.look.classification_score import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
