"""Which trials fit side by side into the memory of a device, by what trials of the same model have taken before."""

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import psutil
from optuna.trial import FrozenTrial

from sweeps.local.pool import Pool
from sweeps.local.trial_run import TrialRun
from sweeps.local.trials import Claim
from sweeps.local.workers import GPU, asked, has_gpu

ASK_GPU = (sys.executable, "-c", "import torch; print(torch.cuda.mem_get_info()[0])")
# A GPU holds more than the tensors that a run counts: CUDA itself, and the allocator's gaps.
GPU_SHARE, GPU_GIB = 1.2, 0.75
TOLERANCE = 1e-6  # GiB, of rounding


class DeviceMemory:
    """The memory of the devices that slots share.

    Args:
        devices: for each slot, the environment variables that give its runs their GPUs or their share of the cores.
        gib: memory of each device; None to ask the device, or the system, what is free now.
    """

    def __init__(self, devices: Sequence[Mapping[str, str]], gib: float | None = None) -> None:
        self.devices = devices
        self.places = [devices.index(own) for own in devices]  # of each slot: the first slot with the same device
        self.num_slots = Counter(self.places)
        self.is_on_gpu = any(GPU in own for own in devices)
        self.gib = {
            place: (gib or free_gib(devices[place])) if num > 1 else math.inf for place, num in self.num_slots.items()
        }

    def slot_for(self, claim: Claim, pool: Pool[TrialRun], trials: Sequence[FrozenTrial]) -> int | None:
        """Return a free slot whose device has room for a trial: that with the most room. None if it has to wait.

        An empty device takes any trial. One that was short of memory beside others has a device to itself.

        Args:
            claim: the trial.
            pool: the slots, and the runs that have them.
            trials: all of the sweep, with what those of earlier starts have taken.
        """
        needs = peaks_by_model(trials, pool.runs)
        found = []
        for slot in pool.free_slots():
            place = self.places[slot]
            others = self.on_device(place, pool)
            left = self.gib[place] - sum(self.need(run.claim, needs, place, run.peak_gib) for run in others)
            if not others or self.need(claim, needs, place) <= left + TOLERANCE:
                found.append((left, -slot))
        return -max(found)[1] if found else None

    def on_device(self, place: int, pool: Pool[TrialRun]) -> list[TrialRun]:
        """Return the runs on the device of a slot."""
        return [run for run, own in zip(pool.slots, self.places, strict=True) if run and own == self.places[place]]

    def need(self, claim: Claim, peaks: Mapping[str, float], place: int, own_peak: float = 0.0) -> float:
        """Return the GiB that a trial takes; as long as nothing is known of its model, an equal share of the device."""
        if claim.is_alone:
            return math.inf
        peak = max(own_peak, peaks.get(model_of(claim.settings), 0.0))
        if not peak:
            return self.gib[place] / self.num_slots[place]
        return gib_taken(peak, self.is_on_gpu)


def gib_taken(peak: float, is_on_gpu: bool) -> float:
    """Return the GiB of a device that a run takes, by the most that it says it has used; 0 if it has said nothing."""
    return peak * GPU_SHARE + GPU_GIB if is_on_gpu and peak else peak


def peaks_by_model(trials: Sequence[FrozenTrial], runs: Sequence[TrialRun]) -> dict[str, float]:
    """Return the most GiB that a trial of each model has taken; infinite if all that is known is that it was short."""
    peaks: dict[str, float] = {}
    is_short = set()
    for trial in trials:
        model = model_of(trial.user_attrs.get("settings"))
        peaks[model] = max(peaks.get(model, 0.0), trial.user_attrs.get("peak_gib", 0.0))
        if trial.user_attrs.get("alone"):
            is_short.add(model)
    for run in runs:
        model = model_of(run.claim.settings)
        peaks[model] = max(peaks.get(model, 0.0), run.peak_gib)
    return {model: peak or (math.inf if model in is_short else 0.0) for model, peak in peaks.items()}


def model_of(settings: object) -> str:
    """Return the name of the model in a trial's settings, as a storage has them; "" where there is but one."""
    return str(settings.get("model", "")) if isinstance(settings, Mapping) else ""


def free_gib(device: Mapping[str, str]) -> float:
    """Return the memory that is free on a GPU, or of the machine, in GiB; infinite where nobody can tell."""
    if not has_gpu(device):
        return psutil.virtual_memory().available / 2**30
    num_bytes = asked(ASK_GPU, device)
    return math.inf if num_bytes is None else num_bytes / 2**30
