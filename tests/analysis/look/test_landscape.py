import copy
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from analysis.landscape import main
from analysis.look import hessian, landscape_figures, landscape_runs
from analysis.look.hessian import hessian_product, top_eigenvalues
from analysis.look.landscape import Losses, LossFunction, difference, line, plane, random_direction
from analysis.look.landscape_figures import barrier, draw_lines, draw_planes, draw_ways, new_figure
from analysis.look.landscape_runs import Plan, chance_of, in_words, summary_of
from analysis.look.matching import matched
from analysis.look.trained_run import TrainedRun
from analysis.record import run_folder
from data.dataset import Split
from data.errors import UserError
from data.files import write_json
from models.core import checkpoint
from models.loading import build_objective, read_data
from models.parts.classification import Classification, ClassifierSettings
from models.registry import MODELS
from tests.models.test_objectives import INFO, build, make_batch, train_step

pytestmark = pytest.mark.usefixtures("one_thread")
NUM = 12


def images(num=NUM):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (num, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.arange(num) % 10)


def run_of(objective):
    return TrainedRun(objective.settings, INFO, {"train": images()}, objective.eval())


def trained(name, seed=3407, num_steps=2, **settings):
    objective = build(name, seed=seed, eval_batch_size=NUM, **settings)
    for step in range(num_steps):
        train_step(objective.train(), objective.phases(), make_batch(objective, 8, seed=step))
    return objective


def tiny():
    """A net of 94 weights on four pixels, with batch norm."""
    net = nn.Sequential(
        nn.AvgPool2d(16), nn.Flatten(), nn.Linear(12, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 10, bias=False)
    )
    objective = Classification(net, ClassifierSettings(eval_batch_size=5), INFO)
    for parameter in objective.parameters():
        nn.init.normal_(parameter)
    return objective


@pytest.mark.parametrize("order", [torch.arange(100), torch.arange(100).view(10, 10).T.flatten()])
def test_every_batch_is_of_all_classes_in_whatever_order_the_images_are(order):
    labels = (torch.arange(100) % 10)[order]  # the classes in turn, and one after another
    split = Split(torch.zeros(100, 3, 32, 32, dtype=torch.uint8), labels)
    objective = tiny()
    objective.settings = replace(objective.settings, eval_batch_size=10)
    function = LossFunction(run_of(objective)._replace(splits={"train": split}), "train", 100)
    assert [batch.labels.bincount().tolist() for batch in function.batches] == [[1] * 10] * 10


def test_the_loss_is_that_of_the_model_in_training_without_its_chance():
    objective = trained("cnn", dropout=0.0)
    function = LossFunction(run_of(objective), "train", NUM)
    batch = function.batches[0]
    expected = objective.train()(batch, "classify")  # batch norm's statistics are the batch's own
    assert function.means(function.weights).tolist() == pytest.approx([v.item() for v in expected.values()], rel=1e-5)


def test_running_statistics_are_kept_where_that_is_asked_for():
    objective = trained("cnn")
    function = LossFunction(run_of(objective), "train", NUM, keep_statistics=True)
    loss = objective.eval().evaluate(function.batches[0])["loss"].mean().item()
    assert function.means(function.weights)[0].item() == pytest.approx(loss, rel=1e-5)
    assert {name for name in function.weights if "running_mean" in name}


def test_constants_of_a_network_without_batch_norm_are_no_running_statistics():
    objective = trained("timm", num_steps=0)
    assert any(buffer.is_floating_point() for buffer in objective.buffers())  # how it normalises images
    function = LossFunction(run_of(objective), "train", NUM, keep_statistics=True)
    assert function.weights.keys() == dict(objective.named_parameters()).keys()


def test_points_are_those_of_a_model_with_these_weights():
    objective = trained("mlp", dropout=0.0)
    function = LossFunction(run_of(objective), "train", NUM)
    ways = [random_direction(function.weights, 0, i) for i in range(2)]
    found = function.along(function.weights, ways, plane(0.5, 3), "test")
    other = copy.deepcopy(objective).eval()
    with torch.no_grad():
        for place, (a, b) in enumerate(plane(0.5, 3)):
            for name, parameter in other.named_parameters():
                parameter.copy_(function.weights[name] + a * ways[0][name] + b * ways[1][name])
            metrics = other.evaluate(function.batches[0])
            assert found.loss[place] == pytest.approx(metrics["loss"].mean().item(), rel=1e-5)
            assert found.accuracy[place] == pytest.approx(metrics["accuracy"].mean().item())


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "nano_vit"])
def test_several_points_at_once_are_what_one_by_one_is(name):
    function = LossFunction(run_of(trained(name, num_steps=0)), "train", NUM)
    ways = [random_direction(function.weights, 0)]
    found = [function.along(function.weights, ways, line(-1, 1, 5), "test", num) for num in (1, 3)]
    np.testing.assert_allclose(found[0].loss, found[1].loss, rtol=1e-3)
    assert found[0].loss.max() > found[0].loss.min()


