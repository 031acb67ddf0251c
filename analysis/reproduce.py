"""python -m analysis.reproduce."""

import sys

from analysis.look.reproduction import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
