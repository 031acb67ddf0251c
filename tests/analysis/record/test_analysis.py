import csv
import json
import socket
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from analysis.look import panels
from analysis.look.classification import NUM_MISTAKES, analyse_classifier, calibrate, mistakes_panel
from analysis.look.panels import Panel, draw_grid
from analysis.record import run_folder
from analysis.record.text_report import network_lines, report
from analysis.record.tracker import Tracker, automatic_mode
from data import network
from data.dataset import DatasetInfo, Split
from data.errors import UserError
from data.loader import Loader
from models.core.settings import Settings

INFO = DatasetInfo("synthetic", 2, ("ant", "bee", "cat"), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), {}, "")


def read_image(path):
    with Image.open(path) as image:
        image.load()
        return image


def test_calibration_by_hand():
    probabilities = np.array([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]])  # confidence .6 .8 .9 .7
    labels = np.array([0, 0, 0, 0])  # right but for the second
    calibration = calibrate(probabilities, labels, num_bins=5)  # bins hold their upper end
    np.testing.assert_allclose(calibration.confidence, [np.nan, np.nan, 0.6, 0.75, 0.9])
    np.testing.assert_allclose(calibration.accuracy, [np.nan, np.nan, 1.0, 0.5, 1.0])
    np.testing.assert_allclose(calibration.share, [0, 0, 0.25, 0.5, 0.25])
    assert calibration.error == pytest.approx(0.25 * 0.4 + 0.5 * 0.25 + 0.25 * 0.1)


def test_a_perfectly_calibrated_classifier_has_no_calibration_error():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 50_000)
    labels = (random.random(50_000) >= confidence).astype(int)  # class 0 as often as it is promised
    assert calibrate(np.stack([confidence, 1 - confidence], axis=1), labels).error < 0.01


def test_always_sure_and_half_right_is_a_calibration_error_of_a_half():
    probabilities = np.tile([1.0, 0.0], (10, 1))
    assert calibrate(probabilities, np.arange(10) % 2).error == 0.5


@pytest.fixture
def six_images():
    """Six images that hold their own number, in two batches, and a classifier that looks their logits up."""
    sure = [(0, 0.9), (0, 0.62), (1, 0.82), (1, 0.7), (2, 0.95), (2, 0.5)]  # predicted class, confidence
    probabilities = torch.tensor([[p if c == k else (1 - p) / 2 for c in range(3)] for k, p in sure])
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    return lambda images: probabilities.log()[images[:, 0, 0, 0].round().long()], numbered_images(labels)


def numbered_images(labels):
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    info = replace(INFO, mean=(0.0,) * 3, std=(1 / 255,) * 3)  # so that a network is given the numbers themselves
    return Loader(Split(images, labels), info, torch.device("cpu"))


