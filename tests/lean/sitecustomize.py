"""What Python does first in a program of the tests that finds this folder by PYTHONPATH: it starts in half the time.

A training loads torch's compiler, its exporter and its distributed tensors, with sympy below them, and pandas, only
for others to ask whether something is of their types; `accelerate launch` loads timm for another command, and W&B all
of its launcher for one module of it. Here these libraries are empty. Figures are one pixel. With SECONDS_A_STEP it
sleeps in each step, so that waiting for something else costs no processor time.
"""

import os
import time
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from sys import meta_path, modules
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


def let_generators_be_made(module):
    """Do what torch does on its way to `torch._meta_registrations`, which is left out."""
    modules["torch._C"]._set_generator_metaclass(modules["torch._custom_class_base"].CustomClassBaseMeta)


EMPTY = (
    "torch._dynamo",
    "torch._export",
    "torch._higher_order_ops",
    "torch._meta_registrations",
    "torch._precompile",
    "torch.distributed._meta_registrations",
    "torch.distributed.tensor",
    "torch.distributions",
    "torch.export",
    "torch.func",
    "accelerate.commands.estimate",
    "numpy.f2py",
    "pandas",
    "scipy.optimize._linprog",
    "scipy.optimize._shgo",
)
HOLLOW = ("wandb.sdk.launch",)  # packages that have their modules, but load none of them by themselves
CHANGES = {
    "matplotlib.figure": leave_figures_empty,
    "models.core.training": take_time,
    "torch._library.opaque_object": let_generators_be_made,
}


class Lean(MetaPathFinder, Loader):
    """Finds what is empty, and changes what is not as it is loaded."""

    def find_spec(self, name, path, target=None):
        if any(f"{name}.".startswith(f"{library}.") for library in EMPTY):
            return ModuleSpec(name, self, is_package=True)
        if name in HOLLOW:
            spec = ModuleSpec(name, self, is_package=True)
            spec.submodule_search_locations = PathFinder.find_spec(name, path).submodule_search_locations
            return spec
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
