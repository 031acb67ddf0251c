"""Exported networks run without this project, and give what the run's own network gives."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform, resolve_data_config

import analysis
from analysis.export import main
from analysis.look.exports import Exportable, greatest_difference, to_pt2
from analysis.look.model_card import model_card, usage
from analysis.look.picture_files import find_pictures
from analysis.look.prediction import load_members, predict_files
from analysis.look.timm_export import TimmExport, crop_pct, metadata
from analysis.look.trained_run import load_network
from analysis.record import run_folder
from data.errors import UserError
from data.files import read_json, write_json
from data.pixels import ORIENTATION, decode_image
from tests.trained_runs import CLASSES, info_for, save_run

pytestmark = pytest.mark.usefixtures("one_thread")

OUTSIDE = Path(__file__).with_name("exported_outside.py")


@pytest.fixture
def pictures(tmp_path):
    """Six tiles of a photograph."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        tile = load_sample_image("china.jpg")[100 : 100 + 32, 90 * i : 90 * i + 32]
        Image.fromarray(tile).save(folder / f"{i}.png")
    return folder


def export(capsys, *words):
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


WANTED = {  # what is written of each model, and loaded elsewhere
    "cnn": ("onnx", "page"),
    "cvae": ("pt2",),
    "nano_vit": ("torchscript",),
    "timm": ("timm", "page"),
    "frozen": ("timm",),
    "vae": ("onnx",),
    "cvae_head": ("torchscript",),  # what draws
    "vq_vae": ("onnx", "pt2", "torchscript"),
}
ENDS = {"torchscript": ".pt", "timm": ".safetensors", "page": ""}


@pytest.mark.slow
def test_exports_are_loaded_elsewhere_and_give_what_the_run_predicts(tmp_path, pictures, capsys):
    random = np.random.RandomState(0)
    np.save(tmp_path / "latents.npy", random.randn(6, 32).astype(np.float32))
    np.save(tmp_path / "noise.npy", random.exponential(size=(6, 16, 512)).astype(np.float32))
    jobs, expected = {}, {}
    for model, forms in WANTED.items():
        own = {"input_size": 0, "feature_precision": "fp32"} if model == "frozen" else {}
        folder = save_run(tmp_path / model, model, **own)
        outputs = drawn(folder, tmp_path) if model in DRAWING else predicted(folder, pictures)
        capsys.readouterr()
        for form in forms:
            path = tmp_path / f"{model}-{form}{ENDS.get(form, f'.{form}')}"
            words = {"cvae_head": ["--generator"], "vae": [], "vq_vae": []}.get(model, ["--check", pictures])
            code, out, err = export(capsys, folder, "--to", "hf" if form == "page" else form, "--out", path, *words)
            assert (code, err) == (0, ""), err
            assert re.search(rf"outputs differ by at most \S+ on {3 if model in DRAWING else 9} inputs\n{path}\n$", out)
            jobs[f"{model} {form}"] = (form, timm_job(path) if form == "timm" else str(path))
            expected[f"{model} {form}"] = outputs[0] if form == "page" else outputs
    words = [sys.executable, "-I", "-W", "ignore", str(OUTSIDE), str(tmp_path), json.dumps(jobs)]
    subprocess.run(words, cwd=tmp_path, check=True)
    found = np.load(tmp_path / "outputs.npz")
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4, err_msg=name)


def test_a_cvae_that_classifies_by_the_importance_weighted_bound_is_exported(tmp_path, pictures, capsys):
    folder = save_run(tmp_path / "run", "cvae", classify_by="importance_weighted", importance_samples=2)
    code, out, err = export(capsys, folder, "--to", "pt2", "--out", tmp_path / "cvae.pt2", "--check", pictures)
    assert (code, err) == (0, "")
    assert "on 9 inputs" in out


DRAWING = ("vae", "cvae_head", "vq_vae")


def predicted(folder, pictures):
    """What a run predicts of pictures, [N, C]."""
    files = find_pictures([pictures], info_for("cnn"))
    return predict_files(load_members([folder], "", False), files).probabilities.numpy()


@torch.no_grad()
def drawn(folder, place):
    """The images [N, H, W, 3] that a run's model draws of latents or by noise; the classes take turns."""
    model = load_network(folder).objective
    latents, noise = (torch.from_numpy(np.load(place / f"{name}.npy")) for name in ("latents", "noise"))
    if hasattr(model, "prior"):
        return model.pictures_drawn_by(noise).permute(0, 2, 3, 1).numpy()
    return model.pictures_of(latents, torch.arange(len(latents)) % max(1, model.num_labels)).permute(0, 2, 3, 1).numpy()


