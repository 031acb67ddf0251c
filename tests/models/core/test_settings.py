import dataclasses
import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from analysis.record import run_folder
from analysis.record.resume import resolve
from data.errors import UserError
from data.files import write_json
from models.core.settings import kinds
from models.help import documentation, help_text
from models.mlp import MlpSettings
from models.registry import MODELS
from models.resolve import Text, coerce

ACCELERATE = "ACCELERATE_MIXED_PRECISION"
SWEEP = "WANDB_SWEEP_PARAM_PATH"
EVERY_SETTING = [
    (name, field.name) for name, model in MODELS.items() for field in dataclasses.fields(model.settings_class)
]


def parse(*arguments, **environment):
    return resolve(arguments, environment)


@pytest.fixture
def sweep(tmp_path):
    """Environment of a run that an agent hands these values."""

    def environment(**values):
        path = tmp_path / "sweep-config.yaml"
        path.write_text(yaml.safe_dump({"wandb_version": 1, **{key: {"value": v} for key, v in values.items()}}))
        return {SWEEP: str(path)}

    return environment


@pytest.fixture
def save_run(tmp_path):
    """Writes the folder of a run; later ones are newer, whatever the resolution of the clock."""

    def save(run_id, *arguments, state=None):
        folder = tmp_path / "runs" / run_id
        folder.mkdir(parents=True)
        settings = parse(*arguments, f"--runs_dir={tmp_path / 'runs'}", f"--run_id={run_id}")
        write_json(folder / run_folder.SETTINGS, asdict(settings))
        seconds = 1_000_000 + 100 * len(list(folder.parent.iterdir()))
        os.utime(folder / run_folder.SETTINGS, (seconds, seconds))
        if state:
            write_json(folder / run_folder.SUMMARY, {"state": state})
        return f"--runs_dir={tmp_path / 'runs'}"

    return save


def test_without_arguments_every_value_is_the_default_of_the_model():
    assert parse("--model=mlp") == MlpSettings(model="mlp")


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse().lr = 1.0


@pytest.mark.parametrize(
    ("environment", "arguments", "values", "expected"),
    [
        ({}, [], {}, "no"),
        ({ACCELERATE: "bf16"}, [], {}, "bf16"),
        ({ACCELERATE: "bf16"}, ["--mixed_precision=fp16"], {}, "fp16"),
        ({ACCELERATE: "bf16"}, ["--mixed_precision=no"], {}, "no"),
        ({ACCELERATE: "bf16"}, [], {"mixed_precision": "fp16"}, "fp16"),
        ({}, ["--mixed_precision=fp16"], {"mixed_precision": "bf16"}, "bf16"),
        ({ACCELERATE: "bf16"}, ["--mixed_precision=fp16"], {"mixed_precision": "no"}, "no"),
    ],
)
def test_sweep_beats_command_line_beats_accelerate_beats_default(environment, arguments, values, expected, sweep):
    assert parse(*arguments, **environment, **sweep(**values)).mixed_precision == expected


def test_a_sweep_may_choose_the_model_and_its_settings(sweep):
    settings = parse("--model=mlp", **sweep(model="nano_vit", num_heads=4))
    assert (settings.model, settings.num_heads) == ("nano_vit", 4)


def test_an_agent_may_choose_the_run_id():
    assert parse(WANDB_RUN_ID="abc").run_id == "abc"


@pytest.mark.parametrize("text", ["- lr\n", "lr: 0.1\n", "lr: {values: [1, 2]}\n", "lr: [\n"])
def test_a_malformed_sweep_file_is_refused_by_name(text, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="broken.yaml"):
        parse(**{SWEEP: str(path)})


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("--lr=0.5", "lr", 0.5),
        ("--lr 0.5", "lr", 0.5),
        ("--weight-decay=0.5", "weight_decay", 0.5),
        ("--weight-decay 0.5", "weight_decay", 0.5),
        ("--tags=a=b", "tags", "a=b"),
        ("--tags=", "tags", ""),
        ("--test", "test", True),
        ("--test --lr=0.5", "test", True),
        ("--dry-run", "dry_run", True),
        ("--test True", "test", True),
        ("--test=false", "test", False),
        ("--test=False", "test", False),
    ],
)
def test_spellings_of_the_command_line(words, key, value):
    assert getattr(parse(*words.split()), key) == value


