import itertools
import json
import math
import random

import pytest
import yaml

from data.errors import UserError
from sweeps.local.early_terminate import parse_early_terminate
from sweeps.local.sweep_file import COMMAND, parse_sweep, read_sweep_file
from tests.sweep_helpers import LEFT_OUT, LR, ROOT, content, sweep_of

GRID = {
    "width": {"values": [32, 8]},
    "lr": {"values": [0.1, 0.01, 0.001]},
    "seed": {"min": 1, "max": 2},
    "model": {"value": "cnn"},
}


def hyperband(**config):
    return parse_early_terminate({"type": "hyperband", **config})


def test_a_file_says_what_it_says(tmp_path):
    path = tmp_path / "a.yaml"
    told = content(
        name="a",
        description="why",
        project="p",
        entity="e",
        run_cap=7,
        command=["python", "${program}", 3],
        metric={"name": "val/accuracy", "goal": "maximize"},
        parameters={"lr": LR, "model": {"value": "cnn"}},
    )
    path.write_text(yaml.safe_dump(told))
    sweep = read_sweep_file(path)
    assert (sweep.method, sweep.run_cap, sweep.early_terminate) == ("bayes", 7, None)
    assert sweep.place == {"project": "p", "entity": "e"}
    assert sweep.command == ("python", "${program}", "3")
    assert (sweep.metric.name, sweep.metric.goal) == ("val/accuracy", "maximize")
    assert list(sweep.space) == ["lr"]
    assert sweep.parameters["model"].value(None) == "cnn"


def test_what_a_file_leaves_out_is_as_in_wandb():
    sweep = parse_sweep(content(metric={"name": "val/loss"}))
    assert sweep.metric.goal == "minimize"
    assert sweep.command == COMMAND == ("${env}", "${interpreter}", "${program}", "${args}")
    assert sweep.run_cap is None


def test_less_cost_is_better_for_either_goal():
    low, high = (parse_sweep(content(metric={"name": "m", "goal": goal})).metric for goal in ("minimize", "maximize"))
    assert low.cost(1.0) < low.cost(2.0)
    assert high.cost(1.0) > high.cost(2.0)


def test_name_description_and_cap_do_not_make_another_sweep():
    plain, other = parse_sweep(content()), parse_sweep(content(name="b", description="c", run_cap=3, project="d"))
    assert plain.content == other.content
    assert plain.content != parse_sweep(content(method="random")).content


def test_a_grid_goes_by_name_with_the_last_varying_fastest():
    expected = [
        {"lr": lr, "model": "cnn", "seed": seed, "width": width}
        for lr in (0.1, 0.01, 0.001)
        for seed in (1, 2)
        for width in (32, 8)
    ]
    assert sweep_of(GRID, method="grid").grid() == expected


def test_a_grid_s_quniform_is_neither_rounded_nor_repeated():
    sweep = sweep_of({"lr": {"distribution": "q_uniform", "min": 0.5, "max": 3, "q": 1}}, method="grid")
    points = [row["lr"] for row in sweep.grid()]
    assert [sweep.parameters["lr"].value(point) for point in points] == [0.5, 1.5, 2.5]


def test_a_grid_of_constants_is_one_combination():
    assert sweep_of({"model": {"value": "cnn"}}, method="grid").grid() == [{"model": "cnn"}]


@pytest.mark.parametrize(
    ("config", "first_bands"),
    [
        ({"min_iter": 3}, (3, 9, 27, 81)),
        ({"min_iter": 10, "eta": 2}, (10, 20, 40, 80)),
        ({"min_iter": 3, "eta": 1.5}, (3, 4, 6, 10, 15)),  # 3, 4.5, 6.75, 10.125, 15.19
        ({"max_iter": 81, "s": 3}, (3, 9, 27)),
        ({"max_iter": 18, "s": 2, "eta": 3}, (2, 6)),
        ({"max_iter": 27, "s": 2, "eta": 2}, (6, 13)),  # 13.5, 6.75
        ({"max_iter": 10, "s": 9, "eta": 3}, (1, 3)),  # 10/27 is below 1
        ({"max_iter": 27, "s": 2, "min_iter": 5}, (3, 9)),
    ],
    ids=str,
)
def test_bands_are_powers_of_eta_from_either_end(config, first_bands):
    bands = hyperband(**config).bands
    assert bands[: len(first_bands)] == first_bands
    assert len(bands) == (100 if "max_iter" not in config else len(first_bands))
    assert all(type(band) is int for band in bands)


