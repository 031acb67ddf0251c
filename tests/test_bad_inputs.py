"""A sample of the bad inputs that `python -m tests.bad_inputs` makes: none ends in a traceback, hangs or does harm."""

import os
import sys

import pytest
from matplotlib.figure import Figure

from tests.bad_inputs.attempt import Attempt, attempt
from tests.forks import Fork

TIMEOUT_SECONDS = 240
READERS = ["--programs", "analysis.report", "analysis.beta"]


def run(log, *words):
    drawn = {"matplotlib.figure.Figure.savefig": Figure.savefig}
    sample = Fork("tests.bad_inputs.__main__", list(words), log, patches=drawn)
    assert sample.wait(TIMEOUT_SECONDS) == 0, sample.output + sample.errors
    return sample.output.splitlines()[-1]


def test_a_sample_for_the_programs_that_load_no_torch(tmp_path):
    assert run(tmp_path / "log", *READERS, "--limit=12").startswith("12 inputs tried, 0 fell short")


@pytest.mark.slow
def test_a_sample_for_the_programs_that_train(tmp_path):
    words = ["--programs", "train", "sweeps.agent", "sweeps.final", "--kinds", "option", "variable"]
    assert run(tmp_path / "log", *words, "--limit=16").startswith("16 inputs tried, 0 fell short")


MISDEEDS = {
    "traceback": "raise KeyError('x')",
    "exit code 1": "return 1",
    "0 lines": "return 2",
    "2 lines": "print('a\\nb', file=sys.stderr); return 2",
    "control characters": "print('\\x1b[2J'); return 0",
    "memory": "len(b'x' * 400_000_000); return 0",
    "changed 'input'": "open('../input', 'w').close(); return 0",
    "deleted 'input'": "os.remove('../input'); return 0",
    "made 'tmp/left'": "open('../tmp/left', 'w').close(); return 0",
    "outside: os.mkdir": "os.mkdir('../../beside'); return 0",
    "exit code -11": "os.kill(os.getpid(), 11)",
    "outside: open": "open('/dev/../etc/none', 'a')",
}


@pytest.fixture
def faults_of(tmp_path, monkeypatch):
    """Returns what is found wrong with a program of one line."""

    def attempt_it(line):
        world = tmp_path / "world"
        for name in ("here", "tmp"):
            (world / name).mkdir(parents=True)
        (world / "input").write_text("content")
        (tmp_path / "misdeed.py").write_text(f"import os, sys, time\ndef main(words):\n    {line}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        faults = attempt(Attempt("misdeed", [], world, ()))
        sys.modules.pop("misdeed", None)
        return faults

    return attempt_it


@pytest.mark.parametrize("fault", MISDEEDS)
def test_every_misdeed_is_noticed(tmp_path, monkeypatch, faults_of, fault):
    monkeypatch.setattr("tests.bad_inputs.attempt.MEBIBYTES", 60)
    faults = faults_of(MISDEEDS[fault])
    assert any(fault in found for found in faults), faults
    assert not os.path.exists(tmp_path / "beside")


@pytest.mark.parametrize(
    ("line", "faults"),
    [
        ("time.sleep(60)", ["hang: []"]),
        ("any(time.sleep(0.01) for _ in range(6000))", ["hang: []"]),
        ("\n    while True: pass", ["hang: []"]),
        ("\n    while time.process_time() < start + 0.8: pass\n    return 0", []),
    ],
    ids=["sleeps", "looks again and again", "computes for ever", "computes"],
)
def test_a_program_hangs_if_it_waits_or_computes_for_long_not_if_a_busy_machine_slows_it(
    monkeypatch, line, faults, faults_of
):
    monkeypatch.setattr("tests.bad_inputs.attempt.SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr("tests.bad_inputs.attempt.SECONDS", 0.4)
    monkeypatch.setattr("tests.bad_inputs.attempt.CPU_SECONDS", 2)
    assert faults_of(f"start = time.process_time(); {line}") == faults


def test_good_deeds_are_no_faults(tmp_path, monkeypatch):
    (tmp_path / "world" / "here").mkdir(parents=True)
    text = "import sys\ndef main(words):\n    print(words[0], file=sys.stderr)\n    open('a', 'w').close(); return 2\n"
    (tmp_path / "good_deed.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert attempt(Attempt("good_deed", ["one line"], tmp_path / "world", ["here/a"])) == []
