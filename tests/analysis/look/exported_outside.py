"""Loads exported networks in a process that knows nothing of this project, and writes their outputs beside them."""

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_model_data_config

METADATA = "metadata.json"


def pictures(place):
    return [Image.open(path).convert("RGB") for path in sorted((place / "pictures").iterdir())]


def run_timms(network, place):
    """Run a network of timm on pictures that timm prepares for it."""
    transform = create_transform(**resolve_model_data_config(network))
    return network.eval()(torch.stack([transform(picture) for picture in pictures(place)])).softmax(1)


def run_weights(job, place):
    weights, arch, options = job
    config = {key: options.pop(key) for key in ("mean", "std", "input_size")}
    overlay = {**config, "crop_pct": 1.0}
    return run_timms(timm.create_model(arch, checkpoint_path=weights, pretrained_cfg_overlay=overlay, **options), place)


def run_page(job, place):
    """Run the program that a page tells."""
    os.chdir(job)
    shutil.copy(place / "pictures" / "0.png", "picture.jpg")
    [program] = re.findall("```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    found = {}
    exec(program, found)
    return found["probabilities" if "probabilities" in found else "images"]


def run_onnx(job, place):
    import onnxruntime

    session = onnxruntime.InferenceSession(job)
    names = [each.name for each in session.get_inputs()]
    about = session.get_modelmeta().custom_metadata_map

    def network(*given):
        [found] = session.run(None, dict(zip(names, map(np.asarray, given), strict=True)))
        return torch.tensor(found)

    return run_graph(network, {key: json.loads(about[key]) for key in ("classes", "image_size", "inputs")}, place)


def run_pt2(job, place):
    extra = {METADATA: ""}
    network = torch.export.load(job, extra_files=extra).module()
    return run_graph(network, json.loads(extra[METADATA]), place)


def run_torchscript(job, place):
    extra = {METADATA: ""}
    network = torch.jit.load(job, _extra_files=extra)
    return run_graph(network, json.loads(extra[METADATA]), place)


def run_graph(network, about, place):
    """Run a network that has its preprocessing in it on pictures, or on latents."""
    assert about["classes"] == ["cat", "dog", "frog"]
    if "noise" in about["inputs"]:
        return network(torch.from_numpy(np.load(place / "noise.npy")))
    if "latents" in about["inputs"]:
        latents = torch.from_numpy(np.load(place / "latents.npy"))
        return network(latents, torch.arange(len(latents)) % 3) if "labels" in about["inputs"] else network(latents)
    side = about["image_size"]
    return network(torch.tensor(np.stack([ImageOps.fit(picture, (side, side)) for picture in pictures(place)])))


RUNNERS = {"timm": run_weights, "page": run_page}
RUNNERS |= {"onnx": run_onnx, "pt2": run_pt2, "torchscript": run_torchscript}


def main(place, jobs):
    assert not any(map(importlib.util.find_spec, ("analysis", "models", "data")))
    torch.set_num_threads(1)
    with torch.no_grad():
        outputs = {name: RUNNERS[form](job, place).numpy() for name, (form, job) in jobs.items()}
    np.savez(place / "outputs.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
