"""Where and with what a run is carried out."""

import torch

from analysis.record import environment


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    described = environment.describe_environment([], torch.device("cpu"), 1)
    assert list(described["packages"]) == ["torch"]
