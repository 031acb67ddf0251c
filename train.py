"""Train one model: python train.py --model=cnn --dataset=cifar10 --lr=2.0e-4 (see --help).

The same file runs under `accelerate launch` on several processes, and under an agent that hands it a sweep's values.
"""

if __name__ == "__main__":
    from data.signals import hold_signals

    hold_signals()  # the imports take seconds

import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from filelock import FileLock
from tqdm import tqdm

from analysis.command_line import run_program
from analysis.look import closer, finders
from analysis.look.initial_weights import check_source, source_of, start_from
from analysis.look.preview import draw_preview
from analysis.look.training_summary import result_so_far
from analysis.record import run_folder
from analysis.record.data_file import keep_backbone, keep_info
from analysis.record.environment import describe_environment, peak_memory_bytes
from analysis.record.evaluation import Evaluation, evaluate
from analysis.record.machines import check_images_agree, check_is_shared
from analysis.record.resume import check_images, resolve_with_checkpoint
from analysis.record.text_report import already_finished, epoch_line, how_to_go_on, network_lines, report
from analysis.record.tracker import Tracker
from analysis.record.wandb_run import give_back
from analysis.record.wandb_start import INITIAL, RunFacts
from data.dataset import DatasetInfo, split_looked_at
from data.errors import UserError, exit_code, in_words, lack_of_memory
from data.files import check_can_be_made
from data.internals import forget_exit_handlers
from data.loader import Loader
from data.visible import escape_unknown_letters, is_first_process, say, visible, warn
from models.core import checkpoint
from models.core.abilities import Samples
from models.core.objective import count_parameters
from models.core.processes import StopRequest, StopRequested, die_with_launcher, leave, start_all_processes
from models.core.settings import Settings
from models.core.training import DivergedError, Trainer
from models.help import help_text, outline
from models.idle_settings import warn_of_idle
from models.loading import check_model, load_model, make_accelerator, read_data
from models.logged_metrics import check_best_by, check_patience
from models.resolve import sweep_values

LONGEST_WAIT = timedelta(hours=3)  # of the processes for the one that downloads, decodes or uploads


def run(arguments: Sequence[str], stop: StopRequest) -> int:
    """Carry out one run; return the exit code, or raise StopRequested before there is anything to save."""
    # Accelerate has to be told: else several processes on a CPU do not know of one another.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    is_main = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT).is_main_process
    with stop.interrupting():
        settings = resolve_with_checkpoint(arguments, os.environ) if is_main else None
        [settings] = broadcast_object_list([settings])
        folder = settings.folder
        goes_on = is_main and not settings.dry_run and folder.is_dir() and run_folder.state(folder) != "finished"
        lock = run_folder.take(folder) if goes_on else None  # first, so that no other process changes what is read next
        [is_finished] = broadcast_object_list([run_folder.state(folder) == "finished"])
        if settings.dry_run or is_finished:
            if is_main:
                say(outline(settings) if settings.dry_run else already_finished(folder))
            return 0
        accelerator = make_accelerator(settings, on_cpu)
        check_is_shared(Path(settings.runs_dir))
        info, loaders, trainer = prepare(settings, accelerator, folder)
        if finders.is_asked_for(settings):
            finders.find(trainer)
            return 0
    with stop.excusing():
        tracker = start_tracking(arguments, settings, info, trainer, lock) if is_main else None

    this = Run(trainer, loaders, folder, tracker, stop)
    trainable, total = count_parameters(trainer.objective)
    summary = {"num_parameters": trainable, "total_parameters": total, "network": network_lines(trainer.objective)}
    state, code = "failed", 0
    try:
        summary |= this.train_and_close()
        state = "finished"
    except StopRequested:
        state = "stopped"
    except Exception as error:
        summary["error"] = in_short(error)
        summary |= {"diverged": True} if isinstance(error, DivergedError) else {}  # for whoever counts failures
        raise
    finally:
        if tracker is not None:
            code = tracker.finish(state, {**summary, **result_so_far(trainer, folder)}, stop.exit_code)
    if is_main:
        say(report(folder) + (how_to_go_on(settings) if state == "stopped" else ""))
    [code] = broadcast_object_list([code])
    accelerator.end_training()
    return code


