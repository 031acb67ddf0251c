"""What a sweep asks of train.py is what train.py takes and logs."""

import math
import re
import signal

import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState
from torch import distributed

import train
from analysis.record import run_folder
from data.datasets import describe
from data.errors import UserError
from data.metrics import Metric, is_epoch, metric_named
from models.loading import stand_in
from models.logged_metrics import logged_metrics
from models.registry import MODELS
from sweeps import agent
from sweeps.local.contract import by_settings, check_contract, checked, with_best_by
from sweeps.local.remarks import lines_of_idle
from sweeps.local.sweep_file import read_sweep_file
from tests.sweep_helpers import LR, ROOT, content, sweep_of

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
COMPARED_BY_EYE = ("vae_beta_cifar10", "vae_beta_faces")  # whose validation loss chooses the lowest beta by itself
METRICS = {  # of the sweeps that are after something else than the loss
    "vae_beta": {"name": "val/bits_per_dimension", "goal": "minimize"},
    "cvae_beta": {"name": "val/accuracy", "goal": "maximize"},
    "cvae_head_beta_gamma": {"name": "val/accuracy", "goal": "maximize"},
    "dc_gan_faces": {"name": "val/fid_inception_2000", "goal": "minimize"},
    "ac_gan_cifar10": {"name": "val/fid_inception_2000", "goal": "minimize"},
}
OWN_PROTOCOLS = {  # of the searches that cached features make cheap enough for all images
    "efficientnet_frozen_lr": {"model": "frozen", "train_fraction": None, "val_fraction": None},
}
DIGITS = {"dataset": {"value": "digits"}}
SMALL = {  # a network of a second
    "mlp": ("--width=16",),
    "nano_vit": ("--width=16", "--depth=1", "--num_heads=2", "--patch_size=8"),
    "cvae_head": ("--width=4", "--latent_size=4"),
    "vq_vae": ("--width=4", "--codebook_size=8", "--code_size=4", "--prior_width=16", "--prior_depth=1"),
}


