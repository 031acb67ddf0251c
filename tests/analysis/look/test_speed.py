"""The table of speeds, and timm's script in it: the command line and images that it gets, and what it says."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import benchmark, feature_benchmark
from analysis.look import speed, speed_loops
from analysis.look.feature_speed import bare_loop
from analysis.look.speed_loops import Workload
from analysis.look.timm_script import can_train, measure_timm_train, rate_of, words_of, write_images
from data.cores import num_cores
from data.dataset import DatasetInfo, Split
from data.errors import UserError
from models.parts.feature_extractor import FeatureExtractor, FrozenNetwork

INFO = DatasetInfo("synthetic", 32, tuple("abcdefghij"), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), {}, "")
IMAGES = torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TRAIN = Split(IMAGES, torch.tensor([3, 7] * 6))
CPU = torch.device("cpu")
SAID = """Model resnet18 created, param count:11181642
Train: 0 [  39/40 (100%)]  Loss: 1.9 (2.1)  Time: 0.250s,  512.00/s  (0.400s,  320.00/s)  LR: 1.000e-03  Data: 0 (0)
Train: 1 [   0/40 (  2%)]  Loss: 1.8 (1.8)  Time: 0.300s,  426.67/s  (0.300s,  426.67/s)  LR: 5.000e-04  Data: 0 (0)
Train: 1 [  39/40 (100%)]  Loss: nan (nan)  Time: 0.100s, 1280.00/s  (0.200s,  640.50/s)  LR: 5.000e-04  Data: 0 (0)
*** Best metric: 1.66 (epoch 1)
"""


@pytest.fixture
def images(monkeypatch):
    """Images in place of CIFAR-10's."""
    monkeypatch.setattr(speed_loops, "read_data", lambda settings: (INFO, {"train": TRAIN}))


@pytest.fixture
def script(tmp_path):
    """Makes a program that stands in for timm's: it writes down what it was told and where, and does as it should."""

    def make(does):
        path = tmp_path / "theirs.py"
        told = f"json.dump([sys.argv[1:], os.getcwd()], open({str(tmp_path / 'told.json')!r}, 'w'))"
        path.write_text(f"import json, os, sys\n{told}\n{does}\n")
        return path

    return make


def built(model, precision="bf16", **settings):
    """A model as the benchmark builds it."""
    workload = Workload(model, precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed_loops, "read_data", lambda settings: (INFO, {"train": TRAIN}))
        patch.setitem(speed_loops.OWN, model, {**speed_loops.OWN.get(model, {}), **settings})
        return workload.load()[0]


def test_timm_s_script_trains_the_same_network_in_the_same_way(tmp_path):
    words = words_of(built("timm", arch="test_resnet"), CPU, tmp_path)
    assert words == [
        f"--data-dir={tmp_path}",
        f"--output={tmp_path}/output",
        "--val-split=",
        "--model=test_resnet",
        "--num-classes=10",
        "--device=cpu",
        f"--workers={num_cores()}",
        "--batch-size=128",
        "--epochs=2",
        "--warmup-epochs=0",
        "--opt=adam",
        "--lr=0.001",
        "--weight-decay=0.0",
        "--smoothing=0.0",
        *("--no-aug", "--input-size", "3", "32", "32", "--amp", "--amp-dtype=bfloat16", "--channels-last"),
    ]


@pytest.mark.parametrize(
    ("precision", "device", "last"),
    [
        ("no", "cpu", ["32"]),  # where channels last makes convolutions slower
        ("no", "cuda", ["32", "--channels-last"]),
        ("fp16", "cuda", ["32", "--amp", "--amp-dtype=float16", "--channels-last"]),
    ],
)
def test_timm_s_script_trains_in_the_same_precision_and_memory_layout(precision, device, last, tmp_path):
    words = words_of(built("timm", precision, arch="test_resnet"), torch.device(device), tmp_path)
    assert words[-len(last) :] == last


