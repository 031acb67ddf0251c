"""The training loop: an epoch consists of steps, and in each step every phase of the model takes its own step."""

import math
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from data.dataset import Batch
from data.loader import Loader
from data.metrics import Metric, metric_named
from data.progress import progress_bar
from data.seeding import mix_seeds, seed_everything
from models.core.augmentation import augmentation_of, check_start_size
from models.core.checkpoint import Progress, refusing_misfits, restore_training, save_training
from models.core.objective import Objective, Phase, only_trainable
from models.core.optimization import lr_factor, lr_of, set_lr
from models.core.processes import StopRequest
from models.core.profiler import Profiler, check_profile
from models.core.settings import Settings
from models.core.step_log import StepLog

STEPS_BETWEEN_POLLS = 16  # on a GPU, which has to wait whenever a loss is looked at; on a CPU it is every step


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


def judged_split(splits: Container[str]) -> str:
    """Return the split whose metrics a model is judged by: "val", or "train" without images to validate with."""
    return "val" if "val" in splits else "train"


class Trainer:
    """The training of a model, from its first step or from a checkpoint.

    Args:
        settings: the run's.
        accelerator: takes care of precision and of several processes.
        objective: the model, on this process's device.
        loaders: the loader of each split.

    Attributes:
        progress: how far training has come.
        lr_factor: returns what the peak learning rate is multiplied by in a step, counted from 0.
        split: whose metrics the model is judged by, see `judged_split`.
        evaluated: the model that is evaluated: `objective` itself or, with the setting `ema_decay`, a copy of it that
            holds the moving averages of its weights.
    """

    def __init__(
        self, settings: Settings, accelerator: Accelerator, objective: Objective, loaders: Mapping[str, Loader]
    ) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.objective = objective
        self.loader = loaders["train"]
        self.split = judged_split(loaders)
        self.progress = Progress()
        self.unproven: dict[str, Path] = {}  # phase -> its optimizer's checkpoint, until a step shows that it fits
        self.batch_size = settings.batch_size or self.loader.largest_batch(settings.accumulation_steps)
        steps = self.loader.steps_per_epoch(self.batch_size, settings.accumulation_steps)
        self.steps_per_epoch = min(steps, settings.limit_batches or steps)
        self.lr_factor: Callable[[int], float] = lambda step: lr_factor(settings, step, self.steps_per_epoch)
        self.step_log = StepLog(settings.log_every if accelerator.is_main_process else 0)
        check_profile(settings, self.steps_per_epoch)
        num_profiled = settings.profile if accelerator.is_main_process else 0
        self.profiler = Profiler(num_profiled, settings.folder)
        self.saved_at = time.monotonic()
        self.poll_every = 1 if accelerator.device.type == "cpu" else STEPS_BETWEEN_POLLS
        self.ema = None
        self.evaluated = objective
        if settings.ema_decay:
            from timm.utils import ModelEmaV3  # imported late: timm takes a second

            self.ema = ModelEmaV3(objective, settings.ema_decay, use_warmup=True)
            self.evaluated = self.ema.module
        if settings.start_size:
            check_start_size(settings, objective, accelerator.device)
        if settings.compile:
            objective.compile_nets()
        phases = objective.phases()
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=len(phases) > 1)
        self.prepared = accelerator.prepare(objective)
        if accelerator.scaler:  # else accelerate's wrapper does nothing, yet takes a tenth of a small step's time
            phases = tuple(replace(phase, optimizer=accelerator.prepare(phase.optimizer)) for phase in phases)
        self.phases = phases

    @property
    def num_steps(self) -> int:
        """The number of finished steps of all epochs."""
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    @property
    def lr(self) -> float:
        """The learning rate of the last phase in the latest step."""
        return lr_of(self.phases[-1].optimizer, self.settings)

    @property
    def best_by(self) -> Metric | None:
        """The metric that chooses the epoch whose weights are kept; None to keep the newest epoch's."""
        judge = self.evaluated.best_metric
        text = self.settings.best_by or (judge and f"{self.split}/{judge}")
        return metric_named(text) if text else None

    def note_epoch(self, validation: Mapping[str, float], metrics: Mapping[str, float]) -> bool:
        """Return whether an epoch is the best so far; if it is, keep its validation metrics.

        Args:
            validation: metrics of the split that the model is judged by. If there are none, an epoch can only be the
                best by a training loss, which the setting `best_by` then names.
            metrics: all that is logged of the epoch.
        """
        progress, judge = self.progress, self.best_by
        if judge is None:
            is_best, own = bool(validation), {}
        else:
            own = {judge.name: metrics.get(judge.name, math.nan)}
            is_best = judge.is_better(own[judge.name], progress.best.get(judge.name))
        if judge is None or judge.name in metrics:
            progress.judged_epoch = progress.epoch
        if is_best:
            progress.best, progress.best_epoch = {**validation, **own}, progress.epoch
        return is_best

    def is_out_of_patience(self) -> bool:
        """Return whether the best epoch is too long ago; epochs that nothing has judged yet do not count."""
        progress = self.progress
        return bool(progress.best) and 0 < self.settings.patience <= progress.judged_epoch - progress.best_epoch

    def is_over(self) -> bool:
        """Return whether there is no epoch left to train."""
        return self.progress.epoch >= self.settings.epochs or self.is_out_of_patience()

    def kept(self) -> dict[str, Any]:
        """Return the metrics and the epoch of the weights that are kept (best.pt), and the metric that chose them."""
        progress, judge = self.progress, self.best_by
        chosen = {"best_by": judge.text() if judge and progress.best else ""}
        return {**progress.best, **chosen, "best_epoch": progress.best_epoch or progress.epoch}

    def restore(self, path: Path) -> None:
        """Load a checkpoint and go on from there."""
        averaged = self.evaluated if self.ema else None
        self.progress = restore_training(path, self.accelerator, self.objective, averaged, self.phases)
        self.unproven = {phase.name: path for phase in self.phases}

    def save(self, path: Path) -> None:
        """Write a checkpoint, see `save_training`. All processes must call this together."""
        averaged = self.evaluated if self.ema else None
        save_training(path, self.accelerator, self.objective, averaged, self.phases, self.progress)
        self.saved_at = time.monotonic()

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of this process in an epoch, from a step on."""
        return self.loader.training_batches(
            seed=self.settings.seed,
            epoch=epoch,
            batch_size=self.batch_size,
            start=start,
            micro_batches=self.settings.accumulation_steps,
            sampling=self.settings.sampling,
            augmentation=augmentation_of(self.settings, epoch, self.loader.info.image_size),
        )

    def seeds(self, epoch: int) -> list[int]:
        """Return the seed of each step of this process in an epoch."""
        return mix_seeds(self.settings.seed, epoch, self.accelerator.process_index, num=self.steps_per_epoch)

    def first_batch(self) -> Batch:
        """Return the batch of the run's first step, augmented as in that step."""
        seed_everything(self.seeds(0)[0])
        return next(self.batches(0))

    def train_epoch(self, stop: StopRequest, save: Callable[[], None] | None = None) -> bool:
        """Train to the end of the epoch; return False if training stopped before that, because it was asked to.

        Args:
            stop: the request to stop.
            save: saves the state; called every `save_minutes` in a long epoch, by all processes together.

        Raises:
            DivergedError: the loss is no longer a finite number.
        """
        settings, progress = self.settings, self.progress
        if 0 < settings.stop_after <= progress.epoch:
            stop.is_planned = True
            return False
        self.objective.train()
        batches = self.batches(progress.epoch, progress.step)
        what, quiet = f"epoch {progress.epoch + 1}/{settings.epochs}", not self.accelerator.is_main_process
        bar = progress_bar(what, self.steps_per_epoch, "steps", progress.step, quiet)
        started = time.perf_counter() - progress.epoch_seconds
        seeds = self.seeds(progress.epoch)
        self.step_log.start(progress.images_seen)
        turns = {phase.name: phase.every for phase in self.phases}
        with bar, closing(self.profiler):
            while progress.step < self.steps_per_epoch:
                self.profiler.begin_step()
                seed_everything(seeds[progress.step])  # before the batch, which may be augmented
                batch = next(batches)
                self.train_step(batch)
                progress.step += 1
                self.step_log.end_step(progress, self.steps_per_epoch, self.lr, turns)
                self.profiler.end_step()
                bar.update()
                is_due = progress.step % self.poll_every == 0 or progress.step == self.steps_per_epoch
                if is_due or (stop and self.accelerator.num_processes == 1):
                    stopping, saving = self.poll(stop)
                    progress.epoch_seconds = time.perf_counter() - started
                    if stopping:
                        return False
                    if saving and save is not None:
                        save()
        if self.ema is not None:
            self.evaluated.mend_average(self.objective)
        return True

    def train_step(self, batch: Batch) -> None:
        """Take one training step: a step of every phase that takes place in it."""
        progress, step = self.progress, self.num_steps
        factor = self.lr_factor(step)
        num_images = len(batch.labels) * self.accelerator.num_processes
        self.objective.epoch = step / self.steps_per_epoch
        for phase in self.phases:
            if step % phase.every:
                continue
            set_lr(phase.optimizer, factor)
            single_phase = len(self.phases) == 1  # then there are no other phases' parameters to leave alone
            with nullcontext() if single_phase else only_trainable(self.objective, phase.optimizer):
                terms = self.search_step(batch, phase) if phase.searches else self.gradient_step(batch, phase)
            phase.optimizer.zero_grad(set_to_none=True)
            progress.add(phase.name, terms, num_images)
        progress.images_seen += num_images
        if self.ema is not None:
            self.ema.update(self.objective, step + 1)

    def gradient_step(self, batch: Batch, phase: Phase) -> dict[str, Tensor]:
        """Take one gradient step; return the loss terms from before the step."""
        terms = self.accumulate_gradients(batch, phase)
        is_logged = self.step_log.is_due(self.num_steps + 1, phase.every)
        if self.settings.grad_clip or is_logged:
            parameters = [p for group in phase.optimizer.param_groups for p in group["params"]]
            norm = self.clip(parameters)
            if is_logged:
                self.step_log.norms[phase.name] = norm
        path = self.unproven.pop(phase.name, None)
        with refusing_misfits(path) if path else nullcontext():
            phase.optimizer.step()
        return terms

    def clip(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return the norm of the gradients, a scalar, and scale them down where it is above `grad_clip`."""
        if self.settings.grad_clip:
            norm = self.accelerator.clip_grad_norm_(parameters, self.settings.grad_clip)
            assert norm is not None  # which DeepSpeed alone gives, and that is refused
            return norm
        self.accelerator.unscale_gradients()
        return get_total_norm([p.grad for p in parameters if p.grad is not None])

    def search_step(self, batch: Batch, phase: Phase) -> dict[str, Tensor]:
        """Take one step in which the optimizer computes the loss several times; return the last time's loss terms."""
        terms: dict[str, Tensor] = {}

        def loss_with_gradient() -> Tensor:
            phase.optimizer.zero_grad(set_to_none=True)
            terms.update(self.accumulate_gradients(batch, phase))
            return self.accelerator.reduce(terms["loss"], "mean")  # all processes search alike

        phase.optimizer.step(loss_with_gradient)  # type: ignore[arg-type]  # closures may return tensors
        return terms

    def accumulate_gradients(self, batch: Batch, phase: Phase) -> dict[str, Tensor]:
        """Add up the gradients of a phase over the step's micro-batches; return the means of its loss terms."""
        num_micro = self.settings.accumulation_steps
        if num_micro == 1:
            terms = self.prepared(batch, phase.name)
            self.accelerator.backward(terms["loss"])
            return {name: value.detach() for name, value in terms.items()}
        totals: dict[str, Tensor] = {}
        parts = (part.chunk(num_micro) for part in batch if part is not None)
        for i, micro in enumerate(zip(*parts, strict=True)):
            with nullcontext() if i == num_micro - 1 else self.accelerator.no_sync(self.prepared):
                terms = self.prepared(Batch(*micro), phase.name)
                self.accelerator.backward(terms["loss"])  # divides by the number of micro-batches
            for name, value in terms.items():
                totals[name] = totals.get(name, 0) + value.detach() / num_micro
        return totals

    def poll(self, stop: StopRequest) -> tuple[bool, bool]:
        """Return whether any process was asked to stop, and whether to save; check the losses since the last poll.

        Raises:
            DivergedError: one of these losses is not a finite number, in this process or in another.
        """
        recent = {
            key: values[-self.poll_every :] for key, values in self.progress.terms.items() if key.endswith("/loss")
        }
        losses = {key: torch.stack(values).tolist() for key, values in recent.items()}
        bad = {key: value for key, values in losses.items() for value in values if not math.isfinite(value)}
        saving = 0 < 60 * self.settings.save_minutes < time.monotonic() - self.saved_at
        stopping, diverged = bool(stop), bool(bad)
        if self.accelerator.num_processes > 1:
            flags = torch.tensor([stopping, saving, diverged], dtype=torch.float32, device=self.accelerator.device)
            stopping, saving, diverged = (flag > 0 for flag in self.accelerator.reduce(flags).tolist())
        if diverged:
            key, value = next(iter(bad.items()), ("the loss of another process", math.nan))
            step, lr = self.num_steps, lr_of(self.phases[0].optimizer, self.settings)
            since = f" or up to {self.poll_every - 1} steps before" if self.poll_every > 1 else ""
            raise DivergedError(f"{key} is {value} at step {step}{since}, lr {lr:.3g}: lower --lr, or set --grad_clip")
        return stopping, saving
