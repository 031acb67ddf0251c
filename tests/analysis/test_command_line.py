"""What the programs share of their command lines."""

import os
import re
import signal
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from analysis import attention, export, landscape, latent, predict, reproduce, samples
from analysis.command_line import amount, count, parser_of_a_look, run_program, seed, whole_number
from data.errors import UserError

STRIKE = """
import os, signal, sys

class Strike:
    def find_spec(name, path, target=None):
        if name == "rich":
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Strike)
"""
LOWER = "lower --batch_size, --image_size or the model's sizes, or take fewer images"


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("work", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (lambda: fail(UserError("--lr=x is wrong: lower it")), 2, "look: --lr=x is wrong: lower it\n"),
        (lambda: fail(OSError("disk full")), 1, "look: disk full\n"),
        (lambda: fail(MemoryError("3 GiB")), 1, f"look: no memory (3 GiB): {LOWER}\n"),
        (
            lambda: fail(RuntimeError("x: can't allocate memory\ny")),
            1,
            f"look: no memory (x: can't allocate memory): {LOWER}\n",
        ),
        (
            lambda: fail(RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")),
            1,
            f"look: no memory (CUDA error: out of memory): {LOWER}\n",
        ),
        (lambda: fail(KeyboardInterrupt()), 130, ""),
    ],
)
def test_a_program_ends_in_an_exit_code_and_one_line_at_most(work, code, line, capsys):
    assert run_program("look", work) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_program_that_is_interrupted_while_it_imports_ends_without_a_word(tmp_path, kind):
    (tmp_path / "sitecustomize.py").write_text(STRIKE.replace("{name}", kind.name))
    command = [sys.executable, "-m", "analysis.runs", "--runs_dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:."}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode in (-kind, 128 + kind)


@pytest.mark.parametrize("words", [[], ["run", "--num=0"], ["run", "--num=many"], ["run", "--nim=3"]])
def test_a_wrong_command_line_is_told_in_one_line_with_the_way_to_help(words):
    parser = parser_of_a_look("look", "Looks.")
    parser.add_argument("--num", type=whole_number)
    with pytest.raises(UserError, match=r"\(see --help\)") as caught:
        parser.parse_args(words)
    assert "\n" not in str(caught.value)


def test_a_value_that_begins_with_a_hyphen_is_told_how_to_be_written():
    parser = parser_of_a_look("look", "Looks.")
    parser.add_argument("--more")
    with pytest.raises(UserError, match="one that begins with a hyphen is written --more='-...'"):
        parser.parse_args(["run", "--more", "--partition=gpu"])
    assert parser.parse_args(["run", "--more=--partition=gpu"]).more == "--partition=gpu"


@pytest.mark.parametrize(
    ("program", "option"), [(attention, "--out"), (latent, "--out"), (samples, "--out"), (reproduce, "--into")]
)
def test_a_path_may_begin_with_the_home(program, option):
    options = vars(program.parse(["run", f"{option}=~/a.png"]))
    assert options[option.removeprefix("--")] == Path.home() / "a.png"


@pytest.mark.parametrize("text", ["1000000000", "9" * 5000, "\u0661", "1_0", " 7 ", "-1", "0", "1.0", ""])
def test_a_number_of_things_is_one_that_there_can_be(text):
    with pytest.raises(ArgumentTypeError):
        whole_number(text)


@pytest.mark.parametrize("text", ["-1", "1000000000", "", "1.5", "\u0660"])
def test_a_count_may_be_none(text):
    assert (count("0"), count("07")) == (0, 7)
    with pytest.raises(ArgumentTypeError, match="whole number"):
        count(text)


@pytest.mark.parametrize("text", ["0", "0.00", "-1", "nan", "inf", "1e3", ".", "", "\u0661"])
def test_an_amount_is_above_none(text):
    assert (amount("0.5"), amount("90"), amount(".25")) == (0.5, 90.0, 0.25)
    assert amount("0.2039213460021549") == 0.2039213460021549  # as a program that reckons would write it
    with pytest.raises(ArgumentTypeError, match="above 0"):
        amount(text)


@pytest.mark.parametrize("text", ["-1", "4294967296", "9" * 5000, "1.0", "\u0661", "", "nan"])
def test_a_seed_is_one_that_generators_take(text):
    assert seed("0") == 0
    assert seed("4294967295") == 2**32 - 1
    with pytest.raises(ArgumentTypeError, match="from 0 to 4294967295"):
        seed(text)


@pytest.mark.parametrize(
    ("main", "words", "name"),
    [
        (attention.main, [], "x.png"),
        (export.main, ["--to=onnx"], "x.onnx"),
        (landscape.main, [], "x"),
        (latent.main, [], "x"),
        (predict.main, ["images"], "x.csv"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_run_is_loaded(main, words, name, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "settings.json").write_text('{"model": "none"}')
    (tmp_path / "file").write_text("no folder")
    assert main([str(tmp_path / "a"), *words, "--out", str(tmp_path / "file" / "y" / name)]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"{tmp_path}/file\S* cannot be written \(Not a directory\): name another", said)
