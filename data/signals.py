"""Signals that ask a program to end, held back while it is importing what it needs, which takes seconds."""

import signal

LAUNCHER_IS_GONE = signal.SIGUSR1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, LAUNCHER_IS_GONE)


def hold_signals() -> None:
    """Let signals that ask to end wait for `release_signals`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def release_signals() -> None:
    """Let signals that ask to end, those that have waited too, have their effect."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