def test_what_cannot_be_batched_or_kept_in_memory_is_computed_in_smaller_parts(monkeypatch):
    function = LossFunction(run_of(trained("mlp", num_steps=0)), "train", NUM)
    ways, sizes, at = [random_direction(function.weights, 0)], [], function.at
    expected = function.along(function.weights, ways, line(-1, 1, 8), "test")

    def limited(origin, directions, steps):
        sizes.append(len(steps))
        if len(steps) > 4:
            raise torch.OutOfMemoryError
        if len(steps) > 1:
            raise RuntimeError("vmap cannot do this")
        return at(origin, directions, steps)

    monkeypatch.setattr(function, "at", limited)
    found = function.along(function.weights, ways, line(-1, 1, 8), "test", 8)
    assert sizes == [8, 4, *[1] * 8]
    assert np.array_equal(found.loss, expected.loss)


def test_directions_are_as_long_as_each_filter_and_functions_of_their_seed():
    weights = LossFunction(run_of(trained("cnn", num_steps=0)), "train", NUM).weights
    direction = random_direction(weights, 1, 2)
    for name, weight in weights.items():
        if weight.ndim < 2:
            assert not direction[name].any()
        else:
            lengths = [tensor.flatten(1).norm(dim=1) for tensor in (direction[name], weight)]
            torch.testing.assert_close(*lengths)
    again, other = random_direction(weights, 1, 2), random_direction(weights, 1, 3)
    assert all(torch.equal(direction[name], again[name]) for name in weights)
    assert not torch.equal(direction["net.head.1.weight"], other["net.head.1.weight"])


def test_a_filter_of_a_transposed_convolution_is_what_makes_one_of_its_outputs():
    objective = trained("vae", num_steps=0)
    function = LossFunction(run_of(objective), "train", NUM)
    direction = random_direction(function.weights, 0, across=function.across)
    names = [f"{name}.weight" for name, it in objective.named_modules() if isinstance(it, nn.ConvTranspose2d)]
    assert names
    for name in names:
        for i in range(function.weights[name].shape[1]):  # [inputs, outputs, kernel, kernel]
            torch.testing.assert_close(direction[name][:, i].norm(), function.weights[name][:, i].norm())


def test_frozen_norms_keep_their_running_statistics_and_the_others_take_those_of_the_batch():
    objective = trained("timm", arch="test_resnet", frozen_stages=2, stem="own", input_size=32)
    function = LossFunction(run_of(objective), "train", NUM)
    loss = objective.train()(function.batches[0], "classify")["loss"].item()  # as in training
    assert function.means(function.weights)[0].item() == pytest.approx(loss, rel=1e-5)


def test_slices_do_not_depend_on_the_size_of_weights_below_a_batch_norm():
    objective = trained("cnn")
    large = copy.deepcopy(objective)
    with torch.no_grad():
        for key in ("features.0.weight", "features.0.bias", "features.4.weight", "features.4.bias"):
            large.net.get_parameter(key).mul_(50)  # which batch norm divides by again
    losses = []
    for each in (objective, large):
        function = LossFunction(run_of(each), "train", NUM)
        way = random_direction(function.weights, 0)
        losses.append(function.along(function.weights, [way], line(-1, 1, 5), "test").loss)
    np.testing.assert_allclose(*losses, rtol=0.02)


