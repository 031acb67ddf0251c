"""Features kept in files: found again, shared by processes, and sound after a kill, a cut or a full disk."""

import errno
import io
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from data import feature_cache
from data.errors import UserError
from data.feature_cache import HASH_BYTES, FeatureCache, cached_features, hash_images
from tests.forks import Fork
from tests.two_processes import ranks_of_two

NUM_FEATURES = 5
NETWORK = {"arch": "net", "weights": "sha256-1", "precision": "fp32"}
TIMEOUT_SECONDS = 60


def make_images(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 3, 4, 4), dtype=torch.uint8, generator=generator)


def features_of(images):  # [B, 3, 4, 4] -> [B, 5]: a function of each image alone
    weights = torch.linspace(-1, 1, 48 * NUM_FEATURES).view(48, NUM_FEATURES)
    return (images.flatten(1).double() @ weights.double()).float()


class Compute:
    """features_of, noting the sizes of the batches."""

    def __init__(self):
        self.sizes = []

    def __call__(self, images):
        self.sizes.append(len(images))
        return features_of(images)


def make_cache(root, **changes):
    return FeatureCache(root, {**NETWORK, **changes}, NUM_FEATURES)


def fill(cache, images, compute=features_of, batch_size=4):
    return cached_features(cache, images, compute, batch_size, Accelerator(cpu=True))


def num_computed(cache, images):
    compute = Compute()
    torch.testing.assert_close(fill(cache, images, compute), features_of(images).to(cache.dtype), rtol=0, atol=0)
    return sum(compute.sizes)


def sizes(cache):
    return {name: (cache.folder / name).stat().st_size for name in ("images", "features")}


def test_features_are_those_of_each_image_in_the_order_asked_for(tmp_path):
    images, compute = make_images(11), Compute()
    assert torch.equal(fill(make_cache(tmp_path), images, compute), features_of(images))
    assert compute.sizes == [4, 4, 3]
    assert num_computed(make_cache(tmp_path), images.flip(0)) == 0


def test_only_what_is_missing_is_computed(tmp_path):
    images, others = make_images(20), make_images(7, seed=1)
    assert num_computed(make_cache(tmp_path), images[:12]) == 12
    assert num_computed(make_cache(tmp_path), images[3:8]) == 0
    assert num_computed(make_cache(tmp_path), images[torch.randperm(20)]) == 8
    assert num_computed(make_cache(tmp_path), torch.cat([others[:3], images, others[3:]])) == 7
    assert sizes(make_cache(tmp_path)) == {"images": 27 * HASH_BYTES, "features": 27 * NUM_FEATURES * 4}


def test_equal_images_are_computed_once(tmp_path):
    images = make_images(6)[[0, 1, 1, 2, 0, 3, 4, 5, 5, 5]]
    assert num_computed(make_cache(tmp_path), images) == 6
    assert num_computed(make_cache(tmp_path), images) == 0


def test_mirrored_images_are_other_images(tmp_path):
    images = make_images(6)
    assert num_computed(make_cache(tmp_path), images) == 6
    assert num_computed(make_cache(tmp_path), images.flip(-1)) == 6


def test_a_hash_tells_images_apart_by_one_step_of_one_pixel_and_ignores_the_layout():
    images = make_images(3)
    changed = images.clone()
    changed[1, 2, 3, 3] ^= 1
    assert [a == b for a, b in zip(hash_images(images), hash_images(changed), strict=True)] == [True, False, True]
    assert hash_images(images.to(memory_format=torch.channels_last)) == hash_images(images)
    assert hash_images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)) != hash_images(torch.zeros(1, 3, 2, 2).byte())


def test_every_part_of_the_network_s_description_makes_another_folder(tmp_path):
    changes = [{}, {"arch": "other"}, {"weights": "sha256-2"}, {"input_size": 64}, {"mean": (0.5,)}]
    changes += [{"mean": (0.4,)}, {"interpolation": "bicubic"}, {"precision": "bf16"}]
    folders = {make_cache(tmp_path, **change).folder for change in changes}
    assert len(folders) == len(changes)
    assert make_cache(tmp_path, arch="other").folder.name.startswith("other-")
    assert make_cache(tmp_path).folder in folders


def test_bf16_is_kept_in_two_bytes_and_rounded_once(tmp_path):
    images, cache = make_images(9), make_cache(tmp_path, precision="bf16")
    features = fill(cache, images)
    assert torch.equal(features, features_of(images).bfloat16())
    assert features.dtype == torch.bfloat16
    assert sizes(cache)["features"] == 9 * NUM_FEATURES * 2


def test_rows_in_the_files_are_the_hash_and_the_numbers(tmp_path):
    images, cache = make_images(5), make_cache(tmp_path)
    fill(cache, images)
    rows = np.fromfile(cache.folder / "features", dtype=np.float32).reshape(5, NUM_FEATURES)
    content = (cache.folder / "images").read_bytes()
    keys = [content[i : i + HASH_BYTES] for i in range(0, len(content), HASH_BYTES)]
    assert keys == hash_images(images)
    np.testing.assert_array_equal(rows, features_of(images).numpy())


