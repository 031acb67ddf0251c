"""A run that is asked to stop takes errors that follow for what was asked."""

import signal

import pytest

from data.errors import UserError
from data.signals import STOP_SIGNALS
from models.core.processes import StopRequest, StopRequested


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
