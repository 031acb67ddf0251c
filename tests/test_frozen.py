"""What users rely on stays as it is: names, types and defaults of settings, and the options of the commands.

`python -m tests.test_frozen` writes the record anew, after a change that was meant.
"""

import argparse
import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest

from models.core.settings import kinds
from models.registry import MODELS

RECORD = Path(__file__).parent / "golden" / "interface.json"
COMMANDS = [f"analysis.{path.stem}" for path in sorted((Path(__file__).parents[1] / "analysis").glob("*.py"))]
COMMANDS = [name for name in COMMANDS if name.rpartition(".")[2] not in ("__init__", "command_line", "terminal")]
COMMANDS += ["sweeps.agent", "sweeps.final", "sweeps.slurm", "sweeps.study"]


def settings_of(model):
    """Type, range or choices, and default of every setting of a model, as text."""
    settings_class = MODELS[model].settings_class
    return {
        field.name: " ".join(
            [kind.type.__name__, str(kind.allowed or ""), f"= {field.default!r}", kind.role.name if kind.role else ""]
        ).strip()
        for field in dataclasses.fields(settings_class)
        for kind in [kinds(settings_class)[field.name]]
    }


class ParserSeenError(Exception):
    """Carries a command's parser out of it."""


def parser_of(command):
    """The parser of a command's options."""

    def show(parser, *arguments, **options):
        raise ParserSeenError(parser)

    module = importlib.import_module(command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", show)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", show)
        with pytest.raises(ParserSeenError) as seen:
            module.parse([])
    return seen.value.args[0]


def options_of(command):
    """Every option and positional argument of a command, in order; those of its parts behind each part's name."""
    return options_of_parser(parser_of(command))


def options_of_parser(parser):
    options = []
    for it in parser._actions:
        is_required = it.required and it.nargs != argparse.ZERO_OR_MORE  # of which Python 3.11 says that it is
        options.append(f"{'/'.join(it.option_strings) or it.dest}{' required' if is_required else ''}")
        if isinstance(it, argparse._SubParsersAction):
            options += [f"{name} {option}" for name, part in it.choices.items() for option in options_of_parser(part)]
    return options


def record():
    """All of it, as it is now: what every model has once, then what each has of its own."""
    models = {name: settings_of(name) for name in MODELS}
    common = {key: text for key, text in models["mlp"].items() if all(own.get(key) == text for own in models.values())}
    own = {name: {k: v for k, v in values.items() if k not in common} for name, values in models.items()}
    return {"settings": common, "models": own, "commands": {name: options_of(name) for name in COMMANDS}}


@pytest.mark.parametrize("part", ["settings", "models", "commands"])
def test_what_users_rely_on_is_as_it_was(part):
    assert record()[part] == json.loads(RECORD.read_text())[part], "meant? python -m tests.test_frozen"


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.test_frozen", description="Write golden/interface.json.").parse_args()
    RECORD.write_text(json.dumps(record(), indent=1) + "\n")
    sys.exit(0)
