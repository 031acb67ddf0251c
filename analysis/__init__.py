"""Looking at runs and comparing them: programs (`python -m analysis.X`) above, libraries in the four rooms below."""

import sys

from data.signals import hold_signals

if sys.argv[0] == "-m":  # as long as Python looks for a program here: its imports take seconds
    hold_signals()