@pytest.fixture
def process_state(monkeypatch):
    """What a run changes in its process is put back: accelerate's singletons and the signal handlers."""
    for name in ("WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    AcceleratorState._reset_state(True)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_sweep_file_of_the_suite_keeps_the_contract(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_contract(by_settings(read_sweep_file(path)))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_sweep_file_of_the_suite_says_what_it_is_for_and_how_it_is_run(path):
    text = path.read_text()
    lines = text.splitlines()
    header = "\n".join(line for line in lines[: next(i for i in range(len(lines)) if lines[i][:1] != "#")])
    for heading in ("Question", "Command", "Cost", "Expected"):
        assert re.search(rf"^# {heading}: +\S", header, re.MULTILINE), heading
    then = f"python -m analysis.beta {path.stem}" if path.stem in COMPARED_BY_EYE else f"final.py {path.stem}"
    for command in (f"agent.py sweeps/{path.name}", then, f"wandb sweep sweeps/{path.name}"):
        assert command in header
    assert ("final.py" in header) != (path.stem in COMPARED_BY_EYE)
    content = yaml.safe_load(text)
    if content["metric"]["goal"] == "maximize":
        assert "losses jump" not in text
    assert content["name"] == path.stem
    assert content["program"] == "train.py"
    assert content["method"] in ("bayes", "grid")
    if content["method"] == "grid" and "early_terminate" not in content:  # every combination, to its end
        assert content["run_cap"] == len(read_sweep_file(path).grid())
    else:
        assert content["run_cap"] >= 8
        assert content["early_terminate"].keys() == {"type", "min_iter", "eta", "strict"}
    assert content["metric"] == METRICS.get(path.stem, {"name": "val/loss", "goal": "minimize"})
    chosen_by = content["parameters"].get("best_by", {"value": "val/loss"})  # W&B's agent tells parameters alone
    assert chosen_by == {"value": Metric(**content["metric"]).text()}
    num_trials, num_epochs = map(int, re.search(r"(\d+) trials of (?:at most )?(\d+) epochs?", header).groups())
    assert (num_trials, num_epochs) == (content["run_cap"], content["parameters"]["epochs"]["value"])


LR_SEARCHES = [
    path
    for path in FILES
    if path.stem.endswith("_lr") and yaml.safe_load(path.read_text())["parameters"]["dataset"] == {"value": "cifar10"}
]


@pytest.mark.parametrize("path", LR_SEARCHES, ids=lambda path: path.stem)
def test_a_search_for_a_learning_rate_on_cifar10_follows_the_notebook(path):
    parameters = yaml.safe_load(path.read_text())["parameters"]
    protocol = {
        "model": re.sub("_lr$|_3_heads_lr$", "", path.stem),
        "train_fraction": 0.2,
        "val_fraction": 0.2,
        "epochs": 50,
        "patience": 5,
    } | OWN_PROTOCOLS.get(path.stem, {})
    fixed = {key: entry["value"] for key, entry in parameters.items() if "value" in entry}
    assert {key: fixed.get(key) for key in protocol} == protocol
    assert parameters["lr"]["distribution"] == "log_uniform_values"
    assert parameters["lr"]["min"] == pytest.approx(math.e**-10, rel=0.01)
    assert parameters["lr"]["max"] == pytest.approx(math.e**-4, rel=0.01)


@pytest.mark.parametrize(
    ("parameters", "metric", "message"),
    [
        ({"learning_rate": LR}, "val/loss", "^parameter learning_rate is not a setting of --model=mlp"),
        ({"epohcs": {"values": [1, 2]}}, "val/loss", "parameter epohcs is not a setting .*did you mean epochs"),
        ({"num_heads": {"values": [1, 2]}, "model": {"value": "cnn"}}, "val/loss", "it belongs to nano_vit"),
        ({"epochs": {"values": [1, "2"]}}, "val/loss", "epochs='2' is of type str, not int"),
        ({"epochs": {"min": 1.0, "max": 2.0}}, "val/loss", "epochs=1.5 is of type float, not int"),
        ({"lr": {"values": [0.1, "1e-3"]}}, "val/loss", "lr='1e-3' is of type str.* write 1.0e-3"),
        ({"lr": {"values": [True, 0.1]}}, "val/loss", "lr=True is of type bool, not float"),
        ({"epochs": {"min": 0, "max": 5}}, "val/loss", "epochs=0 is out of range: it must be at least 1"),
        ({"val_fraction": {"min": 0.1, "max": 0.95}}, "val/loss", "val_fraction=0.95 is out of range"),
        ({"lr": {"distribution": "normal", "mu": -1}}, "val/loss", "lr=-1.0 is out of range"),
        ({"schedule": {"values": ["cosine", "linear"]}}, "val/loss", "schedule=linear is none of"),
        ({"lr": LR}, "val/acuracy", "val/acuracy: no run logs it, did you mean val/accuracy"),
        ({"lr": LR}, "loss", "metric loss: no run logs it.* there are: .*val/loss"),
        ({"lr": LR}, "test/accuracy", "nothing is chosen on test images, take val/accuracy"),
        ({"lr": LR, "val_fraction": {"value": 0}}, "val/loss", "val_fraction is 0"),
        ({"val_fraction": {"values": [0.0, 0.2]}}, "val/loss", "val_fraction is 0"),
        ({"lr": LR, "model": {"value": "ccn"}}, "val/loss", "--model=ccn is not known, did you mean cnn"),
        ({"model": {"values": ["cnn", "mpl"]}}, "val/loss", "--model=mpl is not known, did you mean mlp"),
        ({"lr": LR, "dataset": {"value": "digit"}}, "val/loss", "dataset=digit is not known, did you mean digits"),
        ({"dataset": {"values": ["digit", "digits"]}}, "val/loss", "dataset=digit is not known"),
        ({"optimizer": {"values": ["sdg", "adam"]}}, "val/loss", "optimizer=sdg is not known, did you mean sgd"),
        (
            {"lr": LR, "optimizer": {"value": "sdg"}, "dataset": {"value": "folder"}},
            "val/loss",
            "optimizer=sdg is not known",
        ),
        ({"lr": LR, "best_by": {"value": "val/acuracy"}}, "val/loss", "best_by=val/acuracy: no run logs it"),
        (
            {"lr": LR, "best_by": {"value": "minimize val/accuracy"}},
            {"name": "val/accuracy", "goal": "maximize"},
            "^best_by=minimize val/accuracy would minimize what .* to maximize: give best_by the value val/accuracy$",
        ),
        (
            {"lr": LR, "best_by": {"value": "val/loss"}},
            {"name": "val/loss", "goal": "maximize"},
            "give best_by the value maximize val/loss$",
        ),
        (
            {"best_by": {"values": ["val/loss", "test/loss"]}},
            "val/loss",
            "best_by=test/loss: nothing is chosen on test",
        ),
        ({"lr": LR, "run_id": {"value": "a"}}, "val/loss", "run_id: the agent sets it"),
        ({"lr": LR, "dry_run": {"value": True}}, "val/loss", "dry_run: the agent sets it"),
    ],
)
def test_what_train_py_would_refuse_or_not_log_is_refused_before_any_trial(parameters, metric, message):
    metric = metric if isinstance(metric, dict) else {"name": metric}
    sweep = sweep_of({**DIGITS, "model": {"value": "mlp"}, **parameters}, metric=metric)
    with pytest.raises(UserError, match=message):
        check_contract(by_settings(sweep))


@pytest.mark.parametrize(
    ("parameters", "metric"),
    [
        ({"lr": LR, "val_fraction": {"value": 0}}, "train/classify/loss"),
        ({"model": {"values": ["mlp", "cnn"]}, "width": {"values": [16, 32]}}, "val/accuracy"),
        ({"width": {"distribution": "q_uniform", "min": 16, "max": 64, "q": 16.0}}, "val/loss"),
        ({"lr": LR, "dataset": {"value": "folder"}}, "val/loss"),
        ({"lr": LR, "model": {"value": "vae"}, "fid_every": {"value": 5}}, "val/fid_inception_2000"),
        ({"lr": LR, "model": {"value": "vae"}, "fid_every": {"value": 5}}, "val/recall_inception_2000"),
        (
            {"model": {"value": "vae"}, "fid_every": {"values": [5]}, "val_fraction": {"value": 0}},
            "train/sample_variety",
        ),
        ({"best_by": {"values": ["val/loss", "maximize val/accuracy"]}}, "val/loss"),
        ({"lr": LR, "test": {"value": False}, "tags": {"value": "a,b"}}, "val/loss"),
    ],
    ids=str,
)
def test_what_train_py_takes_and_logs_is_taken(parameters, metric):
    sweep = sweep_of({**DIGITS, "model": {"value": "mlp"}, **parameters}, metric={"name": metric})
    check_contract(by_settings(sweep))


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ({"name": "val/accuracy", "goal": "maximize"}, "val/accuracy"),
        ({"name": "val/perplexity", "goal": "maximize"}, "maximize val/perplexity"),
        ({"name": "val/accuracy", "goal": "minimize"}, "minimize val/accuracy"),
    ],
)
@pytest.mark.parametrize("method", ["bayes", "grid"])
def test_trials_are_told_to_keep_the_weights_that_are_best_by_the_sweeps_metric(metric, told, method):
    parameters = {"lr": {"values": [0.1, 0.01]}}
    sweep = with_best_by(sweep_of(parameters, metric=metric, method=method))
    assert sweep.parameters["best_by"].value(None) == told
    assert metric_named(told) == Metric(**metric)
    assert list(sweep.space) == ["lr"]
    assert [len(each) for each in sweep.grid()] == [2, 2]


