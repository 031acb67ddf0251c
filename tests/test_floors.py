"""Imports point down: data, models, the rooms of analysis, the programs. Late imports, inside functions, count too."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OWN = ("data", "models", "analysis", "sweeps", "train")

# What each floor may import of our own, besides itself; "analysis" alone is its helpers for programs.
FLOORS = {
    "data": set(),
    "models": {"data"},
    "analysis.terminal": {"data"},
    "analysis.command_line": {"data"},
    "analysis.record": {"data", "models"},
    "analysis.read": {"data", "models", "analysis.record"},
    "analysis.look": {"data", "models", "analysis.record", "analysis.read", "analysis.terminal"},
    "analysis.compare": {"data", "analysis.read", "analysis.terminal"},
    "sweeps.local": {"data", "models", "analysis.record", "analysis.read", "analysis.terminal"},
}
LIBRARIES = {*FLOORS}  # that programs may import
FILES = sorted(
    path.relative_to(ROOT)
    for place in ("data", "models", "analysis", "sweeps", "train.py")
    for path in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))
)


def module_of(path):
    """The name by which a file is imported."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def nodes_of(path):
    """All nodes of a file's syntax tree, for the tests that read the code itself."""
    return list(ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))))


def imports_of(path):
    """Our own modules that a file imports, wherever in it the import stands."""
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.partition(".")[0] in OWN}


def floor_of(module):
    """The longest entry of FLOORS that a module belongs to; "program" for those above all floors."""
    fitting = [floor for floor in FLOORS if module == floor or module.startswith(f"{floor}.")]
    return max(fitting, key=len, default="program")


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_from_its_own_floor_and_from_those_below_alone(path):
    own = floor_of(module_of(path))
    allowed = LIBRARIES if own == "program" else {own, *FLOORS[own]}
    wrong = {name for name in imports_of(path) if floor_of(name) not in allowed and name not in ("analysis", "sweeps")}
    assert not wrong, f"{path} imports {', '.join(sorted(wrong))}"


def test_no_files_import_each_other_in_a_circle():
    graph = {name: {other for other in imports_of(path) if other in MODULES} for name, path in MODULES.items()}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert not graph, f"a circle among {', '.join(sorted(graph))}"


def test_the_check_sees_late_imports(tmp_path):
    path = tmp_path / "late.py"
    path.write_text("def f():\n    from models.registry import MODELS\n    import train\n")
    assert imports_of(path) == {"models.registry", "train"}


@pytest.mark.parametrize(
    "module", ["models.core.settings", "models.registry", "models.resolve", "analysis.record.run_folder"]
)
def test_settings_and_names_of_models_load_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_a_model_is_imported_when_it_is_asked_for_and_no_other():
    code = (
        "import sys; from models.registry import MODELS; MODELS['mlp'].settings_class; "
        "sys.exit(any(f'models.{other.module}' in sys.modules for name, other in MODELS.items() if name != 'mlp'))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


PRIVATE = {"_replace", "_asdict", "_fields", "_exit"}  # public, for all their names


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in FILES if path != Path("data/internals.py")], ids=str)
def test_private_names_of_libraries_stand_in_one_module(path):
    used = {
        node.attr
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    assert used <= PRIVATE, f"{path}: {', '.join(sorted(used - PRIVATE))} belong into data/internals.py"
