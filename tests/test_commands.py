"""The commands of the tests that the texts quote explain themselves."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = "\n".join(path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md")])
QUOTED = sorted(set(re.findall(r"python\s-m\s(tests[\w.]*\w)", TEXTS)))


@pytest.mark.parametrize("module", QUOTED)
def test_a_command_that_is_quoted_tells_what_it_does_and_does_nothing_else(module, monkeypatch, capsys):
    path = ROOT / module.replace(".", "/")
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path / "__main__.py" if path.is_dir() else path.with_suffix(".py")), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")