@pytest.mark.parametrize("words", ["lr=0.5", "-lr=0.5", "--", "--lr=0.5 cnn"])
def test_words_that_are_no_settings_are_refused(words):
    with pytest.raises(UserError, match="not understood"):
        parse(*words.split())


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("--lr=0.1 --lr=0.2", "lr", 0.2),
        ("--weight-decay=0.1 --weight_decay 0.2", "weight_decay", 0.2),
        ("--test=false --test", "test", True),
    ],
)
def test_the_last_of_two_values_wins(words, key, value):
    assert getattr(parse(*words.split()), key) == value


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("epoch", "3", "epochs"),
        ("batchsize", "64", "batch_size"),
        ("optimiser", "sgd", "optimizer"),
        ("head_widht", "64", "head_width"),
        ("schedule", "cosin", "cosine"),
        ("model", "nanovit", "nano_vit"),
        ("learning_rate", "0.1", "lr"),
        ("bs", "64", "batch_size"),
        ("wd", "0.1", "weight_decay"),
        ("random_seed", "1", "seed"),
        ("val_split", "0.2", "val_fraction"),
        ("early_stopping", "3", "patience"),
        ("data_path", "images", "data_dir"),
        ("output_dir", "out", "runs_dir"),
        ("amp", "1", "mixed_precision"),
        ("bf16", "1", "mixed_precision=bf16"),
        ("fp16", "1", "mixed_precision=fp16"),
        ("output", "out", "runs_dir"),
        ("save_dir", "out", "runs_dir"),
        ("clip_grad", "1", "grad_clip"),
        ("max_grad_norm", "1", "grad_clip"),
        ("resume_from", "night", "run_id"),
        ("name", "night", "run_id"),
        ("experiment", "night", "run_id"),
        ("no_wandb", "1", "tracking=off"),
        ("offline", "1", "tracking=offline"),
        ("lr_scheduler", "cosine", "schedule"),
        ("opt", "sgd", "optimizer"),
        ("ema", "0.9", "ema_decay"),
        ("num_epochs", "3", "epochs"),
        ("optim", "sgd", "optimizer"),
        ("precision", "bf16", "mixed_precision"),
        ("data", "digits", "dataset"),
        ("model_name", "cnn", "model"),
    ],
)
def test_a_misspelling_is_refused_with_what_was_meant(key, value, meant, sweep):
    with pytest.raises(UserError, match=rf"did you mean (--)?{meant}\?"):
        parse(f"--{key}={value}")
    with pytest.raises(UserError, match=rf"did you mean (--)?{meant}\?"):
        parse(**sweep(**{key: value}))


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("device", "a GPU is taken where there is one"),
        ("gpu", "CUDA_VISIBLE_DEVICES chooses which"),
        ("cuda", "CUDA_VISIBLE_DEVICES chooses which"),
        ("cpu", "an empty one leaves the CPU"),
        ("gpus", "accelerate launch"),
        ("workers", "batches are gathered in the background by themselves"),
        ("num_workers", "batches are gathered in the background by themselves"),
    ],
)
def test_what_other_programs_ask_for_and_this_one_does_by_itself_is_said_with_no_other_name(key, answer, sweep):
    for told, where in ((["--model=timm", f"--{key}=2"], {}), (["--model=timm"], sweep(**{key: 2}))):
        with pytest.raises(UserError) as error:
            parse(*told, **where)
        assert answer in str(error.value)
        assert "did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr"], "--lr has no value: write --lr=0.000199, for example"),
        (["--model", "--epochs=2"], "--model has no value: write --model=cnn, for example"),
        (["--tags"], "--tags has no value: write --tags=VALUE, for example"),
        (["--modle=cnn"], "--modle=cnn is not a setting of --model=cnn, did you mean --model? (see --help)"),
        (
            ["--resume=night"],
            "--resume=night is not true or false: to resume the run of that name, give --run_id=night",
        ),
    ],
)
def test_what_a_command_line_lacks_is_said_with_what_to_write(words, message):
    with pytest.raises(UserError) as error:
        parse(*words)
    assert str(error.value) == message


