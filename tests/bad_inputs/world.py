"""The world that programs work with: runs, a sweep, images and weights, all of them small and whole."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from analysis.record import run_folder
from data.files import read_json, write_json
from tests.bad_inputs.attempt import Attempt, run
from tests.run_folders import write_run

ROOT = Path(__file__).parents[2]
SMALL = ["--dataset=digits", "--epochs=1", "--train_fraction=0.1", "--tracking=off", "--batch_size=32", "--test=True"]
SAMPLED = [*SMALL, "--width=4", "--latent_size=2"]
FROZEN = ["--arch=test_efficientnet", "--input_size=32", "--feature_precision=fp32", *SMALL]
TRAINED = {  # by the run's id
    "mlp": ["--model=mlp", "--width=8", "--depth=1", *SMALL],
    "vit": ["--model=nano_vit", "--width=16", "--depth=1", "--patch_size=8", *SMALL],
    "vae": ["--model=vae", *SAMPLED, "--latent_images=0"],
    "cvae": ["--model=cvae", *SAMPLED],
    "frozen": ["--model=frozen", *FROZEN, "--pretrained=False"],
}
SWEEP = {
    "program": str(ROOT / "train.py"),
    # The values are checked by train.py's rules, and the trials only pretend to train.
    "command": ["${env}", "${interpreter}", str(ROOT / "tests" / "sweep_program.py"), "${args}", "--epochs=2"],
    "method": "bayes",
    "metric": {"name": "val/loss", "goal": "minimize", "target": 0.0},
    "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 3, "strict": True},
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1},
        "batch_size": {"values": [32, 64]},
        "dropout": {"min": 0.0, "max": 0.5},
        "depth": {"distribution": "q_uniform", "min": 1, "max": 3, "q": 1},
        "model": {"value": "mlp"},
    },
    "name": "lr",
    "description": "a sweep",
    "project": "a-project",
    "run_cap": 2,
}


def build_part(place: Path, part: str) -> None:
    """Build a part of the world in a folder."""
    for name in ("here", "home", "tmp", "out", "journal", "cache", "data/weights", "runs/sweeps", "odd/folder"):
        (place / name).mkdir(parents=True)
    (place / "odd" / "file").write_text("no content of any program")
    (place / "odd" / "folder" / "inside").write_text("")
    build_odd_places(place / "odd")
    {"runs": build_runs, "looks": build_looks, "sweep": build_sweep, "data": build_data}[part](place)


def copy_parts(template: Path, parts: Sequence[str], world: Path) -> None:
    """Make a fresh world of its parts, with pipes and devices."""
    shutil.rmtree(world, ignore_errors=True)
    odd = {"fifo", "full", "null", "dangling", "loop"}
    for part in parts:
        shutil.copytree(
            template / part, world, symlinks=True, ignore=lambda folder, names: odd & set(names), dirs_exist_ok=True
        )
    build_odd_places(world / "odd")


def build_odd_places(odd: Path) -> None:
    """Make what is no file, for programs to be pointed at."""
    os.mkfifo(odd / "fifo")
    for name, target in (("dangling", "nowhere"), ("loop", "loop")):
        (odd / name).symlink_to(target)
    for name, number in (("full", 7), ("null", 3)):
        try:  # not the machine's own: a program that replaced or deleted it would do so for all
            os.mknod(odd / name, 0o20666, os.makedev(1, number))
            (odd / name).write_bytes(b"")
        except OSError:
            (odd / name).unlink(missing_ok=True)
            (odd / name).symlink_to(f"/dev/{name}")


def build_runs(place: Path) -> None:
    """Write runs and a sweep by hand."""
    runs = place / "runs"
    folder = write_run(runs / "a", [2.0, 1.0, 1.5], days=1, tags="x, y", test=True, seed=1)
    result = {"test/loss": 1.5, "test/accuracy": 0.5, "num_parameters": 10, "images_per_second": 100.0}
    write_json(folder / "summary.json", {**read_json(folder / "summary.json"), **result})
    write_run(runs / "b", [3.0], days=2, model="mlp", state="failed")
    for i, beta in enumerate((0.5, 1.0)):
        folder = write_run(runs / "sweeps" / "beta" / f"00{i}-run", [2.0 - i, 1.0], days=4 + i, beta=beta, lr=0.1**i)
        (folder / "panels").mkdir()
        Image.new("RGB", (8, 8), "red").save(folder / "panels" / "samples.png")
        write_json(folder / "generation.json", {"test/fid_inception_2000": 12.5})
    sweep = {"method": "grid", "metric": {"name": "val/loss"}, "parameters": {"beta": {"values": [0.5, 1.0]}}}
    (runs / "sweeps" / "beta" / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    figures = {"mean": 0.5, "std": 0.1, "values": [0.4, 0.6]}
    trial = {"trial": "000-run", "value": 1.0, "settings": {"lr": 0.1, "epochs": 2, "model": "vae"}, "seeds": [1, 2]}
    trial |= {"command": "python train.py --seed=1", "num_parameters": 10, "device": "a device", "test/loss": figures}
    trial |= {"train_seconds": figures, "images_per_second": figures}
    final = {"sweep": "beta", "metric": "val/loss", "trials": [trial], "over_trials": {}}
    write_json(runs / "sweeps" / "beta" / "final.json", final)
    for name in ("results.json", "references.yaml", "RESULTS.md"):
        shutil.copy(ROOT / "analysis" / name, place / name)
    results = json.loads((place / "results.json").read_text())[:2]
    (place / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def build_looks(place: Path) -> None:
    """Train the runs; one of them is left in the middle."""
    for name, words in TRAINED.items():
        work("train", [f"--run_id={name}", *words], place)
    shutil.copytree(place / "runs" / "mlp", place / "runs" / "half")
    settings = read_json(place / "runs" / "half" / run_folder.SETTINGS)
    write_json(place / "runs" / "half" / run_folder.SETTINGS, {**settings, "epochs": 2, "run_id": "half"})
    (place / "runs" / "half" / run_folder.SUMMARY).unlink()
    shutil.move(place / "cache" / "vision-sweeps" / "features", place / "features")
    shutil.rmtree(place / "cache")
    (place / "cache").mkdir()


def work(module: str, words: Sequence[str], place: Path) -> None:
    """Let a program work in the world that is being built, and be sure that it does well."""
    ended = run(Attempt(module, words, place, ()))
    assert ended.code == 0, ended


def build_sweep(place: Path) -> None:
    """Run a sweep whose trials only pretend to train."""
    (place / "sweep.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False))
    values = {"wandb_version": 1, "lr": {"value": 0.01}, "width": {"value": 8}}
    (place / "values.yaml").write_text(yaml.safe_dump(values))
    work("sweeps.agent", [str(place / "sweep.yaml")], place)
    work("sweeps.final", ["lr", "--seeds=1"], place)
    shutil.rmtree(place / "journal")
    (place / "journal").mkdir()


def build_data(place: Path) -> None:
    """Write images as files, as arrays and as CIFAR-10 has them, and weights."""
    draw = np.random.RandomState(0)
    for i in range(12):
        path = place / "data" / "pictures" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.randint(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    (place / "data" / "arrays").mkdir()
    for name in ("train", "test"):
        images, labels = draw.randint(0, 256, (20, 8, 8), dtype=np.uint8), np.arange(20) % 2
        names = {"classes": np.array(["a", "b"])} if name == "train" else {}
        np.savez(place / "data" / "arrays" / f"{name}.npz", images=images, labels=labels, **names)
    (place / "data" / "cifar" / "cifar-10-batches-bin").mkdir(parents=True)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        (place / "data" / "cifar" / "cifar-10-batches-bin" / name).write_bytes(draw.bytes(3073))
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = timm.create_model("test_efficientnet")
    save_file(net.state_dict(), place / "data" / "weights" / "test_efficientnet.safetensors")
    torch.save(net.state_dict(), place / "data" / "weights" / "own.pt")
