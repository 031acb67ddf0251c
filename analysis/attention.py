"""python -m analysis.attention."""

import sys

from analysis.look.attention import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
