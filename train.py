"""Train one model: python train.py --model=cnn --dataset=cifar10 --lr=2.0e-4 (see --help).

The same file runs under `accelerate launch` on several processes, and under an agent that hands it a sweep's values.
"""

import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, parse_flag_from_env
from torch import Tensor
from tqdm import tqdm

from analysis.look.collapse import signs_of_collapse
from analysis.look.panels import draw_grid
from analysis.record import run_folder
from analysis.record.environment import describe_environment, peak_memory_bytes
from analysis.record.evaluation import evaluate, evaluate_set
from analysis.record.text_report import epoch_line, network_lines, report
from analysis.record.tracker import Tracker, fresh_run_id
from data.dataset import Batch, DatasetInfo, Split
from data.datasets import describe, load_splits
from data.errors import UserError
from data.loader import FeatureLoader, Loader, Shard
from data.seeding import mix_seeds, seed_everything
from models.core import checkpoint
from models.core.checkpoint import Progress, restore_training, save_training
from models.core.objective import Objective, Phase, count_parameters, only_trainable, wants_channels_last
from models.core.optimization import lr_factor, set_lr
from models.core.processes import StopRequest, die_with_launcher, leave, start_all_processes
from models.core.settings import Settings, help_text, resolve, sweep_values
from models.registry import MODELS

NUM_PANEL_IMAGES = 32
LONGEST_WAIT = timedelta(hours=3)  # of the processes for the one that downloads, decodes or uploads
STEPS_BETWEEN_POLLS = 16  # where looking at a loss waits for a GPU; a CPU looks at every step


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


