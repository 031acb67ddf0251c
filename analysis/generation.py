"""python -m analysis.generation."""

import sys

from analysis.look.fidelity import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
