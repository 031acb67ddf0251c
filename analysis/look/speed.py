"""Training speed of train.py beside a notebook-style loop and a bare loop, by `python -m analysis.benchmark`.

Every figure comes from a process of its own. The three loops take turns, round by round, so that a ratio compares
runs that were minutes apart on the same machine; each ratio is given as its median over the rounds and its range.

    notebook  torchvision-style dataset and DataLoader, one image at a time through its transforms, fp32
    bare      uint8 images on the device, normalised in batches; the same precision and memory layout as train.py;
              for a GAN a loop of two optimizers, with fresh noise for each of them as in train.py
    train.py  the program itself, its epoch rate after a first epoch to warm up
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from analysis.command_line import Parser, run_program, whole_number
from analysis.record import run_folder
from data.dataset import DatasetInfo, Split
from data.datasets import load_splits
from data.errors import UserError
from models.core.objective import Objective, wants_channels_last
from models.core.settings import resolve
from models.parts.adversarial import Adversarial
from models.parts.layers import one_hot
from models.registry import MODELS

ROOT = Path(__file__).parents[2]
BATCH_SIZE = 128
LR = 1e-3
STEPS = {"mlp": 300, "cnn": 60, "resnet18": 8, "dc_gan": 20, "ac_gan": 20}  # a few seconds each on two cores
NARROW = {"dc_gan": ["--width=32", "--discriminator_width=32"], "ac_gan": ["--width=48", "--discriminator_width=8"]}
DEFAULT_STEPS = 20
Step = Callable[[Tensor, Tensor], Tensor]  # one step on images and labels; returns its loss
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NotebookImages(torch.utils.data.Dataset):
    """Images as torchvision's CIFAR10 hands them out: a PIL image each, through its transforms."""

    def __init__(self, split: Split, info: DatasetInfo) -> None:
        from torchvision import transforms

        self.images = split.images.permute(0, 2, 3, 1).numpy()
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(info.mean, info.std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def notebook_batches(split: Split, info: DatasetInfo, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as a notebook makes them, without end."""
    loader = torch.utils.data.DataLoader(NotebookImages(split, info), BATCH_SIZE, shuffle=True)
    while True:
        for images, labels in loader:
            yield images.to(device), labels.to(device)


def resident_batches(
    split: Split, info: DatasetInfo, device: torch.device, channels_last: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images that lie on the device, without end."""
    images = split.images.permute(0, 2, 3, 1) if channels_last else split.images
    images, labels = images.contiguous().to(device), split.labels.to(device)
    mean, std = (255 * torch.tensor(values, device=device).view(3, 1, 1) for values in (info.mean, info.std))
    while True:
        for index in torch.randperm(len(labels), device=device).split(BATCH_SIZE):
            batch = images[index].permute(0, 3, 1, 2) if channels_last else images[index]
            yield batch.float().sub_(mean).div_(std), labels[index]


def classifier_step(objective: Objective, autocast: Callable, is_fused: bool) -> Step:
    """One step of a classifier, as a notebook writes it."""
    net, optimizer = objective.get_submodule("net"), torch.optim.Adam(objective.parameters(), LR, fused=is_fused)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with autocast():
            loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def adversarial_step(gan: Adversarial, autocast: Callable, is_fused: bool) -> Step:
    """One step of a GAN's two optimizers, as a notebook writes it that spares the generator's step what it can."""
    generator, discriminator = gan.generator, gan.discriminator
    optimizers = [
        torch.optim.Adam(net.parameters(), LR, (0.5, 0.999), fused=is_fused) for net in (discriminator, generator)
    ]
    score_loss, class_loss = nn.BCEWithLogitsLoss(), nn.CrossEntropyLoss()

    def fakes(labels: Tensor) -> Tensor:
        noise = torch.randn(len(labels), gan.settings.latent_size, device=labels.device)
        return generator(torch.cat([noise, one_hot(labels, gan.num_labels)], dim=1))

    def loss_of(images: Tensor, labels: Tensor, target: float) -> Tensor:
        outputs = discriminator(images).float()
        loss = score_loss(outputs[:, 0], torch.full((len(images),), target, device=images.device))
        return loss + class_loss(outputs[:, 1:], labels) if gan.num_labels else loss

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with autocast():
            with torch.no_grad():
                fake = fakes(labels)
            loss = loss_of(images, labels, 1.0) + loss_of(fake, labels, 0.0)
        loss.backward()
        optimizers[0].step()
        optimizers[0].zero_grad(set_to_none=True)
        discriminator.requires_grad_(False)
        with autocast():
            loss = loss_of(fakes(labels), labels, 1.0)
        loss.backward()
        discriminator.requires_grad_(True)
        optimizers[1].step()
        optimizers[1].zero_grad(set_to_none=True)
        return loss

    return step


def measure_loop(kind: str, model: str, precision: str, data_dir: str) -> float:
    """Images/s of the notebook's or the bare loop in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments = [f"--model={model}", f"--mixed_precision={precision}", *NARROW.get(model, [])]
    settings = resolve(arguments, {}, MODELS)
    info, splits = load(data_dir, settings.normalisation)
    objective = MODELS[model][1](settings, info).to(device)
    autocast: Callable = nullcontext
    if kind == "notebook":
        batches = notebook_batches(splits["train"], info, device)
    else:
        torch.backends.cudnn.benchmark = True
        channels_last = wants_channels_last(settings, objective, device)
        if channels_last:
            objective.to(memory_format=torch.channels_last)
        if precision != "no":
            autocast = partial(torch.autocast, device.type, DTYPES[precision])
        batches = resident_batches(splits["train"], info, device, channels_last)
    steps = STEPS.get(model, DEFAULT_STEPS)
    is_fused = kind == "bare"
    if isinstance(objective, Adversarial):
        step = adversarial_step(objective, autocast, is_fused)
    else:
        step = classifier_step(objective, autocast, is_fused)

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            loss = step(*next(batches))
        loss.item()  # waits for a GPU

    train(steps)  # the same warm-up as an epoch of train.py
    started = time.perf_counter()
    train(steps)
    return steps * BATCH_SIZE / (time.perf_counter() - started)


def measure_train_py(model: str, precision: str, data_dir: str) -> float:
    """Images/s of train.py, in a process of its own."""
    with tempfile.TemporaryDirectory() as runs_dir:
        arguments = {
            "model": model,
            "mixed_precision": precision,
            "data_dir": data_dir,
            "batch_size": BATCH_SIZE,
            "lr": LR,
            "epochs": 2,
            "train_fraction": STEPS.get(model, DEFAULT_STEPS) * BATCH_SIZE / 50_000,
            "val_fraction": 0,
            "panels_every": 100,
            "runs_dir": runs_dir,
            "run_id": "benchmark",
            "tracking": "offline",
        }
        told = [*(f"--{key}={value}" for key, value in arguments.items()), *NARROW.get(model, [])]
        command = [sys.executable, "train.py", *told]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        rows = run_folder.read_metrics(Path(runs_dir) / "benchmark")
        return [row["images_per_second"] for row in rows if "lr" in row][-1]


def measure_start_up() -> float:
    """Seconds from starting train.py on digits, tracked offline, to its first step."""
    with tempfile.TemporaryDirectory() as runs_dir:
        arguments = ["--dataset=digits", "--epochs=2", "--val_fraction=0", "--tracking=offline", "--panels_every=100"]
        command = [sys.executable, "train.py", *arguments, f"--runs_dir={runs_dir}", "--run_id=benchmark"]
        started = time.time()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        folder = Path(runs_dir) / "benchmark"
        first, second = (row for row in run_folder.read_metrics(folder) if "lr" in row)
        # Between the first step and the last log lie the epochs, and a checkpoint and a panel, which are counted in.
        logged = (folder / run_folder.METRICS).stat().st_mtime
        return logged - started - first["epoch_seconds"] - second["epoch_seconds"]


def load(data_dir: str, normalisation: str = "channel") -> tuple[DatasetInfo, dict[str, Split]]:
    """CIFAR-10 as train.py loads it."""
    return load_splits(
        "cifar10",
        data_dir,
        image_size=0,
        train_fraction=1.0,
        val_fraction=0.0,
        data_seed=0,
        normalisation=normalisation,
        max_corrupt_images=0,
    )


def in_own_process(kind: str, model: str, precision: str, data_dir: str) -> float:
    """Images/s of one loop in a fresh process."""
    command = [sys.executable, "-m", "analysis.benchmark", f"--models={model}", f"--mixed_precision={precision}"]
    command += [f"--data_dir={data_dir}", f"--loop={kind}"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def spread(values: list[float]) -> str:
    """Median and range of some ratios."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def compare(models: list[str], precision: str, rounds: int, data_dir: str) -> None:
    """Measure every model in turn and print its row as soon as it is known."""
    load(data_dir)  # says at once where the data is missing
    print(f"images/s of training, batch {BATCH_SIZE}, train.py with --mixed_precision={precision}, {rounds} rounds;")
    print("ratios: median (range) over the rounds")
    print(f"{'model':<10}{'notebook':>10}{'bare':>10}{'train.py':>10}  {'x notebook':<22}{'x bare':<22}")
    for model in models:
        rates: dict[str, list[float]] = {"notebook": [], "bare": [], "train.py": []}
        for _ in range(rounds):
            rates["notebook"].append(in_own_process("notebook", model, precision, data_dir))
            rates["bare"].append(in_own_process("bare", model, precision, data_dir))
            rates["train.py"].append(measure_train_py(model, precision, data_dir))
        ratios = {
            name: [ours / theirs for ours, theirs in zip(rates["train.py"], rates[name], strict=True)]
            for name in ("notebook", "bare")
        }
        medians = "".join(f"{statistics.median(values):>10,.0f}" for values in rates.values())
        print(f"{model:<10}{medians}  {spread(ratios['notebook']):<22}{spread(ratios['bare']):<22}", flush=True)
    print(f"start-up to the first step, on digits: {spread([measure_start_up() for _ in range(rounds)])} s")


def measure(options: Namespace) -> None:
    """Compare the loops, or measure one of them."""
    models = options.models.split(",")
    if unknown := sorted(set(models) - set(MODELS)):
        raise UserError(f"--models={unknown[0]} is not known; there are: {', '.join(MODELS)}")
    if options.loop:
        print(json.dumps(measure_loop(options.loop, models[0], options.mixed_precision, options.data_dir)))
    else:
        compare(models, options.mixed_precision, options.rounds, options.data_dir)


def main(arguments: Sequence[str]) -> int:
    """Compare speeds; returns the exit code."""
    parser = Parser(
        prog="python -m analysis.benchmark", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="mlp,cnn,resnet18", help="comma-separated keys of MODELS")
    parser.add_argument(
        "--mixed_precision", choices=("no", "bf16", "fp16"), default="bf16", help="of train.py and bare"
    )
    parser.add_argument("--rounds", type=whole_number, default=5, help="times that each loop is measured")
    parser.add_argument("--data_dir", default="", help="as for train.py")
    parser.add_argument("--loop", choices=("notebook", "bare"), help="measure one loop and print its images/s")
    return run_program("benchmark", lambda: measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