def test_a_classifiers_figures_by_hand(six_images, tmp_path):
    analysis = analyse_classifier(*six_images, 4, INFO.classes, tmp_path)
    with (tmp_path / "per_class.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "precision", "recall", "f1-score", "support"]
    assert [row[0] for row in rows] == ["ant", "bee", "cat"]
    expected = [[1, 2 / 3, 0.8, 3], [1 / 2, 1 / 2, 1 / 2, 2], [1 / 2, 1, 2 / 3, 1]]
    np.testing.assert_allclose([list(map(float, row[1:])) for row in rows], expected, atol=1e-4)
    assert [list(map(str, row)) for row in analysis.tables["per_class"].rows] == rows
    # Each image has a bin of its own.
    assert analysis.metrics["ece"] == pytest.approx((0.1 + 0.38 + 0.82 + 0.3 + 0.95 + 0.5) / 6)


def test_a_classifiers_pictures_are_written(six_images, tmp_path):
    analysis = analyse_classifier(*six_images, 4, INFO.classes, tmp_path)
    assert analysis.images == {
        name: tmp_path / f"{name}.png" for name in ("confusion_matrix", "reliability", "mistakes")
    }
    for path in analysis.images.values():
        assert min(read_image(path).size) > 100


def test_without_a_mistake_there_is_no_picture_of_mistakes(six_images, tmp_path):
    predict, loader = six_images
    flawless = numbered_images(predict(loader.batch(torch.arange(6)).images).argmax(1))
    assert "mistakes" not in analyse_classifier(predict, flawless, 4, INFO.classes, tmp_path).images
    assert not (tmp_path / "mistakes.png").exists()


def test_mistakes_come_surest_first(six_images):
    predict, loader = six_images
    images, labels = loader.batch(torch.arange(6))
    panel = mistakes_panel(loader, INFO.classes, predict(images).softmax(1), labels)
    assert panel.captions == ("bee as cat", "ant as bee")  # .95 and .82
    assert panel.marks == (False, False)
    torch.testing.assert_close(panel.images, images[[4, 2]] / 255)


def test_only_the_worst_mistakes_are_shown():
    confidence = torch.linspace(0.5, 0.9, NUM_MISTAKES + 5)
    probabilities = torch.stack([confidence, 1 - confidence, torch.zeros_like(confidence)], dim=1)
    loader = numbered_images(torch.ones(NUM_MISTAKES + 5, dtype=torch.long))
    panel = mistakes_panel(loader, INFO.classes, probabilities, loader.labels)
    shown = (panel.images[:, 0, 0, 0] * 255).round().tolist()
    assert shown == list(reversed(range(5, NUM_MISTAKES + 5)))


@pytest.fixture
def small_grids(monkeypatch):
    monkeypatch.setattr(panels, "MIN_SIDE", 64)


def plain_tiles(*colours):
    return torch.tensor(colours, dtype=torch.float32)[:, :, None, None].expand(-1, 3, 32, 32)


@pytest.mark.usefixtures("small_grids")
def test_a_grid_goes_row_by_row_with_a_white_gap():
    picture = draw_grid(Panel(plain_tiles((1, 0, 0), (0, 1, 0), (0, 0, 0.2)), columns=2))
    # Tiles of 32 pixels are shown twice as large, 4 pixels apart.
    assert picture.size == (4 + 64 + 4 + 64 + 4, 4 + 64 + 4 + 64 + 4)
    white, red, green, blue = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 51)
    at = {(3, 3): white, (4, 4): red, (67, 67): red, (68, 67): white, (71, 4): white, (72, 4): green}
    at |= {(135, 67): green, (136, 4): white, (4, 71): white, (4, 72): blue, (67, 135): blue, (100, 100): white}
    assert {place: picture.getpixel(place) for place in at} == at


@pytest.mark.usefixtures("small_grids")
def test_small_images_are_enlarged_without_smoothing_and_large_ones_left_alone():
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, :, ::2] = 1
    picture = draw_grid(Panel(pixels))
    assert {colour for _, colour in picture.getcolors()} == {(0, 0, 0), (255, 255, 255)}
    assert draw_grid(Panel(torch.zeros(1, 3, 100, 75))).size == (4 + 75 + 4, 4 + 100 + 4)


@pytest.mark.usefixtures("small_grids")
@pytest.mark.parametrize("marks", [(True, False), (False, True), ()])
def test_captions_are_green_for_right_red_for_wrong_and_else_grey(marks):
    picture = draw_grid(Panel(torch.zeros(2, 3, 32, 32), ("HHH", "HHH"), marks))
    assert picture.size == (4 + 64 + 4 + 64 + 4, 4 + 64 + 16 + 4)
    for i, left in enumerate((4, 72)):
        below = picture.crop((left, 4 + 64, left + 64, 4 + 64 + 16))
        red, green, _ = np.asarray(below, dtype=float).mean(axis=(0, 1))
        assert red < 255
        assert np.sign(green - red) == ((1 if marks[i] else -1) if marks else 0)