@pytest.mark.parametrize("key", ["half", "ckpt", "max_steps"])
def test_a_name_that_is_like_none_but_for_its_hyphens_is_not_taken_for_another(key):
    with pytest.raises(UserError, match=rf"--{key}=1 is not a setting of --model=cnn \(see --help\)"):
        parse(f"--{key}=1")


def test_a_setting_of_other_models_names_them():
    with pytest.raises(UserError, match="num_heads=3 is not a setting of --model=cnn, it belongs to nano_vit"):
        parse("--model=cnn", "--num_heads=3")
    with pytest.raises(UserError, match="it belongs to nano_vit, patch_lstm"):
        parse("--model=cnn", "--patch_size=4")


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="vgg.*there are: " + ", ".join(MODELS)):
        parse("--model=vgg")


@pytest.mark.parametrize(
    "argument",
    ["--epochs=0.5", "--epochs=three", "--epochs=", "--test=yes", "--test=1", "--lr=fast", "--lr="],
)
def test_text_of_another_type_is_refused(argument):
    with pytest.raises(UserError, match="is not (a whole number|true or false|a number)"):
        parse(argument)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0.5),
        ("epochs", "3"),
        ("epochs", True),
        ("lr", True),
        ("test", 1),
        ("test", "true"),
        ("tags", 3),
        ("tags", None),
        ("lr", [0.1]),
    ],
)
def test_a_sweeps_value_of_another_type_is_refused(key, value, sweep):
    with pytest.raises(UserError, match=f"{key}=.* is of type {type(value).__name__}, not "):
        parse(**sweep(**{key: value}))


def test_only_a_sweeps_1e_3_is_refused_since_yaml_reads_it_as_text(sweep):
    assert parse("--lr=1e-3").lr == 0.001
    environment = sweep()
    Path(environment[SWEEP]).write_text("lr: {value: 1e-3}\n")
    with pytest.raises(UserError, match="write 1.0e-3"):
        parse(**environment)
    Path(environment[SWEEP]).write_text("lr: {value: 1.0e-3}\n")
    assert parse(**environment).lr == 0.001


@pytest.mark.parametrize(("key", "value", "read"), [("epochs", 3.0, 3), ("lr", 1, 1.0), ("test", True, True)])
def test_a_sweeps_number_takes_the_type_of_its_setting(key, value, read, sweep):
    result = getattr(parse(**sweep(**{key: value})), key)
    assert (result, type(result)) == (read, type(read))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["lr", "weight_decay"])
def test_numbers_must_be_finite(key, value, sweep):
    with pytest.raises(UserError, match="not a finite number"):
        parse(f"--{key}={value}")
    with pytest.raises(UserError, match="not a finite number"):
        parse(**sweep(**{key: value}))


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("epochs", "1", "0"),
        ("seed", "0", "-1"),
        ("lr", "1e-300", "0"),
        ("weight_decay", "0", "-0.1"),
        ("momentum", "0", "-0.1"),
        ("momentum", "1", "1.01"),
        ("train_fraction", "1", "0"),
        ("val_fraction", "0.9", "0.91"),
        ("label_smoothing", "0.9", "0.91"),
    ],
)
def test_ranges_end_where_they_say(key, inside, outside):
    assert getattr(parse(f"--{key}={inside}"), key) == float(inside)
    with pytest.raises(UserError, match=f"{key}=.* is out of range: it must be (at least|above|from)"):
        parse(f"--{key}={outside}")


