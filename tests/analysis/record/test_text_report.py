import json
from dataclasses import asdict

import pytest
from PIL import Image
from torch import nn

from analysis.record import run_folder
from analysis.record.text_report import draw_curves, network_lines, report
from data.errors import UserError
from data.files import write_json
from models.core.settings import Settings

SUMMARY = {
    "state": "finished",
    "network": "embed:Conv2d 1,536; head:Linear 2,570",
    "num_parameters": 7_690,
    "total_parameters": 85_806_346,
    "train_seconds": 125.4,
    "images_per_second": 12_345.6,
    "best_epoch": 2,
    "val/loss": 0.51239,
    "val/accuracy": 0.81239,
}


def write_run(folder, **summary):
    (folder / run_folder.PANELS).mkdir(parents=True)
    settings = Settings(run_id="abc", lr=0.0123, weight_decay=0.25, tags="night")
    write_json(folder / run_folder.SETTINGS, asdict(settings))
    write_json(folder / run_folder.ENVIRONMENT, {"device": "Abacus 9", "num_processes": 2})
    write_json(folder / run_folder.SUMMARY, {**SUMMARY, **summary})
    rows = [{"epoch": n, "lr": 0.1, "train/classify/loss": 1 / n, "val/loss": 2 / n} for n in (1, 2, 3)]
    (folder / run_folder.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return " ".join(report(folder).split())


def test_the_report_tells_what_was_run_and_what_came_of_it(tmp_path):
    text = write_run(tmp_path, **{"test/loss": 0.61239, "test/accuracy": 0.7})
    for part in (
        "cnn on cifar10: run abc, finished",
        "lr=0.0123 seed=3407",
        "weight_decay=0.25",
        "tags=night",
        "embed:Conv2d 1,536; head:Linear 2,570",
        "7,690 trainable of 85,806,346",
        "Abacus 9, 2 processes",
        "2m05s of training, 12,346 images/s",
        "validation loss 0.5124, accuracy 81.24 % (epoch 2, whose weights are kept)",
        "test loss 0.6124, accuracy 70.00 % (read once)",
    ):
        assert part in text
    assert min(Image.open(tmp_path / "curves.png").size) > 100


@pytest.fixture
def axes_of(tmp_path, monkeypatch):
    """A function that draws the curves of rows and returns the axes drawn."""
    from matplotlib.figure import Figure

    def drawn_axes(rows):
        drawn = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
        draw_curves(rows, tmp_path / "curves.png")
        [figure] = drawn
        figure.draw_without_rendering()
        return figure.axes

    return drawn_axes


def test_a_plot_has_the_curves_of_one_quantity(axes_of):
    keys = ("train/autoencode/loss", "train/prior/loss", "val/loss", "val/prior")
    plots = [
        axes.get_legend_handles_labels()[1] for axes in axes_of([{"epoch": 1, "lr": 0.1, **dict.fromkeys(keys, 1.0)}])
    ]
    assert plots == [["train/autoencode/loss", "val/loss"], ["train/prior/loss", "val/prior"]]
    [plot] = axes_of([{"epoch": 1, "lr": 0.1, "train/generator/loss": 1.0, "train/discriminator/loss": 2.0}])
    assert plot.get_ylabel() == "loss"


def test_an_axis_of_the_curves_has_its_numbers_in_full(axes_of):
    rows = [{"epoch": n, "lr": 0.1, "train/autoencode/active_units": 15.98 if n == 1 else 16.0} for n in range(1, 31)]
    [axes] = axes_of(rows)
    assert axes.yaxis.get_offset_text().get_text() == ""  # else a tick of 0.01 beside "+1.599e1" is one of 16
    labels = [float(label.get_text().replace("\N{MINUS SIGN}", "-")) for label in axes.get_yticklabels()]
    assert labels == pytest.approx(list(axes.get_yticks()))


def test_the_report_of_a_run_without_test_figures_has_no_line_for_them(tmp_path):
    assert "read once" not in write_run(tmp_path)


def test_the_network_is_told_by_its_parts():
    objective = nn.ModuleDict({"net": nn.Sequential(nn.Linear(100, 20), nn.ReLU(), nn.Linear(20, 3))})
    assert network_lines(objective) == "0:Linear 2,020; 2:Linear 63"
    several = nn.ModuleDict(
        {"noise": nn.Identity(), "first": objective["net"], "second": nn.Sequential(nn.Linear(2, 3))}
    )
    assert network_lines(several) == "first.0:Linear 2,020; first.2:Linear 63; second.0:Linear 9"


def test_the_axis_of_a_single_epoch_has_one_tick(axes_of):
    [axes] = axes_of([{"epoch": 1, "lr": 0.1, "val/loss": 1.0}])
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


@pytest.mark.parametrize("name", [run_folder.SETTINGS, run_folder.ENVIRONMENT, run_folder.SUMMARY])
@pytest.mark.parametrize("content", ["{}", '{"device": [1]}', '{"num_parameters": "many", "network": 3}'])
def test_a_run_with_a_damaged_file_is_told_in_one_line(tmp_path, name, content):
    write_run(tmp_path / "abc")
    (tmp_path / "abc" / name).write_text(content)
    if name == run_folder.SUMMARY and content == "{}":  # as where it was killed
        return
    with pytest.raises(UserError, match="abc is damaged .*: restore its files") as caught:
        report(tmp_path / "abc")
    assert "\n" not in str(caught.value)
