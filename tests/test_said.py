"""What the programs print: text from elsewhere never commands a terminal, and only one process tells what all know."""

import ast

import pytest

from tests.test_floors import FILES, nodes_of

SAFE = ("visible", "visible_lines", "json.dumps")  # what they return is fit to be printed
AS_IT_IS = ("map(visible_lines, texts)", "script")  # a script is to be run as it is


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_is_printed_has_its_control_characters_escaped(path):
    """Everything goes through say and warn of data/visible.py, or is made visible where it is printed."""
    for call in nodes_of(path):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("print", "sys.stdout.write", "sys.stderr.write"):
            printed = [part.value if isinstance(part, ast.Starred) else part for part in call.args]
            assert all(
                isinstance(part, ast.Constant)
                or (isinstance(part, ast.Call) and ast.unparse(part.func) in SAFE)
                or ast.unparse(part) in AS_IT_IS
                for part in printed
            ), f"{path}:{call.lineno} prints text as it comes: take say or warn"