def dense_hessian(function):
    names, shapes = zip(*((name, w.shape) for name, w in function.weights.items()), strict=True)

    def loss(flat):
        parts = flat.split([math.prod(shape) for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        total = 0
        for batch in function.batches:
            values = {f"objective.{name}": weight for name, weight in weights.items()}
            total = total + functional_call(function.evaluated, values, (batch.images, batch.labels))["loss"].sum()
        return total / function.num_images

    flat = torch.cat([weight.flatten() for weight in function.weights.values()])
    return torch.autograd.functional.hessian(loss, flat)


def test_eigenvalues_are_those_of_the_dense_hessian():
    function = LossFunction(run_of(tiny()), "train", NUM)
    assert len(function.batches) > 1
    dense = dense_hessian(function)
    expected = torch.linalg.eigvalsh(dense.double()).flip(0)[:4].numpy()
    np.testing.assert_allclose(top_eigenvalues(function, 4, seed=0), expected, rtol=1e-3)
    vector = torch.randn(len(dense))
    torch.testing.assert_close(
        hessian_product(function, function.weights, vector), dense @ vector, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("factor", [0.0, math.nan])
def test_a_curvature_of_0_or_no_number_ends_in_one_line(factor, monkeypatch):
    monkeypatch.setattr(hessian, "hessian_product", lambda function, weights, vector: factor * vector)
    with pytest.raises(UserError, match="^--eigenvalues=2: .* give --eigenvalues=0$"):
        top_eigenvalues(LossFunction(run_of(tiny()), "train", NUM), 2, seed=0)


@pytest.mark.parametrize("name", ["nano_vit", "ac_gan"])  # attention; weights that the loss does not depend on
def test_curvature_is_there_for_all_kinds_of_networks(name):
    function = LossFunction(run_of(build(name, eval_batch_size=NUM)), "train", 4)
    found = hessian_product(function, function.weights, torch.ones(sum(w.numel() for w in function.weights.values())))
    assert found.isfinite().all()
    assert found.any()


def shuffled(objective):
    """The same function with hidden units in another order: of an mlp by hand."""
    other = copy.deepcopy(objective)
    first, second, head = other.net.hidden[1], other.net.hidden[4], other.net.head
    one, two = torch.randperm(first.out_features), torch.randperm(second.out_features)
    with torch.no_grad():
        first.weight.copy_(first.weight[one])
        first.bias.copy_(first.bias[one])
        second.weight.copy_(second.weight[two][:, one])
        second.bias.copy_(second.bias[two])
        head.weight.copy_(head.weight[:, two])
    return other


def test_matching_undoes_a_permutation_of_the_hidden_units():
    objective = trained("mlp", dropout=0.0)
    other = shuffled(objective)
    state = matched(other.net, other.net.state_dict(), objective.net.state_dict(), seed=0)
    assert all(torch.equal(state[key], tensor) for key, tensor in objective.net.state_dict().items())
    function = LossFunction(run_of(objective), "train", NUM)
    ends = [{f"net.{key}": value for key, value in each.items()} for each in (other.net.state_dict(), state)]
    ways = [
        function.along(function.weights, [difference(end, function.weights)], line(0, 1, 5), "test") for end in ends
    ]
    assert np.ptp(ways[0].loss) > 1e-3
    assert np.ptp(ways[1].loss) < 1e-6


@torch.no_grad()
def test_matching_changes_nothing_that_a_convolutional_network_computes():
    one, two = trained("cnn", seed=1), trained("cnn", seed=2)
    state = matched(two.net, two.net.state_dict(), one.net.state_dict(), seed=0)
    batch = make_batch(one, 4)
    expected = two.eval().predict(batch.images)
    before = sum((two.net.state_dict()[k] - one.net.state_dict()[k]).square().sum() for k in state if "weight" in k)
    after = sum((state[k] - one.net.state_dict()[k]).square().sum() for k in state if "weight" in k)
    two.net.load_state_dict(state)
    torch.testing.assert_close(two.predict(batch.images), expected, rtol=1e-4, atol=1e-4)
    assert after < before


def test_weights_are_matched_without_the_running_statistics_that_are_taken_anew():
    nets = [trained("cnn", seed=seed).net for seed in (1, 2)]
    whole = matched(nets[1], nets[1].state_dict(), nets[0].state_dict(), seed=0)
    weights = [dict(net.named_parameters()) for net in nets]
    with torch.no_grad():
        found = matched(nets[1], weights[1], weights[0], seed=0)
    assert all(torch.equal(found[name], whole[name]) for name in weights[0])


def test_only_chains_are_matched():
    net = build("resnet18").net
    with pytest.raises(UserError, match="^--match: ResNet18 is no chain of layers"):
        matched(net, net.state_dict(), net.state_dict(), 0)


def test_barriers_distances_and_dips_by_hand():
    assert barrier(np.array([1.0, 5.0, 2.0])) == pytest.approx(3.5)
    steps = np.linspace(-1, 1, 9)
    smooth, rough = Losses(3 * np.abs(steps), None), Losses(3 * np.abs(steps), None)
    rough.loss[1] = 0.5  # at -0.75
    found = summary_of((steps, [smooth, smooth]), 2.0, np.zeros(0))
    assert (found["loss"], found["accuracy"], found["dips"]) == (0, None, 0)
    assert found["distance_to_guessing"] == 0.75
    assert summary_of((steps, [rough]), 2.0, np.zeros(0))["dips"] == 1
    assert summary_of((steps, [smooth]), 4.0, np.zeros(0))["distance_to_guessing"] is None
    lopsided = Losses(np.where(steps < 0, -6, 3) * steps, None)
    assert summary_of((steps, [lopsided]), 2.0, np.zeros(0))["distance_to_guessing"] == (0.5 + 0.75) / 2


def test_a_way_leads_from_its_start_and_a_plane_goes_row_by_row():
    assert difference({"a": torch.tensor(3.0)}, {"a": torch.tensor(1.0)})["a"] == 2
    assert plane(1.0, 2).tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]


def test_the_greatest_eigenvalue_is_no_lesser_one_of_a_greater_size(monkeypatch):
    curvature = torch.tensor([-9.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr("analysis.look.hessian.hessian_product", lambda function, weights, vector: curvature * vector)
    function = SimpleNamespace(weights={"a": torch.zeros(4)})
    assert top_eigenvalues(function, 1, seed=0) == pytest.approx([3.0])
    assert top_eigenvalues(function, 2, seed=0) == pytest.approx([3.0, 2.0])


def test_lines_go_in_directions_of_their_own_filter_by_filter(monkeypatch):
    seen = []
    monkeypatch.setattr(landscape_runs, "load_run", lambda *told: run_of(build("vae")))
    monkeypatch.setattr(landscape_runs, "random_direction", lambda *told, **more: seen.append((told[1:], more)))

    def enough(*told):
        raise UserError("enough")

    monkeypatch.setattr(LossFunction, "along", enough)
    with pytest.raises(UserError, match="enough"):
        landscape_runs.look_at_runs([Path("a")], "", replace(PLAN, num_eigenvalues=0, seed=5))
    assert [seeds for seeds, _ in seen] == [(5, 0), (5, 1), (5, 2)]
    assert all("decoder.affine.2.weight" in more["across"] for _, more in seen)


@pytest.mark.parametrize(("name", "chance"), [("cnn", math.log(10)), ("cvae", 0), ("cvae_head", 0), ("ac_gan", 0)])
def test_only_a_loss_of_classes_alone_has_one_of_guessing(name, chance):
    assert chance_of(run_of(build(name))) == chance


def test_guessing_of_several_labels_gives_each_a_half():
    run = run_of(build("cnn"))
    assert chance_of(run._replace(info=replace(INFO, several_labels=True))) == math.log(2)


PLAN = Plan("train", 12, 3, 1.0, 0, 1, False, Path())
FIGURES = {"loss": 2.0, "accuracy": 0.5, "distance_to_guessing": None, "dips": 0, "eigenvalues": []}


def test_guessing_is_told_of_where_its_loss_is_known():
    assert "better than guessing, on some lines, as far as 1 times the weights' length away" in in_words(
        "a", FIGURES, 2.3, 12, PLAN
    )
    assert "guessing" not in in_words("a", FIGURES, 0.0, 12, PLAN)


@pytest.mark.parametrize(("greatest", "told"), [(4.0, "above 0.5)"), (0.0, "eigenvalue 0;"), (-2.0, "eigenvalue -2;")])
def test_a_rate_at_which_descent_diverges_is_told_of_bowls_alone(greatest, told):
    assert told in in_words("a", {**FIGURES, "eigenvalues": [greatest]}, 0.0, 12, PLAN)


@pytest.mark.parametrize("num", [2, 3, 4])
def test_the_picture_of_a_plane_tells_the_loss_at_the_trained_weights(num, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(landscape_figures, "new_figure", lambda *told: figures.append(new_figure(*told)) or figures[0])
    away = np.square(plane(1.0, num)).sum(axis=1)
    draw_planes({"one": Losses(1.5 + away, None)}, {"one": 1.5}, 1.0, 0.0, tmp_path / "planes.png")
    assert figures[0].subfigs[0].get_suptitle() == "one: loss 1.50 at the trained weights, 3.5 at most"


def test_a_plane_with_infinite_losses_is_drawn(tmp_path):
    losses = Losses(np.array([1.0, 2.0, np.inf, 3.0, 1.5, np.nan, 2.0, 2.5, 9.0]), None)
    draw_planes({"one": losses}, {"one": 1.5}, 1.0, 2.2, tmp_path / "planes.png")
    assert (tmp_path / "planes.png").stat().st_size > 1000


def test_the_thick_lines_are_the_plain_means_of_the_directions(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(landscape_figures, "new_figure", lambda *told: figures.append(new_figure(*told)) or figures[0])
    along = [Losses(np.array([1.0, 2.0]), np.array([0.1, 0.0])), Losses(np.array([9.0, 4.0]), np.array([0.9, 0.5]))]
    draw_lines({"one": (np.array([0.0, 1.0]), along)}, 0.0, tmp_path / "lines.png")
    thick = [next(line for line in axes.lines if line.get_label() == "one") for axes in figures[0].axes]
    assert [line.get_ydata().tolist() for line in thick] == [[5, 3], pytest.approx([50, 25])]
    assert figures[0].legends[0].get_title().get_text().startswith("thick: mean")


def test_losses_that_hardly_differ_on_a_way_are_written_in_full(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(landscape_figures, "new_figure", lambda *told: figures.append(new_figure(*told)) or figures[0])
    steps = np.linspace(0, 1, 11)
    draw_ways({"straight": (steps, Losses(0.51 + 1e-6 * steps, None))}, ("a", "b"), tmp_path / "ways.png")
    [axes] = figures[0].axes
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert all(label.get_text().startswith(("0.50", "0.51")) for label in axes.get_yticklabels())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs on digits that have weights and have not been trained: two like each other, and a third."""
    folders = []
    for run_id, name, seed in (("漢", "mlp", 1), ("two", "mlp", 2), ("other", "cnn", 1)):
        folder = tmp_path_factory.getbasetemp() / "landscapes" / run_id
        folder.mkdir(parents=True)
        told = {"model": name, "dataset": "digits", "seed": seed, "width": 8, "depth": 1}
        settings = MODELS[name].settings_class(**told, runs_dir=str(folder.parent), run_id=run_id)
        write_json(folder / run_folder.SETTINGS, asdict(settings))
        checkpoint.save(folder / run_folder.BEST, build_objective(settings, read_data(settings)[0]).state_dict())
        folders.append(str(folder))
    return folders


QUICK = ["--images=4", "--points=3", "--eigenvalues=1"]


@pytest.mark.slow
def test_pictures_of_a_run_lie_in_its_folder_those_with_another_by_that_ones_name(runs, monkeypatch):
    plans = []
    monkeypatch.setattr(
        "analysis.landscape.look_at_runs", lambda folders, data_dir, plan: plans.append(plan) or ["done"]
    )
    assert main([runs[0]]) == main([runs[0], runs[1]]) == main([runs[0], "--out=here"]) == 0
    own = Path(runs[0])
    assert [plan.folder for plan in plans] == [own / "landscape", own / f"landscape-{Path(runs[1]).name}", Path("here")]


@pytest.mark.slow
def test_the_program_shows_one_run(runs, tmp_path, capsys):
    assert main([runs[0], *QUICK, f"--out={tmp_path}"]) == 0
    assert "the weights' length" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"lines.png", "planes.png", "landscape.json"}
    found = json.loads((tmp_path / "landscape.json").read_text())["漢"]  # not as pictures write it
    assert found["loss"] == pytest.approx(math.log(10), rel=0.2)
    assert len(found["eigenvalues"]) == 1


@pytest.mark.slow
def test_the_program_goes_from_one_run_to_another(runs, tmp_path, capsys):
    assert main([*runs[:2], *QUICK, "--match", f"--out={tmp_path}"]) == 0
    assert "units matched: barrier" in capsys.readouterr().out
    assert (tmp_path / "way.png").is_file()


@pytest.mark.slow
def test_runs_of_two_kinds_are_shown_beside_each_other_without_a_way(runs, tmp_path, capsys):
    assert main([runs[0], runs[2], *QUICK, f"--out={tmp_path}"]) == 0
    assert "no straight way leads" in capsys.readouterr().out
    assert not (tmp_path / "way.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{0}", "{2}", "--match"], "--match: there is no straight way"),
        (["{0}", "{0}"], "have one name: name two runs"),
        (["{0}", "--match"], "--match: give a second run"),
        (["{0}", "--images=1"], "--images: 1 train image is too little"),
        (["{0}", "--split=none"], "--split=none: the run has"),
        (["{0}", "--points=0"], "--points: 0 is not a whole number"),
        (["{0}", "--points=99999"], "--points=99999 makes no picture: give 2 to 1000"),
        (["{0}", "--points=1"], "--points=1 makes no picture: give 2 to 1000"),
        (["{0}", "--reach=nan"], "--reach: nan is not a number above 0"),
        (["{0}", "--eigenvalues=999999"], "--eigenvalues=999999: there are"),
        (["nothing"], "nothing is no run"),
    ],
)
def test_the_program_refuses_what_it_cannot_do_in_one_line(runs, tmp_path, words, message, capsys):
    words = [word.format(*runs) for word in words]
    assert main([*words, *[word for word in QUICK if word.split("=")[0] not in str(words)], f"--out={tmp_path}"]) == 2
    [line_of_error] = capsys.readouterr().err.splitlines()
    assert message in line_of_error