def test_timm_s_script_clips_decays_and_resizes_as_train_py(tmp_path):
    settings = {"layer_decay": 0.5, "grad_clip": 2.0, "optimizer": "adamw", "weight_decay": 0.05, "input_size": 64}
    words = words_of(built("timm", arch="test_vit", **settings), CPU, tmp_path)
    assert {"--layer-decay=0.5", "--clip-grad=2.0", "--opt=adamw", "--weight-decay=0.05"} < set(words)
    assert not [word for word in words if word.startswith("--drop")]
    rates = {"drop_rate": 0.1, "drop_path_rate": 0.2}
    dropping = words_of(built("timm", arch="test_vit", **settings, **rates), CPU, tmp_path)
    assert set(dropping) - set(words) == {"--drop=0.1", "--drop-path=0.2"}
    assert words[words.index("--input-size") :][:4] == ["--input-size", "3", "64", "64"]
    assert words[-1] == "--model-kwargs=img_size=64"  # a vision transformer is built for one size


@pytest.mark.parametrize(
    ("model", "settings", "can"),
    [
        ("timm", {"arch": "test_resnet"}, True),
        ("timm", {"arch": "test_resnet", "frozen_stages": 1}, False),
        ("timm", {"arch": "resnet18", "stem": "small"}, False),
        ("resnet18", {"width": 4}, False),  # has another stem than timm's
        ("dc_gan", {}, False),
    ],
)
def test_timm_s_script_trains_networks_of_timm_as_they_are(model, settings, can):
    assert can_train(built(model, **settings)) == can


def test_the_rate_is_the_mean_of_the_second_epoch(tmp_path):
    assert rate_of(tmp_path, SAID, 0) == 640.5


