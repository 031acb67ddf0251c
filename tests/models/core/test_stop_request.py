"""A run that is asked to stop takes errors that follow for what was asked."""

import os
import signal

import pytest

from data.errors import UserError
from data.signals import STOP_SIGNALS
from models.core import processes
from models.core.processes import LAUNCHED_BY_US, StopRequest, StopRequested


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield StopRequest()
    for number, handler in before.items():
        signal.signal(number, handler)


def fails_of_a_signal():
    """A library that is interrupted, and says so in its own way."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except StopRequested:
        raise UserError("the connection is lost") from None


def test_an_error_after_a_request_counts_as_its_work(stop):
    with pytest.raises(StopRequested), stop.interrupting():
        fails_of_a_signal()


def test_an_error_without_a_request_is_an_error(stop):
    with pytest.raises(UserError), stop.interrupting():
        raise UserError("the connection is lost")


@pytest.mark.parametrize("is_ours", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_late_sigterm_of_our_own_programs_is_the_same_request(number, is_ours, stop, monkeypatch):
    clock, codes = iter([0.0, 5.0]), []
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setenv(LAUNCHED_BY_US, "1") if is_ours else monkeypatch.delenv(LAUNCHED_BY_US, raising=False)
    stop.receive(number, None)
    stop.receive(number, None)
    assert codes == ([] if is_ours and number == signal.SIGTERM else [128 + number])