def test_a_choice_that_is_not_offered_is_refused_with_those_that_are():
    with pytest.raises(UserError, match="schedule=linear is none of constant, cosine, one_cycle"):
        parse("--schedule=linear")


def test_the_saved_settings_of_a_run_take_the_place_of_the_defaults(save_run):
    runs_dir = save_run("a", "--model=mlp", "--lr=0.5", "--test=True", "--width=64")
    resumed = parse(runs_dir, "--run_id=a")
    assert (resumed.model, resumed.lr, resumed.test, resumed.width) == ("mlp", 0.5, True, 64)


def test_a_saved_value_may_be_given_again(save_run):
    runs_dir = save_run("a", "--lr=0.5")
    assert parse(runs_dir, "--run_id=a", "--lr=0.5", "--model=cnn").lr == 0.5


@pytest.mark.parametrize(
    ("argument", "saved"),
    [("--lr=0.25", "0.5"), ("--model=mlp", "'cnn'"), ("--epochs=2", "16"), ("--data_seed=1", "3407"), ("--test", "F")]
    + [("--log_every=5", "0")],
)
def test_another_value_than_the_saved_one_is_refused_naming_both(argument, saved, save_run):
    runs_dir = save_run("a", "--lr=0.5")
    given = argument.partition("=")[2] or "True"
    with pytest.raises(UserError, match=f"{given}.* differs from the {saved}"):
        parse(runs_dir, "--run_id=a", argument)


@pytest.mark.parametrize(
    "argument",
    ["data_dir=d", "resident=host", "eval_batch_size=7", "tracking=off", "project=p", "tags=t", "panels_every=2"]
    + ["dry_run=True"],
)
def test_circumstances_may_change_on_resuming(argument, save_run):
    runs_dir = save_run("a", "--lr=0.5")
    key, _, value = argument.partition("=")
    resumed = parse(runs_dir, "--run_id=a", f"--{argument}")
    assert (str(getattr(resumed, key)), resumed.lr) == (value, 0.5)


def test_a_run_folder_may_be_moved(save_run, tmp_path):
    save_run("a", "--lr=0.5")
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert parse(f"--runs_dir={tmp_path / 'moved'}", "--run_id=a").lr == 0.5


def test_accelerates_default_precision_does_not_keep_a_run_from_being_resumed(save_run):
    runs_dir = save_run("a", "--mixed_precision=bf16")  # `accelerate launch` says "no" where it is not told
    assert parse(runs_dir, "--run_id=a", **{ACCELERATE: "no"}).mixed_precision == "bf16"


def test_a_run_is_resumed_in_the_folder_that_the_environment_names(save_run):
    runs_dir = save_run("a", "--lr=0.5").removeprefix("--runs_dir=")
    resumed = parse("--run_id=a", VISION_SWEEPS_RUNS=runs_dir)
    assert (resumed.lr, resumed.runs_dir) == (0.5, runs_dir)


@pytest.mark.parametrize("words", [["--run_id=a"], ["--resume"]])
@pytest.mark.parametrize("is_variable", [False, True])
def test_the_runs_folder_may_be_named_from_home(words, is_variable, save_run, tmp_path, monkeypatch):
    save_run("a", "--lr=0.5")
    monkeypatch.setenv("HOME", str(tmp_path))
    resumed = parse(*words, VISION_SWEEPS_RUNS="~/runs") if is_variable else parse(*words, "--runs_dir=~/runs")
    assert (resumed.lr, resumed.runs_dir) == (0.5, str(tmp_path / "runs"))


