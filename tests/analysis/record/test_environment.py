"""Where and with what a run is carried out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.record import environment


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    described = environment.describe_environment([], torch.device("cpu"), 1)
    assert list(described["packages"]) == ["torch"]


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    found = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return found.stdout.strip()


def test_a_source_that_differs_from_its_commit_is_told_staged_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    path = tmp_path / "a.py"
    path.write_text("old\n")
    for arguments in (["init"], ["add", "a.py"], ["commit", "-m", "first"], ["tag", "-a", "v1", "-m", "first"]):
        git(tmp_path, *arguments)
    commit = git(tmp_path, "rev-parse", "HEAD")

    def described():
        found = environment.describe_environment([], torch.device("cpu"), 1)
        return found["commit"], found["changes"]

    assert described() == (commit, "")
    path.write_text("new\n")
    changed = described()
    assert changed[0] == f"{commit}-dirty"
    assert changed[1] != ""
    git(tmp_path, "add", "a.py")
    assert described() == changed
    git(tmp_path, "commit", "-m", "second")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert described() == (commit, "")


def test_a_new_file_of_the_source_that_git_does_not_know_is_a_change(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    (tmp_path / ".gitignore").write_text("*ignored.py\n")
    for arguments in (["init"], ["add", ".gitignore"], ["commit", "-m", "first"]):
        git(tmp_path, *arguments)
    (tmp_path / "models" / "parts").mkdir(parents=True)
    for name in ("scratch.py", "models/ignored.py", "models/notes.txt"):
        (tmp_path / name).write_text("a = 1\n")
    assert environment.uncommitted_changes() == ""  # as train.py imports none of these
    path = tmp_path / "models" / "parts" / "größe 2.py"
    path.write_text("a = 1\n")
    first = environment.uncommitted_changes()
    path.write_text("a = 2\n")
    second = environment.uncommitted_changes()
    assert len({"", first, second}) == 3
    assert environment.describe_environment([], torch.device("cpu"), 1)["commit"].endswith("-dirty")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
def test_the_most_memory_is_told_in_bytes():
    np.ones(2**24)
    lines = Path("/proc/self/status").read_text().splitlines()
    [kib] = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    assert environment.peak_memory_bytes(torch.device("cpu")) == pytest.approx(kib * 1024, rel=0.05)