@pytest.mark.parametrize(("precision", "remedy"), [("bf16", "--feature_precision=fp32"), ("fp32", "--weights")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_and_not_kept(tmp_path, value, precision, remedy):
    images, cache = make_images(6), make_cache(tmp_path, precision=precision)

    def overflow(batch):
        return features_of(batch).index_fill(0, torch.tensor([1]), value)

    with pytest.raises(UserError, match=rf"^net-\w+: a feature is not a finite number: give .*{remedy}") as failure:
        fill(cache, images, overflow)
    assert "\n" not in str(failure.value)
    assert cache.rows() == {}
    assert num_computed(cache, images) == 6  # the lock is free again


CUTS = [0, 1, 15, 16, 17, 5 * 16, 10 * 16 - 1]


@pytest.mark.parametrize("num_bytes", CUTS)
def test_a_cut_list_of_images_costs_the_rows_that_it_lacks(tmp_path, num_bytes):
    images, cache = make_images(10), make_cache(tmp_path)
    fill(cache, images)
    os.truncate(cache.folder / "images", num_bytes)
    assert num_computed(cache, images) == 10 - num_bytes // HASH_BYTES
    assert num_computed(cache, images) == 0
    assert sizes(cache) == {"images": 10 * HASH_BYTES, "features": 10 * NUM_FEATURES * 4}


@pytest.mark.parametrize("num_bytes", [0, 1, 19, 20, 21, 5 * 20, 10 * 20 - 1])
@pytest.mark.parametrize("rest", ["the same", "others first"])
def test_cut_features_cost_the_rows_that_they_lack(tmp_path, num_bytes, rest):
    images, cache = make_images(10), make_cache(tmp_path)
    fill(cache, images)
    os.truncate(cache.folder / "features", num_bytes)
    if rest == "others first":  # whose rows must not take the place of lost ones
        assert num_computed(cache, make_images(12, seed=1)) == 12
    assert num_computed(cache, images) == 10 - num_bytes // 20
    assert num_computed(cache, images) == 0


def test_without_one_of_the_files_all_is_computed_again(tmp_path):
    images, cache = make_images(5), make_cache(tmp_path)
    for name in ("images", "features"):
        fill(cache, images)
        (cache.folder / name).unlink()
        assert num_computed(cache, images) == 5


def test_what_a_kill_left_behind_the_last_row_is_overwritten(tmp_path):
    images, cache = make_images(8), make_cache(tmp_path)
    fill(cache, images[:5])
    for name, tail in (("features", b"x" * 33), ("images", b"y" * 7)):
        with (cache.folder / name).open("ab") as file:
            file.write(tail)
    assert num_computed(cache, images) == 3
    assert sizes(cache) == {"images": 8 * HASH_BYTES, "features": 8 * NUM_FEATURES * 4}


def test_a_full_disk_keeps_the_rows_before(tmp_path, monkeypatch):
    cache = make_cache(tmp_path)
    fill(cache, make_images(4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * NUM_FEATURES * 4 + 50, hard))
    # A bar that cannot be written, since output is captured in a file, would keep its lock for good.
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    try:
        with pytest.raises(OSError, match=f"File too large: make room .*--feature_dir: '{cache.folder}'") as error:
            fill(cache, make_images(9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert len(cache.rows()) == 4
    assert num_computed(cache, make_images(9)) == 5


@pytest.mark.parametrize("name", ["compute.lock", "append.lock", "images", "features"])
def test_a_folder_without_leave_to_write_is_named_with_the_remedy(tmp_path, monkeypatch, name):
    cache = make_cache(tmp_path)
    cache.folder.mkdir(parents=True)
    (cache.folder / name).mkdir()  # which cannot be opened for writing, by root neither
    monkeypatch.setattr(FeatureCache, "num_rows", lambda self: 0)
    with pytest.raises(OSError, match=rf"--feature_dir: '{cache.folder}'$") as error:
        fill(cache, make_images(3))
    assert error.value.errno == errno.EISDIR


def test_the_description_that_another_user_has_written_is_left_alone(tmp_path):
    cache = make_cache(tmp_path)
    fill(cache, make_images(3))
    note = cache.folder / "network.json"
    os.utime(note, ns=(0, 0))
    fill(cache, make_images(5))
    assert note.stat().st_mtime_ns == 0


def test_errors_of_the_images_say_nothing_of_the_cache(tmp_path):
    def fail(images):
        raise OSError(errno.EIO, "the images cannot be read")

    with pytest.raises(OSError, match="the images cannot be read$"):
        fill(make_cache(tmp_path), make_images(3), fail)


def test_features_that_another_machine_stored_are_asked_for_in_one_line(tmp_path):
    cache = make_cache(tmp_path)
    fill(cache, make_images(3))
    with pytest.raises(UserError, match="share --feature_dir"):
        cache.read(hash_images(make_images(4)))


def test_images_that_differ_in_one_pixel_are_told_apart():
    images = make_images(1)
    for place in (0, -1):
        other = images.clone()
        other.view(-1)[place] += 1
        assert hash_images(other) != hash_images(images)


def test_work_is_stored_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "SECONDS_BETWEEN_WRITES", 0.0)
    cache, stored = make_cache(tmp_path), []

    def compute(images):
        stored.append(len(cache.rows()))
        return features_of(images)

    fill(cache, make_images(10), compute, batch_size=3)
    assert stored == [0, 3, 6, 9]


def test_the_bar_tells_speed_and_time_left_and_is_absent_where_nothing_is_computed(tmp_path, capsys, progress_told):
    for shown in (True, False):
        fill(make_cache(tmp_path), make_images(8))
        printed = capsys.readouterr().err
        assert ("8/8" in printed and "images/s" in printed) == shown
        assert bool(printed) == shown


def main(arguments):
    """Be a process that computes slowly, with a line in a log for each image, and then once more, with an overflow."""
    root, num, name, seconds = Path(arguments[0]), int(arguments[1]), arguments[2], float(arguments[3])
    feature_cache.SECONDS_BETWEEN_WRITES = 0.0
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index

    def compute(images):
        time.sleep(seconds)
        with (root / f"{name}.log").open("a") as log:
            log.write("image\n" * len(images))
        return features_of(images)

    def overflow(images):
        return features_of(images) / (rank == 0)  # on the other rank

    (root / f"{name}.started").touch()
    wait_until((root / "go").exists)
    torch.save(fill(make_cache(root), make_images(num), compute, batch_size=2), root / f"{name}-{rank}.pt")
    if accelerator.num_processes > 1:
        try:
            fill(make_cache(root), make_images(num, seed=1), overflow, batch_size=2)
        except UserError as error:
            (root / f"error-{rank}").write_text(str(error))
        accelerator.wait_for_everyone()
        accelerator.end_training()  # else threads of gloo may outlive their process group, which aborts the process
    return 0


def start(root, num, name, seconds=0.02, **variables):
    log = root / f"{name}-{variables.get('RANK', 0)}.output"
    return Fork(__name__, [str(root), str(num), name, str(seconds)], log, environment=variables)


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(process):
    code = process.wait(TIMEOUT_SECONDS)
    output = process.output + process.errors
    assert code == 0, output
    return output


def logged(root, name):
    path = root / f"{name}.log"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
def test_three_processes_at_once_compute_every_image_once(tmp_path):
    processes = [start(tmp_path, num, name) for name, num in (("a", 30), ("b", 40), ("c", 24))]
    wait_until(lambda: len(list(tmp_path.glob("*.started"))) == 3)
    (tmp_path / "go").touch()
    outputs = [finish(process) for process in processes]
    assert sum(logged(tmp_path, name) for name in "abc") == 40
    assert sizes(make_cache(tmp_path)) == {"images": 40 * HASH_BYTES, "features": 40 * NUM_FEATURES * 4}
    assert any("another process computes features of net-" in output for output in outputs)
    for name, num in (("a", 30), ("b", 40), ("c", 24)):
        assert torch.equal(torch.load(tmp_path / f"{name}-0.pt"), features_of(make_images(num)))


@pytest.mark.slow
def test_a_process_that_waits_goes_on_when_the_computing_one_is_killed_and_does_only_the_rest(tmp_path):
    (tmp_path / "go").touch()
    first = start(tmp_path, 40, "first", seconds=2)
    wait_until(lambda: logged(tmp_path, "first") >= 4)
    second = start(tmp_path, 40, "second", seconds=0)
    wait_until(lambda: "waiting for it" in second.output + second.errors)
    assert logged(tmp_path, "second") == 0
    first.signal(signal.SIGKILL)
    first.wait()
    kept = logged(tmp_path, "first")
    finish(second)
    assert 40 - kept <= logged(tmp_path, "second") <= 40 - kept + 2  # the last batch may not have been stored
    assert torch.equal(torch.load(tmp_path / "second-0.pt"), features_of(make_images(40)))


@pytest.mark.slow
def test_two_ranks_share_the_work_and_end_together_over_a_feature_that_is_not_finite(tmp_path):
    (tmp_path / "go").touch()
    for process in [start(tmp_path, 21, "a", 0, **variables) for variables in ranks_of_two()]:
        finish(process)
    assert logged(tmp_path, "a") == 21
    for rank in (0, 1):
        assert torch.equal(torch.load(tmp_path / f"a-{rank}.pt"), features_of(make_images(21)))
        assert "is not a finite number" in (tmp_path / f"error-{rank}").read_text()
    assert len(make_cache(tmp_path).rows()) == 21 + 11  # rank 0's share


@pytest.mark.parametrize("name", ["images", "features"])
def test_a_pipe_in_place_of_a_file_is_told(tmp_path, name):
    cache = FeatureCache(tmp_path, {"arch": "net", "precision": "fp32"}, 3)
    cache.append([b"0" * 16], torch.zeros(1, 3))
    (cache.folder / name).unlink()
    os.mkfifo(cache.folder / name)
    with pytest.raises(UserError, match=f"{name} is no file: delete"):
        cache.rows()