def prepare(
    settings: Settings, accelerator: Accelerator, folder: Path
) -> tuple[DatasetInfo, dict[str, Loader], Trainer]:
    """Read the images and build the model; return the facts about them, a loader for each split, and the trainer.

    The trainer goes on from the checkpoint in the run's folder, if there is one; to find something it starts anew.
    """
    is_begun = (folder / run_folder.CHECKPOINT).exists() and not finders.is_asked_for(settings)
    [is_begun] = broadcast_object_list([is_begun])
    if accelerator.is_main_process:
        if not finders.is_asked_for(settings):
            check_can_be_made(folder, "name another --runs_dir")
        objective = check_model(settings)
        if settings.init_from and not is_begun:
            check_source(settings, objective)
    with accelerator.local_main_process_first():  # the others then find it downloaded and decoded
        info, splits = read_data(settings)
    check_images_agree(info.fingerprint)
    check_images(folder, info)
    if not settings.test:
        splits.pop("test", None)
    if accelerator.is_main_process:
        check_best_by(settings, info)
        warn_of_idle(settings)
    objective, loaders = load_model(settings, info, splits, accelerator)
    if accelerator.is_main_process:
        closer.get_ready(objective, loaders)
    if settings.init_from and not is_begun:
        told = start_from(source_of(settings), objective)
        if accelerator.is_main_process:
            say(told)
    trainer = Trainer(settings, accelerator, objective, loaders)
    if is_begun:
        trainer.restore(folder / run_folder.CHECKPOINT)
    elif accelerator.is_main_process:
        check_patience(settings, info)
    return info, loaders, trainer


def start_tracking(
    arguments: Sequence[str], settings: Settings, info: DatasetInfo, trainer: Trainer, lock: FileLock | None
) -> Tracker:
    """Return what records the run, in its folder and on W&B."""
    folder = settings.folder
    environment = describe_environment(arguments, trainer.accelerator.device, trainer.accelerator.num_processes)
    environment |= {"data": info.fingerprint, "images": info.in_one_line()}
    if settings.init_from and not trainer.progress.images_seen:
        environment[INITIAL] = run_folder.weights_fingerprint(source_of(settings))
    say(f"{info.name}: {info.in_one_line()}")
    facts = RunFacts(folder, asdict(settings), environment, sweep_values(os.environ))
    tracker = Tracker(facts, trainer.progress.num_logged, goes_on=not trainer.is_over(), lock=lock)
    try:
        keep_info(folder, info)
        if weights := trainer.objective.outside_weights:
            keep_backbone(folder, weights, may_copy=tracker.facts.job_type != "trial")
        drawn = draw_preview(trainer, folder / run_folder.PANELS)
    except Exception as error:  # else W&B would take the run for a finished one
        tracker.finish("failed", {"error": in_short(error)}, 0)
        raise
    tracker.first_images = {f"panels/{name}": path for name, path in drawn.items()}
    return tracker


def in_short(error: Exception) -> str:
    """Return the message of an error, shortened, or its class where it has none."""
    return textwrap.shorten(str(error) or type(error).__name__, width=500)


