"""What tests of several programs of sweeps/ have in common."""

import pytest

from tests.sweep_agents import Stage


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    stage.close()
