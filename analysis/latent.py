"""python -m analysis.latent."""

import sys

from analysis.look.latents import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
