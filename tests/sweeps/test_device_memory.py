"""Trials side by side on a device of limited memory."""

import json
import math
import sys

import pytest
from optuna.trial import TrialState, create_trial

from data.files import read_json
from sweeps.local.device_memory import DeviceMemory, gib_taken
from sweeps.local.faults import fault_of, is_short_of_memory, takes_too_much
from tests.fake_device import WORDS
from tests.packing import measure, write

GPU = {"CUDA_VISIBLE_DEVICES": "0"}
OTHER_GPU = {"CUDA_VISIBLE_DEVICES": "1"}


class FakeClaim:
    def __init__(self, model="a", is_alone=False):
        self.settings, self.is_alone = {"model": model}, is_alone


class FakeRun:
    def __init__(self, peak_gib=0.0, **claim):
        self.claim, self.peak_gib = FakeClaim(**claim), peak_gib


class FakePool:
    def __init__(self, *slots):
        self.slots = slots
        self.runs = [run for run in slots if run]

    def free_slots(self):
        return [i for i, run in enumerate(self.slots) if run is None]


def trial(model, **notes):
    attributes = {"settings": {"model": model}, **notes}
    return create_trial(state=TrialState.FAIL, user_attrs=attributes)


CPU = [{}, {}, {}]


@pytest.mark.parametrize(
    ("devices", "slots", "trials", "claim", "slot"),
    [
        (CPU, [None] * 3, [], {}, 0),
        (CPU, [FakeRun(), None, None], [], {}, 1),  # nothing is known: a third for each
        (CPU, [FakeRun(), FakeRun(), None], [], {}, 2),
        (CPU, [FakeRun(8.0), None, None], [], {}, None),
        (CPU, [FakeRun(4.0), None, None], [], {}, 1),
        (CPU, [FakeRun(4.0), FakeRun(), None], [], {}, None),  # what one takes, the next takes, too
        (CPU, [FakeRun(4.0), FakeRun(model="b"), None], [], {"model": "b"}, None),
        (CPU, [FakeRun(model="b"), None, None], [trial("a", peak_gib=5.5)], {}, 1),
        (CPU, [FakeRun(model="b"), None, None], [trial("a", peak_gib=7.5)], {}, None),
        (CPU, [FakeRun(model="b"), None, None], [trial("a", peak_gib=7.5), trial("a", peak_gib=1.0)], {}, None),
        (CPU, [FakeRun(1.0), None, None], [trial("a", peak_gib=7.5)], {}, None),  # it has only begun
        (CPU, [None] * 3, [trial("a", peak_gib=75.0)], {}, 0),  # an empty device takes any
        (CPU, [FakeRun(1.0), None, None], [], {"is_alone": True}, None),
        (CPU, [FakeRun(1.0, is_alone=True), None, None], [], {}, None),
        (CPU, [FakeRun(model="b"), None, None], [trial("a", alone=True)], {}, None),  # it was short, and that is all
        (CPU, [FakeRun(model="b"), None, None], [trial("a", alone=True, peak_gib=2.0)], {}, 1),
        ([GPU, OTHER_GPU] * 2, [FakeRun(1.0), None, None, None], [], {}, 1),  # the emptier one
        ([GPU, OTHER_GPU] * 2, [FakeRun(7.0), None, None, None], [], {}, 1),  # what the first has is not the other's
        ([GPU, OTHER_GPU], [FakeRun(9.9), None], [], {"is_alone": True}, 1),
        # Nothing is known: half of its GPU, a quarter of all. The other GPU is taken by one that has it to itself.
        ([GPU, OTHER_GPU] * 2, [FakeRun(4.0, model="b"), FakeRun(is_alone=True), None, None], [], {}, None),
        ([GPU, GPU], [FakeRun(3.5), None], [], {}, 1),  # 4.95 of 5 with what CUDA takes
        ([GPU, GPU], [FakeRun(3.6), None], [], {}, None),
    ],
)
def test_a_trial_gets_the_slot_where_it_fits_or_waits(devices, slots, trials, claim, slot):
    room = DeviceMemory(devices, gib=10.0)
    assert room.slot_for(FakeClaim(**claim), FakePool(*slots), trials) == slot


def test_a_gpu_holds_more_than_a_runs_tensors_and_nothing_of_one_that_has_said_nothing():
    assert [gib_taken(peak, is_on_gpu=True) for peak in (0.0, 10.0)] == [0.0, 10 * 1.2 + 0.75]
    assert gib_taken(10.0, is_on_gpu=False) == 10.0


def test_a_device_that_is_not_shared_is_not_asked_for_its_memory(monkeypatch):
    monkeypatch.setattr("sweeps.local.device_memory.free_gib", lambda device: pytest.fail("it was asked"))
    assert DeviceMemory([GPU, OTHER_GPU]).slot_for(FakeClaim(), FakePool(FakeRun(99.0), None), []) == 1


