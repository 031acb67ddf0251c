"""python -m analysis.runs."""

import sys

from analysis.compare.run_tables import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
