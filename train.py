"""Train one model: python train.py --model=cnn --dataset=cifar10 --lr=2.0e-4 (see --help).

The same file runs under `accelerate launch` on several processes, and under an agent that hands it a sweep's values.
"""

import os
import shlex
import signal
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from tqdm import tqdm

from analysis.look import closer
from analysis.look.collapse import signs_of_collapse
from analysis.record import run_folder
from analysis.record.data_file import keep_info
from analysis.record.environment import describe_environment, peak_memory_bytes
from analysis.record.evaluation import evaluate
from analysis.record.saved import check_images, resolve
from analysis.record.text_report import epoch_line, network_lines, report
from analysis.record.tracker import Tracker
from data.datasets import describe
from data.errors import UserError, exit_code, lack_of_memory, shortened
from data.loader import Loader
from data.metrics import best_elsewhere
from data.visible import is_first_process, say, visible, warn
from models.core import checkpoint
from models.core.abilities import Samples
from models.core.objective import count_parameters
from models.core.processes import StopRequest, die_with_launcher, leave, start_all_processes
from models.core.settings import Settings
from models.core.training import DivergedError, Trainer
from models.help import help_text
from models.loading import build_objective, load_model, read_data
from models.logged import check_best_by
from models.resolve import sweep_values

LONGEST_WAIT = timedelta(hours=3)  # of the processes for the one that downloads, decodes or uploads


def run(arguments: Sequence[str]) -> int:
    """Carry out one run, from the command line to its report; return the exit code."""
    # Said outright, else accelerate takes several processes on a CPU for strangers.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    is_main = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT).is_main_process

    settings = resolve(arguments, os.environ) if is_main else None
    if settings and not settings.run_id:
        settings = replace(settings, run_id=run_folder.fresh_run_id())
    [settings] = broadcast_object_list([settings])
    folder = Path(settings.runs_dir) / settings.run_id
    if settings.dry_run or run_folder.state(folder) == "finished":
        if is_main:
            say(outline(settings) if settings.dry_run else already_finished(folder))
        return 0

    accelerator = make_accelerator(settings, on_cpu)
    with accelerator.local_main_process_first():  # the others then find it downloaded and decoded
        info, splits = read_data(settings)
    check_images(folder, info)
    if not settings.test:
        splits.pop("test", None)
    if is_main:
        check_best_by(settings, info)
    objective, loaders = load_model(settings, info, splits, accelerator)
    if is_main:
        closer.get_ready(objective, loaders)
    del splits  # the loaders have what they need of them

    trainer = Trainer(settings, accelerator, objective, loaders)
    if (folder / run_folder.CHECKPOINT).exists():
        trainer.restore(folder / run_folder.CHECKPOINT)
    stop = StopRequest()
    tracker = None
    if is_main:
        environment = describe_environment(arguments, accelerator.device, accelerator.num_processes)
        environment |= {"data": info.fingerprint, "images": info.in_one_line()}
        say(f"{info.name}: {info.in_one_line()}")
        tracker = Tracker(folder, asdict(settings), environment, sweep_values(os.environ), trainer.progress.num_logged)
        keep_info(folder, info)

    this = Run(settings, accelerator, trainer, loaders, folder, tracker)
    trainable, total = count_parameters(objective)
    summary = {"num_parameters": trainable, "total_parameters": total, "network": network_lines(objective)}
    state = "failed"
    try:
        ended = this.train(stop)
        if ended == "finished":
            summary |= this.close()
        state = ended
    except Exception as error:
        summary["error"] = textwrap.shorten(str(error) or type(error).__name__, width=500)
        raise
    finally:
        if tracker is not None:
            tracker.finish(state, {**summary, **this.result_so_far()}, folder / run_folder.BEST)
    if is_main:
        say(report(folder) + (how_to_go_on(settings) if state == "stopped" else ""))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 0