@pytest.mark.parametrize(("code", "gib"), [("print(3 * 2**30)", 3.0), ("no GPU", math.inf)])
def test_a_shared_gpu_tells_its_memory_or_has_no_limit(monkeypatch, code, gib):
    monkeypatch.setattr("sweeps.local.device_memory.ASK_GPU", (sys.executable, "-S", "-c", code))
    assert DeviceMemory([GPU, GPU]).gib == {0: gib}
    assert 0 < DeviceMemory([{}, {}]).gib[0] < 1e6  # GiB of the machine


@pytest.mark.parametrize(
    ("words", "is_short", "too_much"),
    [
        (WORDS.format(asked=9.9, total=10, free=9.95, others=0.0), True, True),
        (WORDS.format(asked=6, total=10, free=2, others=8), True, False),  # others hold it
        ("RuntimeError: CUDA error: out of memory", True, True),
        ("x\nDefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes", True, True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True, True),
        ("RuntimeError: GET was unable to find an engine to execute this computation", True, True),
        ("train.py: [Errno 12] Cannot allocate memory", True, False),
        ("ValueError: the settings ran out of luck", False, False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_words(words, is_short, too_much, tmp_path):
    fault = fault_of(1, words, tmp_path, 0)
    assert (is_short_of_memory(fault, words), takes_too_much(fault, words)) == (is_short, too_much)


@pytest.mark.slow
def test_small_models_run_side_by_side_and_a_large_one_alone_and_none_is_lost(stage):
    slow = {"num_of_each": 1, "epochs": 5, "seconds": 0.4}  # long enough to start the next beside it
    one_by_one, _ = measure(stage, "one", "--workers=1", **slow)
    packed, output = measure(stage, "packed", "--workers=3", "--memory=10", **slow)
    print(f"{one_by_one:.1f} s one by one, {packed:.1f} s packed")
    assert stage.states("packed") == ["COMPLETE"] * 3
    assert packed < one_by_one
    assert "waits for memory: lr=0.1 model=large" in output
    assert stage.disorder() == []


@pytest.mark.slow
def test_a_trial_that_is_short_of_memory_beside_others_goes_on_alone(stage):
    file = write(stage, "sweep", 1, ["other", "large"], epochs=6, seconds=0.3)
    done = stage.run(file, "--workers=2", "--memory=30")  # what the user says is wrong: both are let in
    assert "trial 1 short of memory beside others, goes on alone" in done.output
    assert stage.states() == ["COMPLETE"] * 2
    small, large = stage.trials()
    assert (small.user_attrs["peak_gib"], large.user_attrs["peak_gib"]) == (3.0, 8.0)
    ends = {row["run"]: row["time"] for row in stage.journal("end")}
    assert max(row["time"] for row in stage.journal("start")) > ends[small.user_attrs["run_id"]]


@pytest.mark.slow
@pytest.mark.parametrize(("gib", "steps", "state"), [(18, 2, "COMPLETE"), (36, 4, "COMPLETE"), (72, 4, "FAIL")])
def test_micro_batches_are_halved_until_the_trial_fits_but_no_more_than_twice(stage, gib, steps, state):
    file = write(stage, "sweep", 1, ["huge"], sizes=f"huge:{gib}", epochs=2, seconds=0)
    done = stage.run(file, code=0 if state == "COMPLETE" else 1)
    [trial] = stage.trials()
    assert trial.state.name == state
    assert f"trial 0 short of memory, begins anew with accumulation_steps={steps}" in done.output
    assert trial.user_attrs["settings"]["accumulation_steps"] == steps  # of which final runs learn
    folder = stage.sweep() / trial.user_attrs["run_id"]
    assert json.loads((folder / "settings.json").read_text())["accumulation_steps"] == steps
    assert len(list(stage.sweep().glob("000-*"))) == 1 + trial.user_attrs["halvings"]
    if state == "FAIL":
        assert trial.user_attrs["error"].startswith("short of memory even with accumulation_steps=4, exit code 1")
        assert "CUDA out of memory" in trial.user_attrs["error"]


@pytest.mark.slow
def test_micro_batches_that_three_processes_could_not_share_are_not_halved(stage):
    stage.run(write(stage, "sweep", 1, ["huge"], sizes="huge:18", epochs=2, seconds=0, processes=3), code=1)
    [trial] = stage.trials()
    assert trial.state.name == "FAIL"
    assert len(stage.journal("start")) == 1


@pytest.mark.slow
def test_a_pause_keeps_the_smaller_micro_batches(stage):
    file = write(stage, "sweep", 1, ["huge"], sizes="huge:18", epochs=20, seconds=0.05)
    agent = stage.start(file)
    stage.wait_for("epoch", 1, epoch=3)
    agent.signal(15)
    assert agent.wait() == 143
    stage.run(file)
    [trial] = stage.trials()
    assert trial.state.name == "COMPLETE"
    assert [row["told"].get("accumulation_steps") for row in stage.journal("start")] == [None, "2", "2"]
    assert stage.disorder() == []
    assert read_json(stage.sweep() / trial.user_attrs["run_id"] / "summary.json")["state"] == "finished"
