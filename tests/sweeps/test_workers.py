import os
import sys

import pytest
import torch

from data.errors import UserError
from sweeps.local.device_memory import DeviceMemory
from sweeps.local.workers import assign_devices, has_gpu

VISIBLE, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


@pytest.fixture
def machine(monkeypatch):
    """Sets up a machine of some GPUs and 8 cores, and the environment it is used in."""

    def set_up(num_gpus, **environment):
        for name in (VISIBLE, THREADS, "ACCELERATE_USE_CPU"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    return set_up


def visible(num_workers, devices):
    return [environment.get(VISIBLE) for environment in assign_devices(num_workers, devices)]


@pytest.mark.parametrize(
    ("num_gpus", "num_workers", "devices", "expected"),
    [
        (4, None, None, [None]),  # one run, which may use all of them
        (4, 1, None, [None]),
        (2, 2, None, ["0", "1"]),
        (2, 5, None, ["0", "1", "0", "1", "0"]),
        (4, 2, None, ["0", "1"]),
        (4, None, "2", ["2"]),
        (4, None, "0,3", ["0", "3"]),
        (4, 3, "1,2", ["1", "2", "1"]),
        (4, 1, "1,2", ["1"]),
        (4, None, "0+1,2+3", ["0,1", "2,3"]),
        (4, 3, "0+1,3", ["0,1", "3", "0,1"]),
        (0, 2, None, [None, None]),
    ],
)
def test_gpus_are_dealt_out_in_turn(num_gpus, num_workers, devices, expected, machine):
    machine(num_gpus)
    assert visible(num_workers, devices) == expected


def test_indices_count_the_gpus_that_the_agent_sees(machine):
    machine(2, **{VISIBLE: "5,GPU-ab"})
    assert visible(None, "1,0+1") == ["GPU-ab", "5,GPU-ab"]
    assert visible(3, None) == ["5", "GPU-ab", "5"]


@pytest.fixture
def cuda(monkeypatch):
    """CUDA sees these two alone, whatever it is told."""
    code = "import os; print(int(os.environ['CUDA_VISIBLE_DEVICES'] in ('GPU-8f2a', 'MIG-77')))"
    monkeypatch.setattr("sweeps.local.workers.ASK_COUNT", (sys.executable, "-S", "-c", code))


def test_gpus_are_named_by_uuids_that_cuda_sees(machine, cuda):
    machine(1)
    assert visible(None, "GPU-8f2a,MIG-77,0+GPU-8f2a") == ["GPU-8f2a", "MIG-77", "0,GPU-8f2a"]


def test_a_uuid_that_cuda_sees_nothing_by_is_refused(machine, cuda):
    machine(1)
    with pytest.raises(UserError, match="^--devices=GPU-8f2b: runs have 1 GPU here: give numbers from 0 to 0"):
        assign_devices(None, "GPU-8f2a,GPU-8f2b")  # CUDA would not complain, and the runs would use the CPU


def test_a_uuid_is_taken_where_cuda_cannot_be_asked_or_the_agent_was_told_it(machine, monkeypatch):
    machine(1, **{VISIBLE: "GPU-9"})
    monkeypatch.setattr("sweeps.local.workers.ASK_COUNT", (sys.executable, "-S", "-c", "print(0)"))
    assert visible(None, "GPU-9") == ["GPU-9"]
    monkeypatch.setattr("sweeps.local.workers.ASK_COUNT", (sys.executable, "-S", "-c", "no CUDA"))
    assert visible(None, "GPU-8") == ["GPU-8"]


@pytest.mark.parametrize("use_cpu", ["1", "true", "Yes"])
def test_runs_that_accelerate_keeps_on_the_cpu_get_no_gpus_but_cores(machine, use_cpu):
    machine(2, ACCELERATE_USE_CPU=use_cpu)
    assert assign_devices(2, None) == [{THREADS: "4"}] * 2
    assert assign_devices(None, None) == [{THREADS: "8"}]
    assert not DeviceMemory(assign_devices(2, None), 10.0).is_on_gpu
    for device in ("0", "GPU-8f2a"):
        with pytest.raises(UserError, match=f"^--devices={device}: runs have 0 GPUs here: leave --devices out"):
            assign_devices(None, device)


@pytest.mark.parametrize(
    ("num_gpus", "environment", "devices"),
    [
        (2, {}, "2"),
        (0, {}, "0"),
        (2, {}, "-1"),
        (2, {}, "0,,1"),
        (2, {}, ""),
        (2, {}, "0+x"),
        (2, {}, "²"),
        (1, {VISIBLE: "3"}, "3"),
        (1, {VISIBLE: "3,99"}, "1"),  # there is no GPU 99
        (0, {VISIBLE: "-1"}, "0"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_how_many_are(num_gpus, environment, devices, machine):
    machine(num_gpus, **environment)
    with pytest.raises(UserError, match=f"^--devices=.*: runs have {num_gpus} GPU"):
        assign_devices(None, devices)


@pytest.mark.parametrize(("num_workers", "share"), [(None, "8"), (1, "8"), (2, "4"), (3, "2"), (20, "1")])
def test_workers_without_gpus_share_the_cores(num_workers, share, machine):
    machine(0)
    assert assign_devices(num_workers, None) == [{THREADS: share}] * (num_workers or 1)


@pytest.mark.parametrize(
    ("num_workers", "devices", "share"),
    [(1, None, None), (2, None, "4"), (None, "0,1", "4"), (None, "0+1,2+3", "2"), (4, "0", "2"), (1, "0+1", "4")],
)
def test_processes_on_gpus_share_the_cores_too(num_workers, devices, share, machine):
    machine(4)
    assert {own.get(THREADS) for own in assign_devices(num_workers, devices)} == {share}


@pytest.mark.parametrize(
    ("num_gpus", "device", "use_cpu", "expected"),
    [(1, {}, "", True), (1, {}, "true", False), (0, {}, "", False), (0, {VISIBLE: "0"}, "", True)],
)
def test_a_run_has_a_gpu_whether_or_not_it_is_told_which(num_gpus, device, use_cpu, expected, machine):
    machine(num_gpus, ACCELERATE_USE_CPU=use_cpu)
    assert has_gpu(device) == expected


def test_the_user_s_own_number_of_threads_stays(machine):
    machine(0, **{THREADS: "3"})
    assert assign_devices(2, None) == [{}, {}]


def test_where_affinity_is_unknown_all_cores_count(machine, monkeypatch):
    machine(0)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert assign_devices(2, None) == [{THREADS: "3"}] * 2


@pytest.mark.parametrize("devices", [None, "0"])
def test_more_workers_than_a_machine_can_have_are_refused(machine, devices):
    machine(1)
    with pytest.raises(UserError, match="--workers=100000000 are too many"):
        assign_devices(100_000_000, devices)
