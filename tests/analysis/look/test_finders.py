import math
import re
from types import SimpleNamespace

import pytest
import torch

import train
from analysis.look import finders
from analysis.look.finders import Tried, smooth, steepest_fall
from analysis.record import run_folder


def run(tmp_path, *arguments):
    own = ["--dataset=digits", "--tracking=off", f"--runs_dir={tmp_path}"]
    return train.main([*own, *arguments])


def test_the_average_of_equal_losses_is_that_loss():
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])


def test_the_average_lags_behind_neither_way():
    losses = [1 / (1 + math.exp((step - 60) / 4)) for step in range(120)]  # falls steepest at step 60
    assert steepest_fall(smooth(losses)) == 60


def test_the_steepest_fall_is_the_middle_of_the_greatest_difference():
    assert steepest_fall([5.0, 4.9, 4.0, 2.0, 1.5, 1.4]) == 2


def test_losses_that_hardly_differ_are_written_in_full(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    shown = []

    def show(figure, *_, **__):
        figure.draw_without_rendering()
        shown.append(figure.axes[0].yaxis.get_offset_text().get_text())

    monkeypatch.setattr(Figure, "savefig", show)
    finders.draw(tmp_path / "a.png", [0.1, 0.2], [0.510001, 0.51], [0.510001, 0.51], 0.1)
    assert shown == [""]


@pytest.mark.parametrize("least", [80, 52])
def test_a_schedule_may_rise_to_a_third_of_the_rate_of_the_least_loss(least, tmp_path, monkeypatch, capsys):
    def rate(step):
        return 10 ** (-6 + 7 * step / 119)

    losses = [10.0] * 50 + [5 + 0.01 * abs(step - least) for step in range(50, 120)]  # falls steepest at step 50
    monkeypatch.setattr(finders, "SMOOTHING", 0.0)
    monkeypatch.setattr(finders, "take_steps", lambda trainer, num: iter(losses))
    monkeypatch.setattr(finders, "draw", lambda *told: None)
    settings = SimpleNamespace(lr=1e-3, model="mlp", dataset="digits", runs_dir=str(tmp_path))
    finders.find_lr(SimpleNamespace(settings=settings, phases=[SimpleNamespace(searches=False)]))
    told, advice = capsys.readouterr().out.splitlines()
    assert f"at lr {rate(50):.2g}, and is least at {rate(least):.2g}: " in told
    highest = f", or up to {rate(80) / 3:.2g} with a schedule" if least == 80 else ""  # elsewhere that is no more
    assert advice == f"try --lr={rate(50):.2g}{highest}"


@pytest.mark.parametrize("shift", [0.0, -7.5, -10.0, -1e4, 1e4])  # of losses that have no least value, as densities'
def test_what_is_added_to_all_losses_changes_no_rate_and_they_are_taken_until_they_diverge(
    shift, tmp_path, monkeypatch, capsys
):
    noise = torch.randn(120, generator=torch.Generator().manual_seed(0)).tolist()
    falling = [10.0] * 50 + [10 - 5 * step / 30 for step in range(30)] + [5.0] * 20 + [1e5] * 20
    losses = [value + 0.1 * odd + shift for value, odd in zip(falling, noise, strict=True)]
    taken, told = [], []
    monkeypatch.setattr(finders, "take_steps", lambda trainer, num: (taken.append(loss) or loss for loss in losses))
    monkeypatch.setattr(finders, "draw", lambda path, rates, *_: told.append(rates))
    settings = SimpleNamespace(lr=1e-3, model="vae", dataset="digits", runs_dir=str(tmp_path))
    finders.find_lr(SimpleNamespace(settings=settings, phases=[SimpleNamespace(searches=False)]))
    assert [len(taken), len(told[0])] == [101, 100]
    advice = capsys.readouterr().out.splitlines()[1]
    monkeypatch.setattr(finders, "take_steps", lambda trainer, num: iter([loss - shift for loss in losses[:100]]))
    finders.find_lr(SimpleNamespace(settings=settings, phases=[SimpleNamespace(searches=False)]))
    assert capsys.readouterr().out.splitlines()[1] == advice


def test_what_the_first_losses_differ_by_chance_is_no_fall(monkeypatch, capsys):
    losses = [4.0, 13.0, 3.0] + [10.0] * 47 + [10 - step / 6 for step in range(30)] + [1e5]
    monkeypatch.setattr(finders, "take_steps", lambda trainer, num: iter(losses))
    monkeypatch.setattr(finders, "draw", lambda *told: None)
    settings = SimpleNamespace(lr=1e-3, model="mlp", dataset="digits", runs_dir="runs")
    finders.find_lr(SimpleNamespace(settings=settings, phases=[SimpleNamespace(searches=False)]))
    found = float(re.search(r"try --lr=([\d.e-]+)", capsys.readouterr().out)[1])
    assert 10 ** (-6 + 7 * 50 / 119) < found < 10 ** (-6 + 7 * 79 / 119)


@pytest.mark.slow
def test_the_learning_rate_found_trains_better_than_far_lower_and_higher_ones(tmp_path, capsys):
    model = ("--model=mlp", "--width=32")
    assert run(tmp_path, *model, "--find_lr") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["find_lr_mlp_digits.png"]
    found = float(re.search(r"try --lr=([\d.e-]+)", capsys.readouterr().out)[1])
    losses = {}
    for factor in (1 / 30, 1, 100):
        code = run(tmp_path, *model, f"--lr={factor * found}", "--epochs=3", f"--run_id=x{factor}")
        losses[factor] = run_folder.read_metrics(tmp_path / f"x{factor}")[2]["val/loss"] if code == 0 else 1e9
    assert min(losses, key=losses.get) == 1, losses


def test_a_run_that_has_begun_is_looked_at_from_its_first_step(tmp_path, monkeypatch):
    losses = []

    def take_steps(trainer, num):
        losses.append(list(take(trainer, num)))
        return losses[-1]

    take = finders.take_steps
    monkeypatch.setattr(finders, "take_steps", take_steps)
    monkeypatch.setattr(finders, "NUM_STEPS", 20)
    monkeypatch.setattr(finders, "NUM_FLAT", 2)
    small = ("--model=mlp", "--width=8", "--batch_size=64", "--limit_batches=4", "--epochs=9")
    assert run(tmp_path, *small, "--run_id=a", "--stop_after=3") == 0
    before = (tmp_path / "a" / run_folder.CHECKPOINT).read_bytes()
    assert run(tmp_path, *small, "--run_id=a", "--find_lr") == run(tmp_path, *small, "--find_lr") == 0
    assert losses[0] == losses[1]
    assert (tmp_path / "a" / run_folder.CHECKPOINT).read_bytes() == before


def test_a_model_that_one_rate_does_not_bring_down_is_refused(tmp_path, capsys):
    assert run(tmp_path, "--model=dc_gan", "--width=8", "--find_lr") == 2
    assert "dc_gan has no one loss" in capsys.readouterr().err


@pytest.mark.slow
def test_batches_grow_until_the_images_are_used_up(tmp_path, capsys):
    assert run(tmp_path, "--model=mlp", "--width=8", "--find_batch_size") == 0
    said = capsys.readouterr().out
    sizes = [int(size) for size in re.findall(r"batch size +(\d+):", said)]
    assert sizes == [8, 16, 32, 64, 128, 256, 512, 1024]  # of 1,294 images
    assert int(re.search(r"there are no more images; try --batch_size=(\d+)", said)[1]) in sizes
    assert list(tmp_path.iterdir()) == []


def test_every_step_has_a_whole_batch(tmp_path, monkeypatch):
    sizes = []
    take = finders.Trainer.train_step

    def train_step(trainer, batch):
        sizes.append(len(batch[0]))
        take(trainer, batch)

    monkeypatch.setattr(finders.Trainer, "train_step", train_step)
    monkeypatch.setattr(finders, "NUM_STEPS", 12)
    monkeypatch.setattr(finders, "NUM_FLAT", 2)
    assert run(tmp_path, "--model=mlp", "--width=8", "--find_lr", "--batch_size=500") == 0  # of 1,294 images
    assert set(sizes) == {500}


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ([], 8),
        (["--batch_size=64", "--accumulation_steps=16"], 16),
        (["--batch_size=63", "--accumulation_steps=3"], 9),
        (["--batch_size=64", "--accumulation_steps=8", "--mixup=0.2"], 16),  # which takes two images
    ],
)
def test_sizes_are_multiples_of_what_a_step_is_shared_by(words, first, tmp_path, monkeypatch):
    sizes = []

    def train_step(trainer, batch):
        sizes.append(len(batch.labels))
        take(trainer, batch)

    take = finders.Trainer.train_step
    monkeypatch.setattr(finders.Trainer, "train_step", train_step)
    monkeypatch.setattr(finders, "why_to_stop", lambda trainer, tried: "enough" if len(tried) == 2 else "")
    assert run(tmp_path, "--model=mlp", "--width=8", "--find_batch_size", *words) == 0
    assert sorted(set(sizes)) == [first, 2 * first]


