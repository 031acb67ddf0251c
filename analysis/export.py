"""A trained network for use outside, by `python -m analysis.export RUN --to onnx`.

timm         weights that timm.create_model(ARCH, checkpoint_path=FILE, num_classes=N) loads, of a network of timm
hf           a folder for the Hugging Face hub: model.safetensors, config.json and a page, README.md
onnx         ONNX, by `pip install -e '.[export]'`
pt2          a program of torch.export
torchscript  TorchScript

onnx, pt2 and torchscript have the preprocessing in them: they take images as they come, uint8 [batch, H, W, 3] of the
run's size, and give probabilities [batch, classes]. A generator takes latents [batch, Z], drawn from N(0, 1), and where
it is conditional labels [batch], and gives images [batch, H, W, 3] in [0, 1]; that of a vq_vae takes noise
[batch, T, K] from the exponential distribution, by which its prior draws T codes of K. The names of the classes are in
the metadata. What was written is loaded again, and its outputs are compared with the run's own.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from analysis.command_line import parser_of_a_look, path, run_program
from analysis.look.exports import FORMATS, Exportable, export, greatest_difference
from analysis.look.picture_files import find_pictures
from analysis.look.prediction import read_pictures, tell_unread
from analysis.look.timm_export import to_hub, to_timm
from analysis.look.trained_run import load_network
from analysis.read.runs import find_run
from data.errors import UserError
from data.files import check_can_be_made
from data.visible import counted, say

ENDS = {"timm": ".safetensors", "hf": "", **{form: end for form, (end, _) in FORMATS.items()}}


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of_a_look("export", __doc__)
    parser.add_argument("--to", choices=list(ENDS), required=True, help="the format, see above")
    parser.add_argument("--out", type=path, metavar="PATH", help="default: export/ in the run's folder")
    parser.add_argument(
        "--check", nargs="+", default=[], type=path, metavar="PATH", help="pictures to compare the outputs on, too"
    )
    parser.add_argument(
        "--generator", action="store_true", help="of a model that classifies and draws images, export what draws"
    )
    return parser.parse_args(arguments)


def place(options: Namespace, folder: Path) -> Path:
    """Return where to write.

    Raises:
        UserError: the name has the wrong end, would replace a folder that is not empty, or cannot be written.
    """
    end = ENDS[options.to]
    out: Path = options.out or folder / "export" / (f"network{end}" if end else options.to)
    if end and out.suffix != end:
        raise UserError(f"--out={out}: give a file name that ends in {end}")
    if not end and options.out and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out={out} is not an empty folder: name a new one")
    check_can_be_made(out.parent, "name another by --out")
    return out


def pictures(paths: Sequence[Path], network: Exportable) -> list[tuple[Tensor, ...]]:
    """Return pictures as inputs of a classifier; nothing for no paths.

    Raises:
        UserError: a generator takes no pictures, or none can be read.
    """
    if not paths:
        return []
    if "images" not in network.inputs:
        raise UserError(f"--check={paths[0]}: a generator takes no pictures: leave it out")
    info, unread = network.run.info, dict[Path, str]()
    whole, images, _ = read_pictures(find_pictures(paths, info), [info.kept_size], unread)
    tell_unread(unread, is_nothing_left=not whole)
    return [(images[info.kept_size].permute(0, 2, 3, 1).contiguous(),)]


def write(options: Namespace) -> None:
    """Export a run's network, compare it, and print where it is and how it is loaded."""
    folder = find_run(options.run)
    out = place(options, folder)
    network = Exportable(load_network(folder, options.data_dir), options.generator)
    inputs = [network.examples, *pictures(options.check, network)]
    how = ""
    if options.to == "timm":
        runner, how = to_timm(network, out)
    elif options.to == "hf":
        runner, how = to_hub(network, out, folder)
    else:
        runner = export(network, options.to, out)
    difference = max(greatest_difference(network, runner, each) for each in inputs)
    num = counted(sum(len(each[0]) for each in inputs), "input")
    say(*filter(None, (how, f"outputs differ by at most {difference:.1e} on {num}", out)))


def main(arguments: Sequence[str]) -> int:
    """Export, or say in one line what keeps it from being done; return the exit code."""
    return run_program("export", lambda: write(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