def test_hyperband_is_strict_with_an_eta_of_3_unless_told_otherwise():
    assert (hyperband(min_iter=1).eta, hyperband(min_iter=1).strict) == (3, True)
    assert hyperband(min_iter=1, strict=False).strict is False


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "None is not known: write type: hyperband"),
        ({"type": "envelope"}, "write type: hyperband"),
        ({"type": "hyperband"}, "needs min_iter: of at least 1, or max_iter: and s:"),
        ({"type": "hyperband", "max_iter": 9}, "max_iter 9 needs s, the number of bands"),
        ({"type": "hyperband", "max_iter": 9, "min_iter": 3}, "max_iter 9 needs s, the number of bands"),
        ({"type": "hyperband", "min_iter": 0}, "needs min_iter"),
        ({"type": "hyperband", "min_iter": "3"}, "min_iter '3' is not a number"),
        ({"type": "hyperband", "min_iter": 2.5}, "min_iter 2.5 is not a whole number"),
        ({"type": "hyperband", "min_iter": True}, "min_iter True is not a number"),
        ({"type": "hyperband", "min_iter": 10**400}, "is not a number"),
        ({"type": "hyperband", "min_iter": 3, "eta": 1}, "eta 1 must be above 1"),
        ({"type": "hyperband", "max_iter": 3, "s": 2, "eta": 4}, "max_iter 3 leaves no band"),
        ({"type": "hyperband", "max_iter": 30, "s": 0}, "leaves no band"),
        ({"type": "hyperband", "min_iter": 3, "strict": "no"}, "strict 'no' is neither true nor false"),
        ({"type": "hyperband", "min_iters": 3, 4: 5}, "has no 4; it takes type, min_iter"),
        ({"type": ["asha"]}, "write type: hyperband"),
        ({"type": "asha"}, "needs min_iter: of at least 1, or max_iter: and s:"),
        ({"type": "asha", "min_iter": 1, "eta": 0.5}, "eta 0.5 must be above 1"),
        ({"type": "asha", "min_iter": 1, "min_trials": 3}, "has no min_trials; it takes type, min_iter, max_iter"),
        ({"type": "median", "min_iter": 0}, "needs min_iter and min_trials of at least 1"),
        ({"type": "median", "min_trials": 1.5}, "min_trials 1.5 is not a whole number"),
        ({"type": "median", "eta": 2}, "has no eta; it takes type, min_iter, min_trials"),
    ],
)
def test_an_early_termination_that_cannot_be_is_refused(config, message):
    with pytest.raises(UserError, match=f"^early_terminate.*{message}"):
        parse_sweep(content(early_terminate=config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metod": "bayes"}, "metod is not a key of a sweep, did you mean method"),
        ({3: 4}, "3 is not a key of a sweep"),
        ({"method": LEFT_OUT}, "method None is none of bayes, random, grid"),
        ({"method": "custom"}, "method custom is none of"),
        ({"method": ["bayes"]}, "none of bayes"),
        ({"metric": LEFT_OUT}, "metric is missing: write metric: with name: val/loss"),
        ({"metric": "val/loss"}, "metric is missing"),
        ({"metric": {"goal": "minimize"}}, "metric is missing"),
        ({"metric": {"name": "val/loss", "goal": "min"}}, "goal min is none of minimize, maximize"),
        ({"metric": {"name": "val/loss", "gaol": 1, 2: 3}}, "metric has no 2"),
        ({"metric": {"name": "val/loss", "target": "0.1"}}, "metric target '0.1' is not a number"),
        ({"metric": {"name": "val/loss", "impute": "mean"}}, "metric impute mean is none of worst, best, latest"),
        ({"metric": {"name": "val/loss", "impute_while_running": 3}}, "impute_while_running 3 is none of worst, best"),
        ({"parameters": LEFT_OUT}, "there are none to search"),
        ({"parameters": {}}, "there are none to search"),
        ({"parameters": [LR]}, "there are none to search"),
        ({"parameters": {True: LR}}, "parameter True has no text for a name: YAML reads on"),
        ({"parameters": {"lr": {"min": 3, "max": 1}}}, "parameter lr: min 3 is not below max 1"),
        ({"parameters": {"lr": {"value": 0.1}}}, "all are constant, so there is nothing to search"),
        ({"parameters": {"lr": LR}, "method": "grid"}, "parameter lr has no end of values: a grid takes values:"),
        ({"parameters": {key: {"min": 1, "max": 400} for key in "ab"}, "method": "grid"}, "160,000 combinations"),
        ({"command": "python train.py"}, "command 'python train.py' is not a list of words"),
        ({"command": []}, "is not a list of words"),
        ({"command": [["python"]]}, "is not a list of words"),
        ({"run_cap": 0}, "run_cap 0 is not a number of runs"),
        ({"run_cap": True}, "run_cap True is not"),
        ({"run_cap": 2.0}, "run_cap 2.0 is not"),
        ({"repeats": 0}, "repeats 0 is not a number of runs: write repeats: 3, or leave it out"),
        ({"repeats": "3"}, "repeats '3' is not a number of runs"),
        ({"repeats": True}, "repeats True is not"),
        ({"program": LEFT_OUT}, "program is missing: write program: train.py"),
        ({"program": "tarin.py"}, "program tarin.py is not here"),
        ({"program": ["train.py"]}, r"program \['train.py'\] is not the name of a file"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_the_remedy(changes, message):
    with pytest.raises(UserError, match=message) as told:
        parse_sweep(content(changes))
    assert "\n" not in str(told.value)


def test_a_command_without_the_program_macro_needs_no_program():
    assert parse_sweep(content(program=LEFT_OUT, command=["true", "${args}"])).program == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML"),
        ("name: 2020-13-45", "is no YAML: month must be in 1..12"),
        ("a: !!python/object:os.system x", "is no YAML"),
        ("- lr", "holds no sweep"),
        ("", "holds no sweep"),
        ("method: bays", "method bays"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused_by_name(text, message, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"broken.yaml.*{message}") as told:
        read_sweep_file(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("path", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_refused_with_an_example(path, tmp_path):
    with pytest.raises(UserError, match="cannot be read .*name a sweep file, such as sweeps/quickstart.yaml"):
        read_sweep_file(tmp_path / path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    with pytest.raises(UserError, match="is no YAML"):
        read_sweep_file(tmp_path / "latin.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_of_the_suite_can_be_stored(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = read_sweep_file(path)
    assert json.loads(json.dumps(sweep.content)) == sweep.content


def test_of_random_files_each_is_refused_or_read():
    generator = random.Random(0)
    odd = [None, True, 0, 3, 1.5, 10**400, math.nan, "", "bayes", "1e-3", [], ["x"], [[1]], {}, {"name": "x"}, {1: 2}]
    keys = ("type", "min_iter", "max_iter", "s", "eta", "strict", 1)
    num_read = 0
    for _ in range(1000):
        keys_of_file = [*content(), "command", "run_cap", "repeats", 1]
        changes = {generator.choice(keys_of_file): generator.choice(odd)} if generator.random() < 0.5 else {}
        chosen = {key: generator.choice([*odd, *range(1, 28)]) for key in keys if generator.random() < 0.3}
        if generator.random() < 0.8:
            changes["early_terminate"] = {"type": generator.choice(["hyperband", "asha"]), "min_iter": 3, **chosen}
        try:
            sweep = parse_sweep(content(changes))
        except UserError:
            continue
        num_read += 1
        rule = sweep.early_terminate
        bands = getattr(rule, "bands", getattr(rule, "rungs", ()))
        assert sorted(bands) == list(bands)
    assert num_read > 100


def test_combinations_are_those_of_itertools():
    sweep = sweep_of(GRID, method="grid")
    values = [(0.1, 0.01, 0.001), ("cnn",), (1, 2), (32, 8)]
    assert [tuple(row.values()) for row in sweep.grid()] == list(itertools.product(*values))


def test_a_recipe_is_told_apart_from_a_sweep():
    with pytest.raises(UserError, match="cnn.yaml: it holds no key of a sweep; if it holds settings, train them"):
        read_sweep_file(ROOT / "sweeps" / "best" / "cnn.yaml")