@dataclass
class Run:
    """One run: epochs of training, each with its evaluation, and a closing evaluation."""

    settings: Settings
    accelerator: Accelerator
    trainer: Trainer
    loaders: Mapping[str, Loader]
    folder: Path
    tracker: Tracker | None  # of the main process alone

    def train(self, stop: StopRequest) -> str:
        """Train to the end, or to a request to stop; return the run's state."""
        while self.trainer.progress.epoch < self.settings.epochs and not self.trainer.is_out_of_patience():
            if not self.trainer.train_epoch(stop):
                self.trainer.save(self.folder / run_folder.CHECKPOINT)
                return "stopped"
            self.end_epoch()
        return "finished"

    def end_epoch(self) -> None:
        """Evaluate, log and save what there is at the end of an epoch."""
        progress, settings = self.trainer.progress, self.settings
        metrics = {
            "lr": self.trainer.lr,
            "images_per_second": progress.images_per_second(),
            "epoch_seconds": progress.epoch_seconds,
            "peak_memory_gib": peak_memory_bytes(self.accelerator.device) / 2**30,
            **progress.epoch_means(self.accelerator),
        }
        progress.finish_epoch()
        split = self.trainer.split
        validation = {f"{split}/{name}": value for name, value in self.evaluate(split, progress.epoch).items()}
        row = {"epoch": progress.epoch, "images_seen": progress.images_seen, **metrics, **validation}
        if self.trainer.note_epoch(validation, row):
            self.save_best()
        if self.tracker is not None:
            is_last = progress.epoch == settings.epochs or self.trainer.is_out_of_patience()
            images = self.draw_panels() if is_last or progress.epoch % settings.panels_every == 0 else {}
            self.tracker.log(row, images)
            self.tracker.update_summary(self.trainer.kept())
            progress.num_logged = self.tracker.num_logged
            tqdm.write(epoch_line(progress.epoch, settings.epochs, row))
        self.trainer.save(self.folder / run_folder.CHECKPOINT)

    def evaluate(self, split: str, epoch: int) -> dict[str, float]:
        """Return metrics of a split by name; of training images those of the model's samples alone."""
        accelerator, loader, evaluated = self.accelerator, self.loaders[split], self.trainer.evaluated
        batch_size = self.settings.eval_batch_size
        metrics = {} if split == "train" else evaluate(accelerator, evaluated, loader, batch_size)
        if isinstance(evaluated, Samples):
            [of_samples] = broadcast_object_list([self.evaluate_samples(loader, epoch)])
            metrics |= of_samples
        return metrics

    def evaluate_samples(self, loader: Loader, epoch: int) -> dict[str, float]:
        """Return how good the model's samples are, on the main process alone."""
        if not self.accelerator.is_main_process:
            return {}
        with self.accelerator.autocast():
            return closer.sample_metrics(self.trainer.evaluated.eval(), loader, epoch)

    def draw_panels(self) -> dict[str, Path]:
        """Draw what the network makes of fixed images; return the files by the name they are logged under."""
        loader = self.loaders[self.trainer.split]
        with self.accelerator.autocast():
            evaluated, epoch = self.trainer.evaluated.eval(), self.trainer.progress.epoch
            paths = closer.draw_panels(evaluated, loader, self.folder / run_folder.PANELS, epoch)
        return {f"panels/{name}": path for name, path in paths.items()}

    def save_best(self) -> None:
        """Keep the weights that are evaluated."""
        if self.tracker is not None:
            checkpoint.save(self.folder / run_folder.BEST, self.trainer.evaluated.state_dict())
        self.accelerator.wait_for_everyone()

    def close(self) -> dict[str, float]:
        """Evaluate the best weights for good and take a closer look at them; return the metrics."""
        progress, evaluated = self.trainer.progress, self.trainer.evaluated
        if progress.best:
            checkpoint.load_weights(self.folder / run_folder.BEST, evaluated)
        else:
            self.save_best()
        test = self.evaluate("test", self.settings.epochs) if self.settings.test else {}
        result = {f"test/{name}": value for name, value in test.items()}
        if self.tracker is None:
            return result
        split = closer.split_looked_at(self.loaders)
        subject = closer.Subject(evaluated.eval(), self.loaders, split, self.folder)
        with self.accelerator.autocast():
            found = closer.closer_look(subject)
        result |= {f"{split}/{name}": value for name, value in found.metrics.items()}
        self.tracker.log(
            {"epoch": progress.epoch, "images_seen": progress.images_seen, **result},
            {f"{split}/{name}": path for name, path in found.images.items()},
            {f"{split}/{name}": table for name, table in found.tables.items()},
        )
        return result

    def result_so_far(self) -> dict[str, object]:
        """Return what the summary says of the training, however it ended."""
        progress, rows = self.trainer.progress, run_folder.read_metrics(self.folder)
        rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
        kept = self.trainer.kept()
        return {
            **kept,
            "best": best_elsewhere(rows, kept),
            **signs_of_collapse(rows),
            "epochs": progress.epoch,
            "images_seen": progress.images_seen,
            "train_seconds": progress.train_seconds + progress.epoch_seconds,
            "images_per_second": statistics.median(rates) if rates else None,
        }


