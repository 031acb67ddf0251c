"""What programs are forked from: here is imported, and done once, what would cost each of them a second."""

import gc

import matplotlib.backends.backend_agg  # noqa: F401
import matplotlib.figure  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch._dynamo  # noqa: F401  # by torch's optimizers at their first step
from alembic.script import ScriptDirectory

import sweeps.agent  # noqa: F401
import sweeps.final  # noqa: F401
import train  # noqa: F401
from sweeps.local.trials import Trials
from tests.sweep_helpers import LR, sweep_of

_read_versions, _versions = ScriptDirectory.from_config, []


def _versions_of_the_tables(config):
    """Read the versions of Optuna's tables, 15 files of Python, once for all."""
    if not _versions:
        _versions.append(_read_versions(config))
    return _versions[0]


ScriptDirectory.from_config = _versions_of_the_tables
_trials = Trials("sqlite://", sweep_of({"lr": LR}), "warm", 0)
_trials.take(1)
_trials.claims.engine.dispose()
gc.collect()
gc.freeze()  # else the first collection in a fork would copy the pages of all that
