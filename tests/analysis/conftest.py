import pytest
import yaml

from tests.run_folders import write_run


@pytest.fixture
def runs_dir(tmp_path):
    """Three single runs and a sweep of three, with a final run."""
    write_run(tmp_path / "a", [2.0, 1.0, 1.5], days=1, tags="x, y")
    write_run(tmp_path / "b", [3.0], days=2, model="mlp", state="failed")
    write_run(tmp_path / "c", [4.0, 2.5], days=3, dataset="cifar10", state=None)
    sweep = tmp_path / "sweeps" / "lr"
    for i, (losses, state) in enumerate([([1.0, 0.5], "finished"), ([2.0], "stopped"), ([0.9, 0.8], "finished")]):
        write_run(sweep / f"00{i}-run", losses, days=4 + i, state=state, lr=10.0**-i)
    write_run(sweep / "final-000-run-seed1", [], days=7, state=None, lr=1.0, seed=1)
    parameters = {"lr": {"min": 0.01, "max": 1.0}, "model": {"value": "cnn"}}
    content = {"method": "bayes", "metric": {"name": "val/loss"}, "parameters": parameters}
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(content))
    return tmp_path
