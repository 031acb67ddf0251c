"""Private names of libraries, all of them in this one file: look here first when a new version breaks something."""

import atexit
import os
import struct
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple


def trial_id(trial: Any) -> int:
    """Return the id of an Optuna trial in its database, which differs from its number in the study."""
    return trial._trial_id


def report_values(trial: Any, values: Mapping[int, float]) -> None:
    """Store values of an Optuna trial by step, all in one transaction: one by one, each would wait for the disk.

    Args:
        trial: of a study in a database.
        values: those of steps that are stored already are left out.

    Raises:
        UpdateFinishedTrialError: the trial has ended.
    """
    from optuna.storages._rdb import models, storage
    from sqlalchemy import select

    backend, own_id, model = trial.storage._backend, trial_id(trial), models.TrialIntermediateValueModel
    with storage._create_scoped_session(backend.scoped_session) as session:
        backend.check_trial_is_updatable(own_id, models.TrialModel.find_or_raise_by_id(own_id, session).state)
        known = set(session.scalars(select(model.step).where(model.trial_id == own_id)))
        for step in values.keys() - known:
            stored, kind = model.intermediate_value_to_stored_repr(float(values[step]))
            session.add(model(trial_id=own_id, step=step, intermediate_value=stored, intermediate_value_type=kind))


def reopen_trials(storage: Any, ids: Collection[int]) -> None:
    """Let Optuna trials that have failed run again, which Optuna has no way to do.

    Args:
        storage: of the database.
        ids: of the trials in it; those that have not failed are left as they are.
    """
    from optuna.storages._rdb.models import TrialModel
    from optuna.trial import TrialState
    from sqlalchemy import update

    have_failed = (TrialModel.trial_id.in_(ids), TrialModel.state == TrialState.FAIL)
    opened = {"state": TrialState.RUNNING, "datetime_complete": None}
    with storage.engine.begin() as connection:
        connection.execute(update(TrialModel).where(*have_failed).values(**opened))


def let_ranges_change(storage: Any) -> None:
    """Let later trials of an Optuna study draw a setting from another range or list of values than earlier ones.

    Optuna refuses other lists, though it stores with each trial the distribution that it was drawn from.
    """
    store = storage._set_trial_param

    def store_unchecked(trial: int, name: str, value: float, distribution: Any, previous: Any) -> None:
        store(trial, name, value, distribution, distribution)

    storage._set_trial_param = store_unchecked


def set_prior_of_numbers(sampler: Any, log_density: Callable[[Any], Any]) -> None:
    """Let an Optuna sampler by a Gaussian process fit the lengthscales of numbers by another prior than Optuna's own.

    Args:
        sampler: a GPSampler.
        log_density: of lengthscales [P], in ranges. Those of lists of values, and all else, keep Optuna's prior.
    """
    usual = sampler._log_prior

    def log_prior(regressor: Any) -> Any:
        inverse, is_list = regressor.inverse_squared_lengthscales, regressor._is_categorical
        scales = {"kernel_scale": regressor.kernel_scale, "noise_var": regressor.noise_var}
        rest = SimpleNamespace(inverse_squared_lengthscales=inverse[is_list], **scales)
        return usual(rest) + log_density(inverse[~is_list].rsqrt()).sum()

    sampler._log_prior = log_prior


class TrialRow(NamedTuple):
    """A trial as its database has it."""

    number: int
    state: str
    started: datetime | None
    ended: datetime | None
    notes: dict[str, Any]  # user attributes by name


def read_trials(storage: Any, study_name: str, names: Collection[str]) -> list[TrialRow]:
    """Return the trials of a study in a database, by number, with their notes of some names and without their values.

    Optuna's own reader takes all that there is: of 10,000 trials, 10 times as long and 300 MiB.
    """
    from optuna.storages._rdb.models import TrialModel, TrialUserAttributeModel
    from pydantic_core import from_json
    from sqlalchemy import select

    trial, note = TrialModel.__table__.c, TrialUserAttributeModel.__table__.c
    is_own = trial.study_id == storage.get_study_id_from_name(study_name)
    wanted = (trial.trial_id, trial.number, trial.state, trial.datetime_start, trial.datetime_complete)
    with storage.engine.connect() as connection:
        rows = connection.execute(select(*wanted).where(is_own).order_by(trial.number)).all()
        notes: dict[int, dict[str, Any]] = {row[0]: {} for row in rows}
        of_trials = select(note.trial_id, note.key, note.value_json).join_from(
            TrialUserAttributeModel.__table__, TrialModel.__table__, note.trial_id == trial.trial_id
        )
        for own_id, key, text in connection.execute(of_trials.where(is_own, note.key.in_(names))):
            notes.get(own_id, {})[key] = from_json(text)
    return [TrialRow(number, state.name, start, end, notes[own_id]) for own_id, number, state, start, end in rows]


def cpu_has_bf16() -> bool:
    """Return whether this machine's processor multiplies matrices in bf16 itself."""
    import torch

    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def softmax_gradient(gradient: Any, probabilities: Any) -> Any:
    """Return the gradient of what probabilities are the softmax of, over the last dimension, by torch's own kernel."""
    import torch

    return torch._softmax_backward_data(gradient, probabilities, -1, probabilities.dtype)