class Training:
    """One run, from its first step or from its checkpoint."""

    def __init__(
        self, settings: Settings, accelerator: Accelerator, objective: Objective, loaders: dict[str, Loader]
    ) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.loaders = loaders
        self.folder = Path(settings.runs_dir) / settings.run_id
        self.batch_size = settings.batch_size or loaders["train"].largest_batch(settings.accumulation_steps)
        self.steps_per_epoch = loaders["train"].steps_per_epoch(self.batch_size, settings.accumulation_steps)
        self.poll_every = 1 if accelerator.device.type == "cpu" else STEPS_BETWEEN_POLLS
        self.progress = Progress()

        self.objective = objective
        self.ema = None
        if settings.ema_decay:
            from timm.utils import ModelEmaV3  # imported late: timm takes a second

            self.ema = ModelEmaV3(objective, settings.ema_decay, use_warmup=True)
        self.averaged = self.ema.module if self.ema else None
        self.evaluated = self.averaged or objective
        if settings.compile:
            objective.compile_nets()
        phases = objective.phases()
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=len(phases) > 1)
        self.prepared = accelerator.prepare(objective)
        if accelerator.scaler:  # elsewhere accelerate's wrapper does nothing, in a tenth of a small step's time
            phases = tuple(replace(phase, optimizer=accelerator.prepare(phase.optimizer)) for phase in phases)
        self.phases = phases
        path = self.folder / run_folder.CHECKPOINT
        if path.exists():
            self.progress = restore_training(path, accelerator, objective, self.averaged, self.phases)

    def fit(self, tracker: Tracker | None, stop: StopRequest) -> str:
        """Train to the end, or to a request to stop; returns the run's state."""
        while self.progress.epoch < self.settings.epochs and not self.out_of_patience():
            if not self.train_epoch(stop):
                self.save()
                return "stopped"
            self.end_epoch(tracker)
        return "finished"

    def out_of_patience(self) -> bool:
        """Whether the best epoch is too long ago."""
        progress = self.progress
        return bool(progress.best) and 0 < self.settings.patience <= progress.epoch - progress.best_epoch

    def train_epoch(self, stop: StopRequest) -> bool:
        """Train to the end of the epoch; False where a stop was asked for before."""
        settings, progress = self.settings, self.progress
        self.objective.train()
        batches = self.loaders["train"].training_batches(
            seed=settings.seed,
            epoch=progress.epoch,
            batch_size=self.batch_size,
            start=progress.step,
            micro_batches=settings.accumulation_steps,
            augmentation=settings.augmentation,
            cutout_size=settings.cutout,
        )
        bar = tqdm(
            desc=f"epoch {progress.epoch + 1}/{settings.epochs}",
            initial=progress.step,
            total=self.steps_per_epoch,
            unit=" steps",
            leave=False,
            disable=None if self.accelerator.is_main_process else True,
        )
        started = time.perf_counter() - progress.epoch_seconds
        rank = self.accelerator.process_index
        seeds = mix_seeds(settings.seed, progress.epoch, rank, num=self.steps_per_epoch)
        with bar:
            while progress.step < self.steps_per_epoch:
                seed_everything(seeds[progress.step])  # before the batch, which may be augmented
                self.train_step(next(batches))
                progress.step += 1
                bar.update()
                is_due = progress.step % self.poll_every == 0 or progress.step == self.steps_per_epoch
                if is_due or (stop and self.accelerator.num_processes == 1):
                    stopping = self.poll(stop)
                    progress.epoch_seconds = time.perf_counter() - started
                    if stopping:
                        return False
        return True

    def train_step(self, batch: Batch) -> None:
        """One step of every phase that is due."""
        progress, settings = self.progress, self.settings
        step = progress.epoch * self.steps_per_epoch + progress.step
        factor = lr_factor(settings, step, self.steps_per_epoch)
        num_images = len(batch.labels) * self.accelerator.num_processes
        self.objective.epoch = step / self.steps_per_epoch
        for phase in self.phases:
            if step % phase.every:
                continue
            set_lr(phase.optimizer, factor)
            single_phase = len(self.phases) == 1  # then there is nobody to keep gradients from
            with nullcontext() if single_phase else only_trainable(self.objective, phase.optimizer):
                terms = self.search_step(batch, phase) if phase.searches else self.gradient_step(batch, phase)
            phase.optimizer.zero_grad(set_to_none=True)
            progress.add(phase.name, terms, num_images)
        progress.images_seen += num_images
        if self.ema is not None:
            self.ema.update(self.objective, step + 1)

    def gradient_step(self, batch: Batch, phase: Phase) -> dict[str, Tensor]:
        """One gradient and one step along it; returns the loss terms before the step."""
        terms = self.accumulate_gradients(batch, phase)
        if self.settings.grad_clip:
            parameters = [p for group in phase.optimizer.param_groups for p in group["params"]]
            self.accelerator.clip_grad_norm_(parameters, self.settings.grad_clip)
        phase.optimizer.step()
        return terms

    def search_step(self, batch: Batch, phase: Phase) -> dict[str, Tensor]:
        """As many gradients as the optimizer asks for; returns the loss terms of the last."""
        terms: dict[str, Tensor] = {}

        def loss_with_gradient() -> Tensor:
            phase.optimizer.zero_grad(set_to_none=True)
            terms.update(self.accumulate_gradients(batch, phase))
            return self.accelerator.reduce(terms["loss"], "mean")  # all processes must search alike

        phase.optimizer.step(loss_with_gradient)  # type: ignore[arg-type]  # closures may return tensors
        return terms

    def accumulate_gradients(self, batch: Batch, phase: Phase) -> dict[str, Tensor]:
        """Gradients of one phase over the micro-batches of a step; returns the means of its loss terms."""
        num_micro = self.settings.accumulation_steps
        if num_micro == 1:
            terms = self.prepared(batch, phase.name)
            self.accelerator.backward(terms["loss"])
            return {name: value.detach() for name, value in terms.items()}
        totals: dict[str, Tensor] = {}
        for i, micro in enumerate(zip(*(part.chunk(num_micro) for part in batch), strict=True)):
            with nullcontext() if i == num_micro - 1 else self.accelerator.no_sync(self.prepared):
                terms = self.prepared(Batch(*micro), phase.name)
                self.accelerator.backward(terms["loss"])  # which divides by their number
            for name, value in terms.items():
                totals[name] = totals.get(name, 0) + value.detach() / num_micro
        return totals

    def poll(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; looks at the losses since the last poll, too.

        Raises:
            DivergedError: one of them is not finite, on any process.
        """
        recent = {
            key: values[-self.poll_every :] for key, values in self.progress.terms.items() if key.endswith("/loss")
        }
        losses = {key: torch.stack(values).tolist() for key, values in recent.items()}
        bad = {key: value for key, values in losses.items() for value in values if not math.isfinite(value)}
        stopping, diverged = bool(stop), bool(bad)
        if self.accelerator.num_processes > 1:
            flags = torch.tensor([stopping, diverged], dtype=torch.float32, device=self.accelerator.device)
            stopping, diverged = (flag > 0 for flag in self.accelerator.reduce(flags).tolist())
        if diverged:
            key, value = next(iter(bad.items()), ("the loss of another process", math.nan))
            step = self.progress.epoch * self.steps_per_epoch + self.progress.step
            lr = self.phases[0].optimizer.param_groups[0]["lr"]
            since = f" or up to {self.poll_every - 1} steps before" if self.poll_every > 1 else ""
            raise DivergedError(f"{key} is {value} at step {step}{since}, lr {lr:.3g}: lower --lr, or set --grad_clip")
        return stopping

    def end_epoch(self, tracker: Tracker | None) -> None:
        """Evaluate, log and save what there is at the end of an epoch."""
        progress, settings = self.progress, self.settings
        metrics = {
            "lr": self.phases[-1].optimizer.param_groups[0]["lr"],
            "images_per_second": progress.images_per_second(),
            "epoch_seconds": progress.epoch_seconds,
            "peak_memory_gib": peak_memory_bytes(self.accelerator.device) / 2**30,
            **progress.epoch_means(self.accelerator),
        }
        progress.finish_epoch()
        validation = self.evaluate("val" if "val" in self.loaders else "train", progress.epoch)
        metrics |= validation
        if self.is_best(validation):
            progress.best, progress.best_epoch = validation, progress.epoch
            self.save_best()
        if tracker is not None:
            is_last = progress.epoch == settings.epochs or self.out_of_patience()
            images = self.draw_panels() if is_last or progress.epoch % settings.panels_every == 0 else {}
            tracker.log({"epoch": progress.epoch, "images_seen": progress.images_seen, **metrics}, images)
            tracker.update_summary({**progress.best, "best_epoch": progress.best_epoch or progress.epoch})
            progress.num_logged = tracker.num_logged
            tqdm.write(epoch_line(progress.epoch, settings.epochs, metrics))
        self.save()

    def evaluate(self, split: str, epoch: int) -> dict[str, float]:
        """Metrics of a split, by name: val/loss and the like; of training images only those of the whole set."""
        accelerator, loader, metrics = self.accelerator, self.loaders[split], dict[str, float]()
        if split != "train":
            metrics = evaluate(accelerator, self.evaluated, loader, self.settings.eval_batch_size)
        metrics |= evaluate_set(accelerator, self.evaluated, loader, epoch)
        return {f"{split}/{name}": value for name, value in metrics.items()}

    def is_best(self, validation: dict[str, float]) -> bool:
        """Whether no epoch before had better metrics than these."""
        judge = self.objective.best_metric
        found = [name for name in validation if name.partition("/")[2] == judge]
        if not found:
            return bool(validation) and not judge
        return validation[found[0]] < self.progress.best.get(found[0], math.inf)

    @torch.no_grad()
    def draw_panels(self) -> dict[str, Path]:
        """Pictures of what the network makes of fixed images."""
        self.evaluated.eval()
        loader = self.loaders.get("val", self.loaders["train"])
        fixed = torch.arange(min(NUM_PANEL_IMAGES, len(loader)))
        paths = {}
        with self.accelerator.autocast():
            for name, panel in self.evaluated.panels(loader.batch(fixed), loader.pictures(fixed)).items():
                paths[f"panels/{name}"] = self.folder / run_folder.PANELS / f"{name}-{self.progress.epoch:04d}.png"
                draw_grid(panel).save(paths[f"panels/{name}"])
        return paths

    @torch.no_grad()
    def final_result(self, tracker: Tracker | None) -> dict[str, float]:
        """Evaluate the best weights for good, and have a closer look at them; returns the metrics."""
        if self.progress.best:
            self.evaluated.load_state_dict(checkpoint.load(self.folder / run_folder.BEST))
        else:
            self.save_best()
        result = self.evaluate("test", self.settings.epochs) if self.settings.test else {}
        split = next(name for name in ("test", "val", "train") if name in self.loaders)
        if tracker is not None:
            with self.accelerator.autocast():
                analysis = self.evaluated.eval().analyse(self.loaders, split, self.folder / run_folder.PANELS)
            result |= {f"{split}/{name}": value for name, value in analysis.metrics.items()}
            tracker.log(
                {"epoch": self.progress.epoch, "images_seen": self.progress.images_seen, **result},
                {f"{split}/{name}": path for name, path in analysis.images.items()},
                {f"{split}/{name}": table for name, table in analysis.tables.items()},
            )
        return result

    def result_so_far(self) -> dict[str, float | None]:
        """What the summary says of the training, however it ended."""
        rows = run_folder.read_metrics(self.folder)
        rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
        return {
            **self.progress.best,
            **signs_of_collapse(rows),
            "epochs": self.progress.epoch,
            "best_epoch": self.progress.best_epoch or self.progress.epoch,
            "images_seen": self.progress.images_seen,
            "train_seconds": self.progress.train_seconds + self.progress.epoch_seconds,
            "images_per_second": statistics.median(rates) if rates else None,
        }

    def save_best(self) -> None:
        """Keep the weights that are evaluated."""
        if self.accelerator.is_main_process:
            checkpoint.save(self.folder / run_folder.BEST, self.evaluated.state_dict())
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write the checkpoint: whole, or the one before is kept."""
        path = self.folder / run_folder.CHECKPOINT
        save_training(path, self.accelerator, self.objective, self.averaged, self.phases, self.progress)


def build_objective(settings: Settings, info: DatasetInfo) -> Objective:
    """The model that `settings` name, its weights a function of the seed."""
    seed_everything(settings.seed)
    return MODELS[settings.model][1](settings, info)


def load_model(
    settings: Settings, info: DatasetInfo, splits: dict[str, Split], accelerator: Accelerator
) -> tuple[Objective, dict[str, Loader]]:
    """The model and the loaders of its splits, on this process's device."""
    objective = build_objective(settings, info)
    channels_last = wants_channels_last(settings, objective, accelerator.device)
    if channels_last:
        objective.to(memory_format=torch.channels_last)
    objective.to(accelerator.device)
    loaders = {
        name: (Loader if split.features is None else FeatureLoader)(
            split,
            info,
            accelerator.device,
            shard=Shard(accelerator.process_index, accelerator.num_processes),
            resident=settings.resident,
            channels_last=channels_last,
        )
        for name, split in objective.prepare(splits, info, accelerator).items()
    }
    return objective, loaders


def dry_run(settings: Settings) -> None:
    """Print what a run would train, and with what settings."""
    info = describe(settings.dataset, settings.image_size) or read_data(settings)[0]
    objective = build_objective(settings, info)
    trainable, total = count_parameters(objective)
    print("\n".join(f"{key}: {value}" for key, value in asdict(settings).items()))
    print(f"{objective}\nnum_parameters: {trainable}\ntotal_parameters: {total}")


def read_data(settings: Settings) -> tuple[DatasetInfo, dict[str, Split]]:
    """The dataset and its splits."""
    info, splits = load_splits(
        settings.dataset,
        settings.data_dir,
        image_size=settings.image_size,
        train_fraction=settings.train_fraction,
        val_fraction=settings.val_fraction,
        data_seed=settings.data_seed,
        normalisation=settings.normalisation,
        max_corrupt_images=settings.max_corrupt_images,
    )
    if settings.test and "test" not in splits:
        raise UserError(f"--test=True: {info.name} has no test images; put them into a folder test beside train")
    return info, splits


def run(arguments: Sequence[str]) -> int:
    """One run from the command line to its report; returns the exit code."""
    # Said outright, else accelerate takes several processes on a CPU for strangers.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    process = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)
    sweep = sweep_values(os.environ)
    settings = None
    if process.is_main_process:
        settings = resolve(arguments, os.environ, MODELS)
        settings = replace(settings, run_id=settings.run_id or fresh_run_id())
    [settings] = broadcast_object_list([settings])
    if settings.dry_run:
        if process.is_main_process:
            dry_run(settings)
        return 0
    folder = Path(settings.runs_dir) / settings.run_id
    if run_folder.state(folder) == "finished":
        if process.is_main_process:
            print(f"{folder} is finished; give another --run_id to train anew\n{report(folder)}")
        return 0

    if on_cpu and settings.mixed_precision == "fp16":
        raise UserError("--mixed_precision=fp16 needs a GPU, whose gradients accelerate scales: give bf16")
    try:
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.accumulation_steps,
        )
    except ValueError as error:
        raise UserError(f"--mixed_precision={settings.mixed_precision}: {error}") from None
    torch.backends.cudnn.benchmark = True
    with accelerator.local_main_process_first():  # the others then find it downloaded and decoded
        info, splits = read_data(settings)
    if not settings.test:
        splits.pop("test", None)
    known = run_folder.read_json(folder / run_folder.ENVIRONMENT).get("data", info.fingerprint)
    if known != info.fingerprint:
        raise UserError(
            f"{info.name} holds other images ({info.fingerprint}) than run {settings.run_id} began with ({known}): "
            f"give those with --data_dir, or another --run_id"
        )
    objective, loaders = load_model(settings, info, splits, accelerator)
    del splits  # the loaders have what they need of them
    training = Training(settings, accelerator, objective, loaders)
    stop = StopRequest()
    tracker = None
    if accelerator.is_main_process:
        environment = describe_environment(arguments, accelerator.device, accelerator.num_processes)
        environment["data"] = info.fingerprint
        tracker = Tracker(folder, asdict(settings), environment, sweep, training.progress.num_logged)
    trainable, total = count_parameters(objective)
    summary = {"num_parameters": trainable, "total_parameters": total, "network": network_lines(objective)}
    state = "failed"
    try:
        state = training.fit(tracker, stop)
        if state == "finished":
            summary |= training.final_result(tracker)
    except DivergedError as error:
        summary["error"] = str(error)
        raise
    finally:
        if tracker is not None:
            tracker.finish(state, {**summary, **training.result_so_far()}, folder / run_folder.BEST)
    if accelerator.is_main_process:
        print(report(folder))
        if state == "stopped":
            print(f"stopped; to go on: python train.py --runs_dir={settings.runs_dir} --run_id={settings.run_id}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run, or say in one line what keeps it from running; returns the exit code."""
    if "--help" in arguments or "-h" in arguments:
        print(help_text(MODELS))
        return 0
    die_with_launcher()
    try:
        start_all_processes(arguments)
        return run(arguments)
    except (UserError, DivergedError, OSError) as error:
        rank = os.environ.get("RANK", "0")
        if rank == "0" or isinstance(error, OSError):  # the others would only repeat what the user did wrong
            print(f"train.py{f' (process {rank})' if rank != '0' else ''}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:  # before there is anything to save
        return 128 + signal.SIGINT


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