def outline(settings: Settings) -> str:
    """Return what a run would train, and with what settings, as text."""
    info = describe(settings.dataset, settings.image_size) or read_data(settings)[0]
    check_best_by(settings, info)
    objective = build_objective(settings, info)
    trainable, total = count_parameters(objective)
    lines = [f"{key}: {value}" for key, value in asdict(settings).items()]
    if info.num_images:  # else no image was read
        lines.append(f"images: {info.in_one_line()}")
    return "\n".join([*lines, str(objective), f"num_parameters: {trainable}", f"total_parameters: {total}"])


def how_to_go_on(settings: Settings) -> str:
    """Return the line that tells how a run that was stopped is resumed."""
    again = shlex.join(["python", "train.py", f"--runs_dir={settings.runs_dir}", f"--run_id={settings.run_id}"])
    return f"\nstopped; to go on: {again}"


def already_finished(folder: Path) -> str:
    """Return the report of a run that has nothing left to do."""
    return f"{folder} is finished; give another --run_id to train anew\n{report(folder)}"


def make_accelerator(settings: Settings, on_cpu: bool) -> Accelerator:
    """Return what handles precision and processes.

    Raises:
        UserError: the device cannot compute in the precision that was asked for.
    """
    if on_cpu and settings.mixed_precision == "fp16":
        raise UserError("--mixed_precision=fp16 needs a GPU, whose gradients accelerate scales: give bf16")
    torch.backends.cudnn.benchmark = True
    try:
        return Accelerator(
            cpu=on_cpu,
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.accumulation_steps,
        )
    except ValueError as error:
        raise UserError(f"--mixed_precision={settings.mixed_precision}: {error}") from None


def main(arguments: Sequence[str]) -> int:
    """Carry out a run, or say in one line what keeps it from being carried out; return the exit code."""
    if "--help" in arguments or "-h" in arguments:
        say(help_text())
        return 0
    die_with_launcher()
    try:
        start_all_processes(arguments)
        return run(arguments)
    except (UserError, DivergedError, OSError) as error:
        if is_first_process() or isinstance(error, OSError):  # the others would only repeat what the user did wrong
            rank = "" if is_first_process() else f" (process {os.environ['RANK']})"
            print(visible(f"train.py{rank}: {shortened(str(error))}"), file=sys.stderr)
        return exit_code(error)
    except (MemoryError, RuntimeError) as error:
        if not (lack := lack_of_memory(error)):
            raise
        warn(f"train.py: {lack}")
        return 1
    except KeyboardInterrupt:  # before there is anything to save
        return 128 + signal.SIGINT


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
