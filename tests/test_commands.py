"""The commands that the texts quote are understood, and those of the tests explain themselves."""

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from models.core.settings import kinds
from models.registry import MODELS
from models.resolve import parse_arguments

ROOT = Path(__file__).parents[1]
PRESENT = [*(path for path in ROOT.glob("*.md") if path.stem != "CHANGELOG"), *ROOT.glob("*/README.md")]
TEXTS = "\n".join(path.read_text() for path in [*PRESENT, ROOT / "CHANGELOG.md"])
# A program and its words, up to a comment, a comma, the end of the line or of the quotation.
COMMAND = re.compile(
    r"python (train\.py|sweeps/\w+\.py|-m analysis\.[a-z]\w*)((?: (?:(?!, )[^`\n#;|&>']|'[^'\n]*')+)?)"
)
QUOTING = "\n".join(path.read_text() for path in [*PRESENT, *ROOT.glob("sweeps/*.yaml")])
QUOTING = re.sub(r"\\\n\s*", "", QUOTING)  # lines that end in a backslash go on
COMMANDS = sorted({(program, words.strip()) for program, words in COMMAND.findall(QUOTING) if words.strip()})
QUOTED = sorted(set(re.findall(r"python\s-m\s(tests[\w.]*\w)", TEXTS)))


@pytest.mark.parametrize("module", QUOTED)
def test_a_command_that_is_quoted_tells_what_it_does_and_does_nothing_else(module, monkeypatch, capsys):
    path = ROOT / module.replace(".", "/")
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path / "__main__.py" if path.is_dir() else path.with_suffix(".py")), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize(("program", "words"), COMMANDS, ids=lambda part: part.replace(" ", "_"))
def test_a_command_that_is_quoted_is_understood(program, words):
    told = [word for word in shlex.split(words) if word not in ("...", "[...]")]
    if program == "train.py":
        known = {name for model in MODELS.values() for name in kinds(model.settings_class)}
        assert parse_arguments(told).keys() <= known | {"config", "help"}
    else:
        module = program.removeprefix("-m ").replace("/", ".").removesuffix(".py")
        importlib.import_module(module).parse(told)


def test_the_commands_of_the_texts_are_found():
    programs = {program for program, _ in COMMANDS}
    assert {"train.py", "sweeps/agent.py", "-m analysis.report"} <= programs
    assert ("sweeps/agent.py", "sweeps/quickstart.yaml --workers 2") in COMMANDS