@pytest.mark.parametrize(
    ("said", "code", "message"),
    [
        (
            "Traceback\nModuleNotFoundError: No module named 'timm.task'\n\n",
            1,
            "exit code 1, and last said: ModuleNot",
        ),
        ("", -9, "failed, exit code -9, and last said: nothing"),
        ("usage: theirs.py [-h]", 0, "no images/s of its second epoch, and last said: usage"),
        (SAID.replace("Train: 1", "Train: 2"), 0, r"no images/s of its second epoch, and last said: \*\*\* Best"),
        (SAID.replace("640.50", "0.00"), 0, "no images/s"),
    ],
)
def test_a_script_that_fails_or_says_no_rate_is_quoted_in_one_line(said, code, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        rate_of(tmp_path / "theirs.py", said, code)
    assert "\n" not in str(caught.value)


def test_the_images_are_files_in_the_folders_of_their_classes(tmp_path):
    write_images(TRAIN, 5, tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == [
        *("3/0.png", "3/2.png", "3/4.png", "7/1.png", "7/3.png")
    ]
    image = np.asarray(Image.open(tmp_path / "7" / "3.png"))
    assert np.array_equal(image, IMAGES[3].permute(1, 2, 0).numpy())


def test_a_script_is_told_and_asked_in_a_folder_that_does_not_stay(script, tmp_path):
    program = script(f"print({SAID!r}, file=sys.stderr); assert len(os.listdir('train/7')) == 2; input")
    objective = built("timm", arch="test_resnet")
    assert measure_timm_train(program, objective, TRAIN, 4, CPU) == 640.5
    words, folder = json.loads((tmp_path / "told.json").read_text())
    assert words[0] == f"--data-dir={folder}"
    assert not (tmp_path / folder).exists()


def test_the_table_has_an_empty_cell_for_what_timm_s_script_cannot_train(images, script, monkeypatch, capsys):
    turns = []

    def measured(name, rates):
        values = iter(rates)
        return lambda *arguments: (turns.append(name), next(values))[1]

    loops = {kind: measured(kind, rates) for kind, rates in {"notebook": [10] * 6, "bare": [50] * 6}.items()}
    monkeypatch.setattr(speed, "measure_in_own_process", lambda kind, workload: loops[kind]())
    monkeypatch.setattr(speed, "measure_timm_train", measured("timm", [20, 10, 40]))
    monkeypatch.setattr(speed, "measure_train_py", measured("train.py", [30, 20, 10, 60, 40, 80]))
    monkeypatch.setattr(speed, "measure_start_up", lambda: 4.0)
    monkeypatch.setattr(speed, "device_name", lambda device: "a GPU of 7 GHz")
    words = ["--models=mlp,timm", f"--timm_train={script('')}", "--rounds=3", "--steps=2"]
    assert benchmark.main(words) == 0
    printed = capsys.readouterr().out
    *_, head, mlp, timm, _ = [re.split(r" {2,}", line.strip()) for line in printed.splitlines()]
    assert f"on a GPU of 7 GHz, torch {torch.__version__}," in printed
    assert head == ["model", "notebook", "bare", "timm", "train.py", "x notebook", "x bare", "x timm"]
    assert mlp == ["mlp", "10", "50", "20", "2.00 (1.00-3.00)", "0.40 (0.20-0.60)"]
    assert timm == ["timm", "10", "50", "20", "60", "6.00 (4.00-8.00)", "1.20 (0.80-1.60)", "3.00 (2.00-4.00)"]
    assert turns == 3 * ["notebook", "bare", "train.py"] + 3 * ["notebook", "bare", "timm", "train.py"]


@pytest.mark.parametrize("is_fast", [True, False])
def test_bf16_is_measured_by_default_where_the_device_has_hardware_for_it(is_fast, monkeypatch):
    told = []
    for program, name in ((benchmark, "compare_speeds"), (feature_benchmark, "compare_feature_speeds")):
        monkeypatch.setattr(program, "has_fast_bf16", lambda device: is_fast)
        monkeypatch.setattr(program, name, lambda *those: told.append(those) or ["a line"])
    for words in ([], ["--mixed_precision=no"]):
        assert benchmark.main(words) == 0
    for words in ([], ["--precision=fp32"]):
        assert feature_benchmark.main(words) == 0
    found = [those[0][0].precision for those in told[:2]] + [those[1] for those in told[2:]]
    assert found == (["bf16", "no", "bf16", "fp32"] if is_fast else ["no", "no", "fp32", "fp32"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_bare_loop_rounds_and_chooses_kernels_as_the_computing_of_features_does(precision, monkeypatch):
    extractor = FeatureExtractor(FrozenNetwork("test_efficientnet", None, 32), CPU)
    extractor.precision = precision
    seen, network = [], extractor.network

    def watched(images):
        cudnn = torch.backends.cudnn
        seen.append((cudnn.allow_tf32, cudnn.benchmark, torch.is_autocast_enabled("cpu")))
        return images

    monkeypatch.setattr(network.backbone, "forward", watched)
    extractor(IMAGES)
    bare_loop(extractor, 2, 2)
    assert seen == 2 * [(precision == "bf16", True, precision == "bf16")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(
            ([f"--{name}", "--roofline"], f"--{name.partition('=')[0]} is of no use to --roofline: leave it out")
            for name in ("rounds=5", "steps=2", "data_dir=x")
        ),
        (["--loop=bare", "--rounds=2", "--models=mlp"], "--rounds is of no use to --loop: leave it out"),
        (["--loop=bare", "--models=mlp,cnn"], "--loop=bare measures one model: name it with --models"),
        (["--loop=bare"], "--loop=bare measures one model: name it with --models"),
        (["--timm_train=/nowhere/train.py"], "--timm_train=/nowhere/train.py: there is no such file: name train.py in"),
        (["--timm_train=x", "--roofline"], "not allowed with argument"),
        (["--models=timm", "--arch=test_resent"], "did you mean test_resnet?"),
        (["--models=mlp", "--arch=resnet18"], "not a setting of --model=mlp"),
        (["--models=mlp", "--steps=391"], "--steps=391: CIFAR-10 has images for 390 steps: lower it"),
        (["--models=vae"], "--models=vae: the plain loops train classifiers on images and GANs: omit it"),
        (["--models=frozen", "--arch=test_vit"], "--models=frozen: the plain loops"),
    ],
)
def test_what_cannot_be_compared_is_said_at_once(words, message, images, monkeypatch, capsys):
    monkeypatch.setitem(speed_loops.OWN, "frozen", {"pretrained": False})
    assert benchmark.main(words) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)