@dataclass
class Run:
    """One run: epochs of training, each with its evaluation, and a closing evaluation."""

    trainer: Trainer
    loaders: Mapping[str, Loader]
    folder: Path
    tracker: Tracker | None  # of the main process alone
    stop: StopRequest

    def train_and_close(self) -> dict[str, float]:
        """Train to the end, and evaluate the best weights; return the closing metrics.

        Raises:
            StopRequested: the run was asked to stop; all that it needs to go on is saved.
        """
        self.trainer.step_log.write = self.log_step
        try:
            while not self.trainer.is_over():
                if not self.trainer.train_epoch(self.stop, self.save):
                    raise StopRequested
                self.end_epoch()
        except StopRequested:
            self.save()
            raise
        return self.close()

    def end_epoch(self) -> None:
        """Evaluate at the end of an epoch; log its metrics, and save the state of training."""
        progress, settings = self.trainer.progress, self.trainer.settings
        metrics = {
            "lr": self.trainer.lr,
            "images_per_second": progress.images_per_second(),
            "epoch_seconds": progress.epoch_seconds,
            "peak_memory_gib": peak_memory_bytes(self.trainer.accelerator.device) / 2**30,
            **progress.epoch_means(self.trainer.accelerator),
        }
        split = self.trainer.split
        with self.interruptible():  # the epoch is then ended when the run goes on
            found, _ = self.evaluate(split, progress.epoch + 1)
        validation = {f"{split}/{name}": value for name, value in found.items()}
        progress.finish_epoch()
        row = {"epoch": progress.epoch, "images_seen": progress.images_seen, **metrics, **validation}
        if self.trainer.note_epoch(validation, row):
            self.save_best()
        if self.tracker is not None:
            is_due = self.trainer.is_over() or progress.epoch % settings.panels_every == 0
            images = self.draw_panels() if is_due else {}
            self.tracker.log(row, images)
            self.tracker.update_summary(self.trainer.kept())
            progress.num_logged = self.tracker.num_logged
            tqdm.write(epoch_line(progress.epoch, settings.epochs, row))
        self.save()

    def save(self) -> None:
        """Save all that the run needs to go on."""
        if self.tracker is not None:
            self.tracker.settle()
        self.trainer.save(self.folder / run_folder.CHECKPOINT)

    def log_step(self, row: dict[str, float]) -> None:
        """Log the row of a step within an epoch."""
        if self.tracker is not None:
            self.tracker.log(row)
            self.trainer.progress.num_logged = self.tracker.num_logged

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a context that a request to stop ends at once; not with several processes, which would wait for it."""
        return self.stop.interrupting() if self.trainer.accelerator.num_processes == 1 else nullcontext()

    def evaluate(self, split: str, epoch: int, keep_logits: bool = False) -> Evaluation:
        """Return the metrics of a split; of the training images, only those of the samples that the model draws."""
        accelerator, loader, evaluated = self.trainer.accelerator, self.loaders[split], self.trainer.evaluated
        found = Evaluation({})
        if split != "train":
            batch_size = self.trainer.settings.eval_batch_size
            found = evaluate(accelerator, evaluated, loader, batch_size, keep_logits)
        if isinstance(evaluated, Samples):
            [of_samples] = broadcast_object_list([self.evaluate_samples(loader, epoch)])
            found.metrics.update(of_samples)
        return found

    def evaluate_samples(self, loader: Loader, epoch: int) -> dict[str, float]:
        """Return how good the model's samples are, on the main process alone."""
        if not self.trainer.accelerator.is_main_process:
            return {}
        with self.trainer.accelerator.autocast():
            return closer.sample_metrics(self.trainer.evaluated.eval(), loader, epoch)

    def draw_panels(self) -> dict[str, Path]:
        """Draw what the network makes of fixed images; return the files by the name they are logged under."""
        loader = self.loaders[self.trainer.split]
        with self.trainer.accelerator.autocast():
            evaluated, epoch = self.trainer.evaluated.eval(), self.trainer.progress.epoch
            paths = closer.draw_panels(evaluated, loader, self.folder / run_folder.PANELS, epoch)
        return {f"panels/{name}": path for name, path in paths.items()}

    def save_best(self) -> None:
        """Keep the weights that are evaluated."""
        if self.tracker is not None:
            checkpoint.save(self.folder / run_folder.BEST, self.trainer.evaluated.state_dict())
        self.trainer.accelerator.wait_for_everyone()

    def close(self) -> dict[str, float]:
        """Evaluate the best weights on the test images and take a closer look at them; return the metrics."""
        progress, evaluated, settings = self.trainer.progress, self.trainer.evaluated, self.trainer.settings
        if settings.log_model == "final" and self.trainer.accelerator.is_main_process:
            checkpoint.save(self.folder / run_folder.LAST, evaluated.state_dict())
        if progress.best:
            checkpoint.load_weights(self.folder / run_folder.BEST, evaluated)
        else:
            self.save_best()
        with self.interruptible():
            test = self.evaluate("test", settings.epochs, keep_logits=True) if settings.test else Evaluation({})
        result = {f"test/{name}": value for name, value in test.metrics.items()}
        if self.tracker is None:
            return result
        split = split_looked_at(self.loaders)
        logits = {} if test.logits is None else {"test": test.logits}
        subject = closer.Subject(evaluated.eval(), self.loaders, split, self.folder, logits)
        with self.trainer.accelerator.autocast(), self.interruptible():
            found = closer.closer_look(subject)
        result |= {f"{split}/{name}": value for name, value in found.metrics.items()}
        self.tracker.log(
            {"epoch": progress.epoch, "images_seen": progress.images_seen, **result},
            {f"{split}/{name}": path for name, path in found.images.items()},
            {f"{split}/{name}": table for name, table in found.tables.items()},
        )
        return result


def main(arguments: Sequence[str]) -> int:
    """Carry out a run, or say in one line what keeps it from being carried out; return the exit code."""
    if "--help" in arguments or "-h" in arguments:
        *_, model = ["", *re.findall(r"--model[ =](\S+)", " ".join(arguments))]
        return run_program("train.py", lambda: say(help_text(model)))
    escape_unknown_letters()
    stop = StopRequest()
    try:
        die_with_launcher()
        start_all_processes(arguments)
        return run(arguments, stop)
    except (UserError, DivergedError, OSError) as error:
        if is_first_process() or isinstance(error, OSError):  # the others would only repeat what the user did wrong
            rank = "" if is_first_process() else f" (process {os.environ['RANK']})"
            print(visible(f"train.py{rank}: {in_words(error)}"), file=sys.stderr)
        return exit_code(error)
    except (MemoryError, RuntimeError) as error:
        if not (lack := lack_of_memory(error)):
            raise
        warn(f"train.py: {lack}")
        return 1
    except StopRequested:
        forget_exit_handlers()  # of libraries that were interrupted
        give_back(stop.exit_code)
        return stop.exit_code


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
