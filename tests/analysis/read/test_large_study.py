"""A sweep of 10,000 trials is read from its database in little time."""

import time

import pytest

from analysis.read.sweeps import read_sweeps
from tests.large_study import write_large_study


@pytest.mark.slow
def test_ten_thousand_trials_are_read_in_a_second(tmp_path):
    write_large_study(tmp_path / "sweeps" / "large", 10_000)
    read_sweeps(tmp_path)  # the first one loads libraries
    seconds = []
    for _ in range(3):  # the best: other tests share the cores
        started = time.process_time()
        [sweep] = read_sweeps(tmp_path).sweeps
        seconds.append(time.process_time() - started)
    assert min(seconds) < 1.0
    assert len(sweep.trials) == 9_999  # one of those was never begun
    assert sweep.leaders[0].value == min(trial.value for trial in sweep.trials if trial.state == "COMPLETE")