def test_replacing_a_file_leaves_nothing_else(tmp_path):
    run_folder.replace_file(tmp_path / "a.txt", lambda path: path.write_text("old"))
    run_folder.replace_file(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "new"}


def test_a_failed_write_keeps_the_old_file_and_no_temporary_one(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write_half(path):
        path.write_text("ne")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        run_folder.replace_file(tmp_path / "a.txt", write_half)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


@pytest.mark.parametrize("rest", ["", '{"epoch": 3, "los', '{"epoch": 3\n{"epoch": 4}\n'])
def test_metrics_end_before_a_line_that_was_cut(rest, tmp_path):
    (tmp_path / run_folder.METRICS).write_text('{"epoch": 1}\n{"epoch": 2}\n' + rest)
    assert run_folder.read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]


def test_a_run_without_metrics_has_none(tmp_path):
    assert run_folder.read_metrics(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (None, "unfinished"),
        ("", "unfinished"),
        ('{"state": "fini', "unfinished"),
        ('{"state": "finished"}', "finished"),
        ('{"state": "stopped"}', "stopped"),
        ('{"state": "failed"}', "failed"),
    ],
)
def test_the_state_of_a_run_is_what_its_summary_says(text, state, tmp_path):
    if text is not None:
        (tmp_path / run_folder.SUMMARY).write_text(text)
    assert run_folder.state(tmp_path) == state


def test_a_file_in_place_of_the_runs_folder_holds_no_run(tmp_path):
    (tmp_path / "runs").write_text("")
    assert run_folder.state(tmp_path / "runs" / "a") == "unfinished"
    assert run_folder.latest_unfinished(tmp_path / "runs") is None


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
    run_folder.write_json(folder / run_folder.SETTINGS, asdict(settings))
    run_folder.write_json(folder / run_folder.ENVIRONMENT, {"device": "Abacus 9", "num_processes": 2})
    run_folder.write_json(folder / run_folder.SUMMARY, {**SUMMARY, **summary})
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
        "Abacus 9, 2 process(es)",
        "2m05s of training, 12,346 images/s",
        "validation loss 0.5124, accuracy 81.24% (epoch 2, whose weights are kept)",
        "test loss 0.6124, accuracy 70.00% (read once)",
    ):
        assert part in text
    assert min(read_image(tmp_path / "curves.png").size) > 100


def test_the_report_of_a_run_without_test_figures_has_no_line_for_them(tmp_path):
    assert "read once" not in write_run(tmp_path)


def test_the_network_is_told_by_its_parts():
    objective = nn.ModuleDict({"net": nn.Sequential(nn.Linear(100, 20), nn.ReLU(), nn.Linear(20, 3))})
    assert network_lines(objective) == "0:Linear 2,020; 2:Linear 63"


