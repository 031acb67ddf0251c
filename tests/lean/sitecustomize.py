"""What Python does first in a program of the tests that finds this folder by PYTHONPATH: it starts in half the time.

A training loads torch's compiler and distributed tensors, with sympy below them, and pandas, only for others to ask
whether something is of their types; `accelerate launch` loads timm for another command. Here these libraries are
empty. Figures are one pixel. With SECONDS_A_STEP it
sleeps in each step, so that waiting for something else costs no processor time.
"""

import os
import time
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from sys import meta_path
from types import ModuleType

from pixel import save_a_pixel


class Nothing(type):
    """A class that nothing is of. It has whatever it is asked for, and takes all arguments."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(name, (), {"__init__": lambda self, *arguments, **options: None})


class Empty(ModuleType):
    """A library of nothing."""

    __path__ = ()
    __getattr__ = Nothing.__getattr__

    @staticmethod
    def disable(function, *arguments, **options):
        return function  # as torch's compiler does outside of compiled functions


def leave_figures_empty(module):
    module.Figure.savefig = save_a_pixel


def take_time(module):
    train_step, seconds = module.Trainer.train_step, float(os.environ.get("SECONDS_A_STEP", 0))

    def train_step_slowly(self, batch):
        train_step(self, batch)
        time.sleep(seconds)

    module.Trainer.train_step = train_step_slowly


EMPTY = ("torch._dynamo", "torch.distributed.tensor", "pandas", "accelerate.commands.estimate")
CHANGES = {"matplotlib.figure": leave_figures_empty, "models.core.training": take_time}


class Lean(MetaPathFinder, Loader):
    """Finds what is empty, and changes what is not as it is loaded."""

    def find_spec(self, name, path, target=None):
        if name.startswith(EMPTY):
            return ModuleSpec(name, self)
        if name not in CHANGES:
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            CHANGES[name](module)

        spec.loader.exec_module = execute_and_change
        return spec

    def create_module(self, spec):
        return Empty(spec.name)

    def exec_module(self, module):
        pass


meta_path.insert(0, Lean())
