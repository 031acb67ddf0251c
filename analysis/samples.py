"""python -m analysis.samples."""

import sys

from analysis.look.sample_files import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
