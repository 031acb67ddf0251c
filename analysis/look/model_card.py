"""The page that tells people of an exported network: what it is, how it is used, how it was made, how good it is."""

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from data.metrics import shown
from data.visible import listed, visible

NETWORK, WEIGHTS = "network.pt2", "model.safetensors"  # files beside the page
MOST_CLASSES = 100  # that are listed
OVER_WHITE = "The run saw pictures upright, and transparent pixels over white: lay such pictures over white first."

OF_TIMM = """\
import numpy
import timm
import torch
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_model_data_config

network = timm.create_model("local-dir:.", pretrained=True).eval()  # on the hub: "hf-hub:YOU/NAME"
transform = create_transform(**resolve_model_data_config(network))
picture = Image.open("picture.jpg")
picture.draft("RGB", ({side}, {side}))  # a large JPEG is read at a fraction of its size, as for the run
picture = ImageOps.exif_transpose(picture)
if picture.mode.startswith("I;16"):  # grey of 16 bits, of which the run has seen the upper 8
    picture = Image.fromarray((numpy.array(picture) >> 8).astype("uint8"))
picture = picture.convert("RGB")
with torch.no_grad():
    probabilities = network(transform(picture)[None]).{function}[0]
classes = network.pretrained_cfg["label_names"]
{told}
"""
OF_A_CLASSIFIER = """\
import json

import numpy
import torch
from PIL import Image, ImageOps

extra = {"metadata.json": ""}
network = torch.export.load("network.pt2", extra_files=extra).module()
about = json.loads(extra["metadata.json"])
size = about["image_size"], about["image_size"]
picture = Image.open("picture.jpg")
picture.draft("RGB", size)  # a large JPEG is read at a fraction of its size, as for the run
picture = ImageOps.exif_transpose(picture)
if picture.mode.startswith("I;16"):  # grey of 16 bits, of which the run has seen the upper 8
    picture = Image.fromarray((numpy.array(picture) >> 8).astype("uint8"))
picture = ImageOps.fit(picture.convert("RGB"), size)
probabilities = network(torch.from_numpy(numpy.array(picture))[None])[0]
classes = about["classes"]
{told}
"""
OF_A_GENERATOR = """\
import torch
from PIL import Image

network = torch.export.load("network.pt2").module()
images = network({inputs})  # [8, H, W, 3] in [0, 1]
Image.fromarray((255 * images[0]).round().byte().numpy()).save("sample.png")
"""
# By what an image may have: the function that makes probabilities of logits, and what prints them.
TOLD = {
    "one an image": ("softmax(1)", "print(classes[probabilities.argmax()], probabilities.max().item())"),
    "several an image": (
        "sigmoid()",
        "print({name: value.item() for name, value in zip(classes, probabilities) if value > 0.5})",
    ),
}


def usage(metadata: Mapping[str, Any], is_timms: bool) -> str:
    """Return the lines of Python that use a network, beside its files."""
    function, told = TOLD[metadata["labels"]]
    if is_timms:
        return OF_TIMM.format(function=function, side=metadata["image_size"], told=told)
    if metadata["output"] == "probabilities":
        return OF_A_CLASSIFIER.replace("{told}", told)
    if "noise" in metadata["inputs"]:
        return OF_A_GENERATOR.format(inputs="torch.empty(8, {}, {}).exponential_()".format(*metadata["noise_shape"]))
    size = metadata["latent_size"]
    inputs = f"torch.randn(8, {size})" + (", torch.arange(8) % 2" if "labels" in metadata["inputs"] else "")
    return OF_A_GENERATOR.format(inputs=inputs)


def model_card(
    metadata: Mapping[str, Any],
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    is_timms: bool,
    images: str,
) -> str:
    """Return the page in Markdown, with what the Hugging Face hub reads at its head.

    Args:
        metadata: of the exported network.
        settings: of the run that have to be told to repeat it.
        metrics: by name, such as test/accuracy.
        is_timms: whether timm builds the network.
        images: what the run was trained on, in one line.
    """
    is_classifier = metadata["output"] != "images"
    head = {
        "library_name": "timm" if is_timms else "pytorch",
        "pipeline_tag": "image-classification" if is_classifier else "unconditional-image-generation",
    }
    classes = metadata["classes"]
    named = visible(listed(classes, MOST_CLASSES))
    facts = {"trained on": images, "classes": f"{len(classes)}: {named}" if classes else "none"}
    facts |= {"labels": metadata["labels"]} if classes else {}
    facts |= {f"input {name}": text for name, text in metadata["inputs"].items()}
    facts |= {key: json.dumps(metadata[key]) for key in ("output", "mean", "std")}
    facts["fingerprint of the images"] = metadata["data"]
    parts = [
        "\n".join(["---", *(f"{key}: {value}" for key, value in head.items()), "---"]),
        f"# {metadata['model']}, run {metadata['run']}",
        f"```python\n{usage(metadata, is_timms)}```",
        *([OVER_WHITE] if is_classifier else []),
        table("", "", facts),
        "## Results",
        table("metric", "value", {name: shown(name, value) for name, value in metrics.items()}),
        "## Settings",
        table("setting", "value", settings),
    ]
    if is_timms and metadata["seen_size"] != metadata["size"]:
        note = f"""In the run, images of {metadata["image_size"]} pixels were made of the pictures first, and then
            resized to {metadata["size"]}; the figures hold for images that are prepared so."""
        parts.insert(parts.index("## Results"), textwrap.fill(" ".join(note.split()), 120))
    return "\n\n".join(parts) + "\n"


def table(first: str, second: str, rows: Mapping[str, Any]) -> str:
    """Return a table of two columns in Markdown."""
    lines = [f"| {first} | {second} |", "|---|---|"]
    cells = ((key, visible(value).replace("|", r"\|")) for key, value in rows.items())
    return "\n".join([*lines, *(f"| {key} | {value} |" for key, value in cells)])