def test_a_sweep_file_that_says_by_what_the_weights_are_chosen_is_heeded():
    sweep = with_best_by(sweep_of({"lr": LR, "best_by": {"value": "val/accuracy"}}))
    assert sweep.parameters["best_by"].value(None) == "val/accuracy"


@pytest.mark.slow
@pytest.mark.parametrize("model", SMALL)
def test_the_metrics_known_of_a_model_are_those_that_its_run_logs(model, tmp_path, process_state):
    arguments = [f"--model={model}", "--dataset=digits", "--train_fraction=0.1", "--epochs=1", "--tracking=off"]
    arguments += [*SMALL[model], f"--runs_dir={tmp_path}", "--run_id=a", "--panels_every=9"]
    assert train.main(arguments) == 0
    (epoch,) = (row for row in run_folder.read_metrics(tmp_path / "a") if is_epoch(row))
    settings = MODELS[model].settings_class(model=model, dataset="digits")
    known = logged_metrics(stand_in(settings, describe("digits", 0)))
    assert sorted(known) == sorted(key for key in epoch if key.startswith(("train/", "val/")))


@pytest.mark.parametrize("model", SMALL)
def test_the_metrics_are_found_by_one_process_alone(model, monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    for name in ("all_reduce", "broadcast"):
        monkeypatch.setattr(distributed, name, lambda *arguments: pytest.fail("it waits for the other processes"))
    settings = MODELS[model].settings_class(model=model, dataset="digits")
    assert logged_metrics(stand_in(settings, describe("digits", 0)))


@pytest.mark.parametrize(
    ("parameters", "lines"),
    [
        (
            {"model": {"values": ["mlp", "cnn"]}, "momentum": {"min": 0.5, "max": 0.9}},
            ["momentum is searched in vain: it has no effect with optimizer=adam"],
        ),
        ({"momentum": {"value": 0.5}}, []),  # each run says it of a constant
        ({"momentum": {"min": 0.5, "max": 0.9}, "optimizer": {"values": ["adam", "sgd"]}}, []),
        (
            {"momentum": {"values": [0.5, 0.9]}, "optimizer": {"values": ["adam", "adamw"]}},
            ["momentum is searched in vain: it has no effect with optimizer=adam or adamw"],
        ),
        (
            {
                "model": {"values": ["vae", "cvae"]},
                "cvae": {"parameters": {"free_bits": {"values": [0.1, 0.2]}, "beta": {"value": 0.0}}},
                "vae": {"parameters": {"likelihood": {"value": "gaussian"}}},
                "noise_deviation": {"values": [0.1, 0.2]},
            },
            [
                "noise_deviation is searched in vain: it has no effect with likelihood=squared_error, model=cvae",
                "free_bits is searched in vain: it has no effect with beta=0.0, model=cvae",
            ],
        ),
    ],
)
def test_what_is_searched_in_vain_is_said(parameters, lines):
    assert lines_of_idle(by_settings(sweep_of({**DIGITS, "lr": LR, **parameters}))) == lines


def command(*words):
    return ["${env}", "${interpreter}", "${program}", *words, "${args}"]


@pytest.mark.parametrize(
    ("words", "parameters", "metric"),
    [
        (["--model=vae"], {"beta": {"min": 0.1, "max": 2.0}}, "val/bits_per_dimension"),
        (["--model=mlp"], {"lr": LR}, "val/accuracy"),
        (["--val_fraction=0", "--model=mlp"], {"lr": LR, "val_fraction": {"value": 0.1}}, "val/accuracy"),
    ],
)
def test_a_sweep_fits_by_what_its_command_tells_all_runs(words, parameters, metric):
    sweep = sweep_of(parameters, command=command("--dataset=digits", *words), metric={"name": metric})
    assert checked(sweep).parameters.keys() == {*parameters, "best_by"}


@pytest.mark.parametrize(
    ("words", "parameters", "metric", "message"),
    [
        (["--model=vae"], {"lr": LR}, "val/accuracy", "metric val/accuracy: no run logs it"),
        (["--model=ccn"], {"lr": LR}, "val/loss", "--model=ccn is not known, did you mean cnn"),
        (["--model=mlp"], {"beta": {"min": 0.1, "max": 2.0}}, "val/loss", "beta is not a setting of --model=mlp"),
        (["--val_fraction=0"], {"lr": LR}, "val/loss", "val_fraction is 0"),
        (["--epohcs=3"], {"lr": LR}, "val/loss", "--epohcs=3 is not a setting .*did you mean --epochs"),
        (["--beta=1"], {"model": {"values": ["vae", "mlp"]}}, "val/loss", "--beta=1 is not a setting of --model=mlp"),
        (["--epochs=0"], {"lr": LR}, "val/loss", "--epochs=0 is out of range"),
        (["three"], {"lr": LR}, "val/loss", "command: 'three' is not understood"),
        (
            ["${args_no_hyphens}"],
            {"lr": LR},
            "val/loss",
            r"command: \${args_no_hyphens} gives .*: write \${args}",
        ),
        (["${args_json_file}"], {"lr": LR}, "val/loss", r"command: \${args_json_file} gives words"),
        (["--run_id=a"], {"lr": LR}, "val/loss", "command: --run_id: the agent sets it for each run"),
        (["--runs_dir=/a"], {"lr": LR}, "val/loss", "command: --runs_dir: the agent sets it for each run"),
    ],
)
def test_what_train_py_would_refuse_or_not_log_by_the_sweeps_command_is_refused(words, parameters, metric, message):
    sweep = sweep_of(parameters, command=command("--dataset=digits", *words), metric={"name": metric})
    with pytest.raises(UserError, match=message):
        checked(sweep)


def test_a_setting_that_has_an_effect_by_the_sweeps_command_is_not_searched_in_vain():
    parameters = {"momentum": {"min": 0.1, "max": 0.9}}
    for words, num_lines in ((["--optimizer=sgd"], 0), (["--optimizer=adamw"], 1)):
        assert len(lines_of_idle(by_settings(sweep_of(parameters, command=command(*words))))) == num_lines


def test_a_command_that_says_by_what_the_weights_are_chosen_is_heeded():
    sweep = sweep_of({"lr": LR}, command=command("--best_by=val/accuracy"))
    assert with_best_by(sweep).parameters.keys() == {"lr"}


@pytest.mark.slow
def test_the_agent_says_at_the_start_what_models_lack_and_what_is_searched_in_vain(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(agent.Agent, "run", lambda self: 143)  # as if a signal had come at once
    models = {"model": {"values": ["mlp", "cnn"]}, "pooling": {"values": ["none", "mean"]}}
    parameters = {**DIGITS, **models, "lr": LR, "beta1": {"values": [0.8, 0.9]}, "optimizer": {"value": "sgd"}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content(parameters=parameters)))
    assert agent.main([str(tmp_path / "s.yaml")]) == 143
    printed = capsys.readouterr().out
    assert "mlp has no pooling: its trials are told none" in printed
    assert "beta1 is searched in vain: it has no effect with optimizer=sgd, model=cnn" in printed