def lstm_kernels() -> tuple[Any, ...]:
    """Return torch's operators of LSTM layers, forward and backward: of CPUs, then of NVIDIA's GPUs."""
    import torch

    aten = torch.ops.aten
    return aten.mkldnn_rnn_layer, aten.mkldnn_rnn_layer_backward, aten._cudnn_rnn, aten._cudnn_rnn_backward


def cpu_attention_kernels() -> tuple[Any, Any]:
    """Return torch's operators of fused attention on a CPU, forward and backward."""
    import torch

    aten = torch.ops.aten
    return (
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )


def hub_file(config: Any) -> tuple[str, str | None, str]:
    """Return repository, revision and file name of the weights that timm's pretrained config names."""
    from timm.models import _hub

    repository, revision = _hub.hf_split(config.hf_hub_id)
    return repository, revision, config.hf_hub_filename or _hub.HF_SAFE_WEIGHTS_NAME


def connect_wandb_api(run: Any) -> None:
    """Let a W&B run open its connection to the public API, which tables and artifacts need, while the server is up."""
    import wandb

    with suppress(wandb.errors.Error):
        run._public_api()


def forget_wandb_import_hooks() -> None:
    """Have W&B's client no longer tell its server which libraries a run imports: if it has died, imports fail of it."""
    from wandb.sdk.lib.import_hooks import unregister_all_post_import_hooks

    unregister_all_post_import_hooks()


def stop_wandb_watcher(run: Any) -> None:
    """Stop the thread in which W&B's client asks its server how it does: after the client's end it raises an error."""
    if run._run_status_checker is not None:
        run._run_status_checker.stop()


UPLOAD_GIVEN_UP = b'"filestream: fatal error'


def wandb_gave_up(run: Any) -> bool:
    """Return whether W&B's client sends no more rows of a run since its server refused some, by the client's log."""
    with suppress(OSError):
        return UPLOAD_GIVEN_UP in Path(run.settings.log_internal).read_bytes()
    return False


STOP_FLAG = """query RunStoppedStatus($project: String, $entity: String, $run: String!) {
  project(name: $project, entityName: $entity) { run(name: $run) { stopped } }
}"""
STOP_FLAG_SECONDS = 5.0  # for the answer


def wandb_stop_flag(run: Any) -> bool:
    """Return whether W&B's server has told a run to stop.

    Raises:
        Exception: the server does not answer in time.
    """
    place = {"project": run.project, "entity": run.entity, "run": run.id}
    answer = run._public_api()._service_api.execute_graphql(STOP_FLAG, place, timeout=STOP_FLAG_SECONDS)
    return bool(((answer.get("project") or {}).get("run") or {}).get("stopped"))


WANDB_LOG_START, WANDB_BLOCK = 7, 32768  # bytes: of what says which kind of file it is, and of each block after it
FRAGMENT_HEADER = 7  # bytes; where fewer are left of a block, they are not used
FULL, LAST = 1, 4  # kinds of fragments that end a record; the others are its first and its middle ones


def wandb_steps(log: Path) -> list[int]:
    """Return the steps of the rows in a log of W&B's client, and cut off the record that a kill has left unfinished.

    `wandb sync` would stop there, and leave out the other logs that it was given.
    """
    record_type = import_module("wandb.proto.wandb_internal_pb2").Record
    data, record = log.read_bytes(), b""
    steps: list[int] = []
    at = end = WANDB_LOG_START
    while at + FRAGMENT_HEADER <= len(data):
        if (left := WANDB_BLOCK - at % WANDB_BLOCK) < FRAGMENT_HEADER:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)  # after four bytes of a checksum
        start, at = at + FRAGMENT_HEADER, at + FRAGMENT_HEADER + length
        record += data[start:at]
        if kind in (FULL, LAST) and at <= len(data):
            try:
                content, record, end = record_type.FromString(record), b"", at
            except Exception:  # protobuf's own; the disk is at fault
                return steps
            steps += [content.history.step.num] if content.HasField("history") else []
    if end < len(data):
        os.truncate(log, end)
    return steps


def torchvision_labels(dataset: Any) -> Any:
    """Return the label of each image of a dataset of torchvision, which calls them by many names."""
    for name in ("targets", "labels", "_labels"):
        if hasattr(dataset, name):
            return getattr(dataset, name)
    return [label for _, label in dataset._samples]


def datasets_fingerprint(dataset: Any) -> str:
    """Return what tells the content of a `datasets.Dataset` from all others."""
    return dataset._fingerprint


def run_exit_handlers() -> None:
    """Run what was registered with atexit, ahead of an exit that skips it."""
    atexit._run_exitfuncs()


def forget_exit_handlers() -> None:
    """Forget what was registered with atexit."""
    atexit._clear()


def traced_loop(goes_on: Callable, step: Callable, start: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what `step` makes of tensors as long as `goes_on` is true of them: in an exported network, as one loop."""
    from torch._higher_order_ops import while_loop  # `torch.while_loop` in newer versions

    return while_loop(goes_on, step, start)


def let_compiled_networks_vary() -> None:
    """Let torch.compile make up to 64 variants of networks, in place of 8, which all networks of one class share.

    A GAN needs more than 8, for its two nets, each with and without gradients, in training and in evaluation. Beyond
    the limit a network goes on uncompiled.
    """
    import torch

    torch._dynamo.config.recompile_limit = 64


def has_matrix_tiles() -> bool:
    """Return whether torch finds matrix tiles (AMX) in this CPU."""
    import torch

    return torch.cpu._is_amx_tile_supported()