def test_a_home_of_nobody_is_told():
    with pytest.raises(UserError, match="~nobody_of_that_name/runs names no home: write the whole path"):
        parse("--runs_dir=~nobody_of_that_name/runs")


def test_resume_takes_the_newest_run_that_can_be_gone_on_with(save_run):
    save_run("older", "--lr=0.1")
    save_run("stopped", "--lr=0.2", state="stopped")
    save_run("failed", "--lr=0.3", state="failed")
    runs_dir = save_run("finished", "--lr=0.4", state="finished")
    resumed = parse(runs_dir, "--resume")
    assert (resumed.run_id, resumed.lr) == ("stopped", 0.2)
    save_run("killed", "--lr=0.5")
    assert parse(runs_dir, "--resume").run_id == "killed"


@pytest.mark.parametrize("words", [["--resume"], ["--resume", "--run_id=b"]])
def test_resuming_nothing_is_refused(words, save_run):
    runs_dir = save_run("a", state="finished")
    with pytest.raises(UserError, match="--resume"):
        parse(runs_dir, *words)


def test_a_new_run_id_starts_a_new_run(save_run):
    runs_dir = save_run("a", "--lr=0.5")
    fresh = parse(runs_dir, "--run_id=b")
    assert (fresh.run_id, fresh.lr) == ("b", parse().lr)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key"), EVERY_SETTING)
def test_defaults_have_the_declared_type_and_lie_in_range(name, key):
    settings_class = MODELS[name].settings_class
    default = getattr(settings_class(), key)
    assert type(default) is kinds(settings_class)[key].type
    assert coerce(settings_class, key, default) == default
    assert coerce(settings_class, key, Text(default)) == default


@pytest.fixture(scope="module")
def whole_help():
    return help_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_setting_is_documented_and_shown_by_help_with_the_models_default(name, whole_help):
    settings_class = MODELS[name].settings_class
    docs = documentation(settings_class)
    general, *sections = whole_help.split("\n--model=")
    [own] = [section for section in sections if section.startswith(f"{name}: ")]
    for field in dataclasses.fields(settings_class):
        section = own if f"\n  --{field.name}=" in own else general
        assert f"\n  --{field.name}={field.default!r}  (" in section
        assert docs[field.name]
        assert docs[field.name] in " ".join(section.split())


def test_the_help_of_one_model_leaves_the_others_out():
    assert set(re.findall("^--model=([a-z0-9_]+): ", help_text("vae"), re.MULTILINE)) == {"vae"}
    assert set(re.findall("^--model=([a-z0-9_]+): ", help_text("veg"), re.MULTILINE)) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_settings_are_flat_scalars_that_json_keeps(name):
    values = asdict(MODELS[name].settings_class())
    assert {type(value) for value in values.values()} <= {bool, int, float, str}
    assert json.loads(json.dumps(values)) == values


DEEP = (
    "[" * 100_000,
    "a: &a [*a]",
    "\xe9".encode("latin-1"),
    "lr: {value: 1}\nlr: {value: 2}",
    "lr: 3",
    "[1]",
    "x" * 3_000_000,
)


def test_what_wandb_adds_to_a_sweeps_values_is_no_setting(sweep):
    assert parse("--model=mlp", **sweep(lr=0.25, _wandb={"cli_version": "0.31"}, _group=3)).lr == 0.25


@pytest.mark.parametrize("content", DEEP, ids=range(len(DEEP)))
def test_a_file_of_sweep_values_that_is_damaged_is_told_in_one_line(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="a.yaml: not a YAML of"):
        parse(**{SWEEP: str(tmp_path / "a.yaml")})


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_number_beyond_all_floats_is_refused(sweep, value):
    with pytest.raises(UserError, match="is not a finite number"):
        coerce(MlpSettings, "lr", value)


def test_the_folder_of_a_run_is_that_of_its_name_in_runs_dir():
    assert str(MlpSettings(runs_dir="a/b", run_id="c").folder) == "a/b/c"