def timm_job(path):
    """What timm is told of a file of weights, out of the texts in it."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        texts = file.metadata()
    options = {
        "num_classes": len(json.loads(texts["classes"])),
        "input_size": [3, int(texts["size"]), int(texts["size"])],
    }
    options |= {key: json.loads(texts[key]) for key in ("mean", "std")}
    arch = {"timm": "test_vit", "frozen": "test_efficientnet"}[path.name.partition("-")[0]]
    return str(path), arch, options | ({"img_size": 32} if arch == "test_vit" else {})


def test_a_folder_for_the_hub_tells_settings_and_results(tmp_path, capsys):
    folder = save_run(tmp_path / "run", "timm")
    write_json(folder / run_folder.SUMMARY, {"test/accuracy": 0.5, "val/loss": 1.25, "epochs": 3})
    code, out, err = export(capsys, folder, "--to=hf")
    place = folder / "export" / "hf"
    assert (code, err, out.splitlines()[-1]) == (0, "", str(place))
    config, info = read_json(place / "config.json"), info_for("timm")
    assert config["metrics"] == {"test/accuracy": 0.5, "val/loss": 1.25}
    assert config["label_names"] == list(CLASSES)
    assert config["pretrained_cfg"]["input_size"] == [3, info.image_size, info.image_size]
    assert config["settings"]["arch"] == "test_vit"
    page = (place / "README.md").read_text()
    for told in ("| test/accuracy | 50.00 % |", "| arch | test_vit |", "library_name: timm", "3: cat, dog, frog"):
        assert told in page
    assert str(tmp_path) not in page


@pytest.mark.parametrize(("model", "form"), [("timm", "hf"), ("mlp", "hf"), ("mlp", "onnx")])
def test_the_program_that_is_told_uses_pictures_upright_as_the_run_does(model, form, tmp_path, capsys, monkeypatch):
    folder, place = save_run(tmp_path / "run", model), tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    tile = load_sample_image("china.jpg")[100:300, 200:400]
    Image.fromarray(tile).save(tmp_path / "picture.jpg", exif=turned)
    assert export(capsys, folder, f"--to={form}", "--out", place if form == "hf" else "network.onnx")[0] == 0
    (tmp_path / "picture.jpg").rename("picture.jpg")
    text = (place if form == "hf" else Path(analysis.__file__).parent).joinpath("README.md").read_text()
    [program] = [it for it in re.findall("```python\n(.*?)```", text, re.DOTALL) if "picture.jpg" in it]
    found: dict = {}
    exec(program, found)
    assert np.allclose(found["probabilities"], predicted(folder, Path("picture.jpg")), rtol=0, atol=1e-4)
    Image.fromarray(tile[:, :, 0].astype(np.uint16) * 256).save("picture.jpg", "png")
    exec(program, found)
    assert np.allclose(found["probabilities"], predicted(folder, Path("picture.jpg")), rtol=0, atol=1e-4)
    assert "over white" in text
    assert Exportable(load_network(folder)).metadata()["transparent_pixels"] == "over white"


@pytest.mark.parametrize(("input_size", "interpolation"), [(0, "bicubic"), (32, "bicubic"), (64, "bilinear")])
def test_timm_is_told_the_interpolation_that_the_run_saw(input_size, interpolation, tmp_path, pictures):
    network = Exportable(load_network(save_run(tmp_path / "run", "timm", input_size=input_size)))
    timms = TimmExport(network)
    config = timms.config(network)["pretrained_cfg"]
    assert config["interpolation"] == interpolation
    if interpolation == "bicubic":
        path = tmp_path / "large.png"
        Image.fromarray(load_sample_image("china.jpg")[100:300, 200:400]).save(path)
        seen = torch.from_numpy(decode_image(path, 32).pixels.transpose(1, 2, 0).copy())[None]
        transform = create_transform(**resolve_data_config(pretrained_cfg=config))
        wanted = timms.prepare(network.network.prepare(seen))[0]
        torch.testing.assert_close(transform(Image.open(path)), wanted, rtol=0, atol=1e-4)


def test_an_export_with_other_outputs_is_refused(tmp_path):
    network = Exportable(load_network(save_run(tmp_path / "run", "mlp")))
    runner = to_pt2(network, tmp_path / "x.pt2")
    assert greatest_difference(network, runner, network.examples) < 1e-5
    for wrong in (
        lambda inputs: runner(inputs) + 1e-3,
        lambda inputs: runner(inputs) * torch.nan,
        lambda inputs: runner(inputs) + 1e-3 * (len(inputs[0]) == 1),  # of single images alone
        lambda inputs: runner(inputs) + 1e-3 * (len(inputs[0]) > 1),
    ):
        with pytest.raises(UserError, match="outputs differ by .* from the run's own: do not use it"):
            greatest_difference(network, wrong, network.examples)


@pytest.mark.parametrize(
    ("model", "words", "told"),
    [
        ("mlp", ["--to=timm"], "--to=timm: mlp is no network as timm builds it: give --to=hf, or onnx"),
        ("mlp", ["--to=pt2", "--generator"], "mlp draws no images: name another run"),
        ("vq_vae", ["--to=timm"], "--to=timm: vq_vae is no network as timm builds it: give --to=hf, or onnx"),
        ("mlp", ["--to=onnx", "--out=x.pt"], "--out=x.pt: give a file name that ends in .onnx"),
        ("mlp", ["--to=hf", "--out={dir}"], "is not an empty folder: name a new one"),
        ("mlp", ["--to=tflite"], "invalid choice: 'tflite'"),
        ("mlp", [], "required: --to"),
        ("mlp", ["--to=pt2", "--check", "nowhere.png"], "nowhere.png is not there"),
        ("vae", ["--to=pt2", "--check", "x.png"], "--check=x.png: a generator takes no pictures: leave it out"),
    ],
)
def test_bad_inputs_are_told_in_one_line(model, words, told, tmp_path, capsys):
    folder = save_run(tmp_path / "run", model)
    code, out, err = export(capsys, folder, *(word.format(dir=tmp_path) for word in words))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_without_a_library_the_command_that_installs_it_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("analysis.look.exports.find_spec", lambda name: None)
    code, _, err = export(capsys, save_run(tmp_path / "run", "mlp"), "--to=onnx")
    assert (code, err) == (2, "export: --to=onnx needs onnx: pip install -c constraints.txt -e '.[export]'\n")
    assert not (tmp_path / "run" / "export").exists()


def test_what_a_run_saw_of_its_images_is_what_its_export_sees(tmp_path):
    folder = save_run(tmp_path / "run", "mlp", image_size=32, eval_crop=0.8)
    write_json(folder / run_folder.DATA, {**read_json(folder / run_folder.DATA), "stored_size": 40})
    network = Exportable(load_network(folder))
    [images] = network.examples
    assert images.shape == (3, 40, 40, 3)
    edge = images.clone()
    edge[:, :4] = edge[:, -4:] = 0
    assert torch.equal(network.network(images), network.network(edge))
    runner = to_pt2(network, tmp_path / "x.pt2")
    assert greatest_difference(network, runner, network.examples) < 1e-5


def test_sizes_and_normalisations_are_told_where_they_belong(tmp_path):
    folder = save_run(tmp_path / "run", "timm", image_size=32, input_size=0, eval_crop=0.8)
    write_json(folder / run_folder.DATA, {**read_json(folder / run_folder.DATA), "stored_size": 40})
    network = Exportable(load_network(folder))
    info, timms = network.run.info, TimmExport(network)
    own = {"image_size": 40, "seen_size": 32, "mean": list(info.mean), "std": list(info.std)}
    assert own.items() <= network.metadata().items()
    assert timms.config(network)["pretrained_cfg"]["crop_pct"] == pytest.approx(32 / 40, rel=1e-5)
    facts = metadata(network, timms)
    assert [facts[key] for key in ("mean", "std", "size")] == [*(timms.description[k] for k in ("mean", "std")), 32]
    assert info.mean != tuple(facts["mean"])
    assert "resized to" not in model_card(facts, {}, {}, True, "")
    assert "resized to 64" in model_card({**facts, "size": 64}, {}, {}, True, "")


def test_timm_resizes_to_the_size_that_the_run_did_however_much_it_cut_off():
    for size in range(16, 257, 16):
        for kept in range(size, 2 * size):
            assert math.floor(size / crop_pct(size, kept)) == kept  # as timm.data.transforms_factory does
    assert crop_pct(32, 32) == 1


def test_the_classifier_that_timm_gets_standardises_as_the_head_of_a_frozen_network(tmp_path):
    network = Exportable(load_network(save_run(tmp_path / "run", "frozen", input_size=0, feature_precision="fp32")))
    head = network.run.objective.net
    head.mean.normal_()
    head.deviation.uniform_(0.5, 2)
    network.network = type(network.network)(network.run.objective, network.run.info).eval()
    timms = TimmExport(network)
    with torch.no_grad():
        found = timms.network(timms.prepare(network.network.prepare(*network.examples))).softmax(1)
        torch.testing.assert_close(found, network.network(*network.examples), rtol=1e-4, atol=1e-5)


def test_of_several_labels_each_has_a_probability_of_its_own(tmp_path):
    network = Exportable(load_network(save_run(tmp_path / "run", "timm")))
    timms = TimmExport(network)
    for several, problem, function in ((False, "single_label", "softmax(1)"), (True, "multi_label", "sigmoid()")):
        network.run = network.run._replace(info=replace(network.run.info, several_labels=several))
        assert timms.config(network)["problem_type"] == f"{problem}_classification"
        assert function in usage(metadata(network, timms), True)