def test_a_model_of_whole_batches_has_no_size_to_find(tmp_path, capsys):
    words = ("--model=logistic_probe", "--arch=test_efficientnet", "--pretrained=False", "--input_size=32")
    assert run(tmp_path, *words, f"--feature_dir={tmp_path}", "--find_batch_size") == 2
    assert "--find_batch_size: logistic_probe takes all images in each step: leave it out" in capsys.readouterr().err


def test_fewer_images_than_the_first_size_are_told(tmp_path, capsys):
    words = ("--model=mlp", "--train_fraction=0.005", "--batch_size=2")
    assert run(tmp_path, *words, "--find_batch_size") == 2
    assert "--find_batch_size begins with 8 images, and there are 6 to train on: take more" in capsys.readouterr().err


@pytest.mark.parametrize(("speeds", "told"), [((100, 103), "=8: larger ones are"), ((100, 200), "=16: the fastest")])
def test_larger_batches_are_spoken_of_where_there_were_some(tmp_path, monkeypatch, capsys, speeds, told):
    speed = dict(zip((8, 16), speeds, strict=True))
    monkeypatch.setattr(finders, "try_batch_size", lambda trainer, size: Tried(size, speed[size], 1.0))
    monkeypatch.setattr(finders, "why_to_stop", lambda trainer, tried: "enough" if len(tried) == 2 else "")
    assert run(tmp_path, "--model=mlp", "--width=8", "--find_batch_size") == 0
    assert f"enough; try --batch_size{told}" in capsys.readouterr().out


def test_a_size_that_does_not_fit_ends_the_search(tmp_path, monkeypatch, capsys):
    def try_batch_size(trainer, size):
        if size == 32:
            raise MemoryError("no")
        return Tried(size, {8: 100.0, 16: 103.0}[size], 1.0)

    monkeypatch.setattr(finders, "try_batch_size", try_batch_size)
    assert run(tmp_path, "--model=mlp", "--width=8", "--find_batch_size") == 0
    assert "32 images do not fit into the memory; try --batch_size=8:" in capsys.readouterr().out