@pytest.fixture
def account(tmp_path, monkeypatch):
    """What W&B knows of the user, with credentials or without; nothing of it comes from this machine."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def make(base_url, api_key=None, identity_token_file=None):
        return SimpleNamespace(base_url=base_url, api_key=api_key, identity_token_file=identity_token_file)

    return make


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_without_credentials_the_run_is_offline_and_says_why(account, server):
    mode, reason = automatic_mode(account(f"http://127.0.0.1:{server.getsockname()[1]}"))
    assert mode == "offline"
    assert "wandb login" in reason


def test_without_a_connection_the_run_is_soon_offline_and_says_why(account, server):
    port = server.getsockname()[1]
    server.close()
    started = time.monotonic()
    mode, reason = automatic_mode(account(f"http://127.0.0.1:{port}", api_key="secret"))
    assert mode == "offline"
    assert "no connection to 127.0.0.1" in reason
    assert "secret" not in reason
    assert time.monotonic() - started < network.TIMEOUT_SECONDS


def test_a_server_that_does_not_answer_is_given_up_in_time(account, monkeypatch):
    monkeypatch.setattr(network, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        for _ in range(3):  # which fills the queue of connections, so that the next one hangs
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        started = time.monotonic()
        mode, _ = automatic_mode(account(f"http://127.0.0.1:{full.getsockname()[1]}", api_key="secret"))
        seconds = time.monotonic() - started
        for client in waiting:
            client.close()
    assert mode == "offline"
    assert 0.1 < seconds < 2


@pytest.mark.parametrize("source", ["api_key", "identity_token_file", "netrc"])
def test_with_credentials_and_a_connection_the_run_is_online(source, account, server, tmp_path):
    credentials = {source: "secret"}
    if source == "netrc":
        (tmp_path / "netrc").write_text("machine 127.0.0.1\nlogin user\npassword secret\n")
        (tmp_path / "netrc").chmod(0o600)
        credentials = {}
    settings = account(f"http://127.0.0.1:{server.getsockname()[1]}", **credentials)
    assert automatic_mode(settings) == ("online", "")


@pytest.mark.parametrize(("asked", "mode"), [("offline", "offline"), ("online", "online"), ("disabled", "off")])
def test_wandb_mode_is_obeyed(asked, mode, account, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", asked)
    assert automatic_mode(account("https://api.wandb.ai")) == (mode, f" (WANDB_MODE={asked})")


def track(folder, num_logged=0, **settings):
    values = asdict(Settings(tracking="off", run_id=folder.name, **settings))
    return Tracker(folder, values, {"device": "Abacus 9"}, {}, num_logged)


def test_an_untracked_run_is_written_to_its_folder(tmp_path):
    folder = tmp_path / "runs" / "a"
    tracker = track(folder, lr=0.5)
    assert tracker.wandb_run is None
    tracker.log({"epoch": 1, "val/loss": 0.25})
    assert run_folder.read_metrics(folder) == [{"epoch": 1, "val/loss": 0.25}]  # flushed at once
    tracker.log({"epoch": 2, "val/loss": 0.125})
    assert run_folder.state(folder) == "unfinished"
    tracker.finish("finished", {"val/loss": 0.125})
    assert json.loads((folder / "settings.json").read_text())["lr"] == 0.5
    assert json.loads((folder / "environment.json").read_text()) == {"device": "Abacus 9"}
    assert (folder / "metrics.jsonl").read_text().count("\n") == 2
    assert json.loads((folder / "summary.json").read_text()) == {"state": "finished", "val/loss": 0.125}


@pytest.mark.parametrize("num_logged", [0, 2, 3])
def test_a_resumed_run_forgets_what_was_logged_after_its_checkpoint(num_logged, tmp_path):
    tracker = track(tmp_path)
    for epoch in (1, 2, 3):
        tracker.log({"epoch": epoch, "run": 1})
    tracker.finish("stopped", {})
    tracker = track(tmp_path, num_logged=num_logged)
    assert run_folder.state(tmp_path) == "unfinished"
    assert tracker.num_logged == num_logged
    tracker.log({"epoch": num_logged + 1, "run": 2})
    kept = [{"epoch": epoch, "run": 1} for epoch in range(1, num_logged + 1)]
    assert run_folder.read_metrics(tmp_path) == [*kept, {"epoch": num_logged + 1, "run": 2}]
    tracker.finish("finished", {})


@pytest.mark.parametrize("name", ["runs", "runs/a"])
def test_a_folder_that_cannot_be_made_is_the_users_to_put_right(name, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="cannot be written.*--runs_dir"):
        track(tmp_path / name)


def test_tracking_online_without_credentials_is_refused_before_anything_is_written(account, tmp_path, monkeypatch):
    monkeypatch.setattr("wandb.setup", lambda: SimpleNamespace(settings=account("https://api.wandb.ai")))
    settings = asdict(Settings(tracking="online", run_id="a"))
    with pytest.raises(UserError, match="wandb login"):
        Tracker(tmp_path / "runs" / "a", settings, {}, {})
    assert not (tmp_path / "runs").exists()
