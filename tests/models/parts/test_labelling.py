"""Several labels an image: losses and metrics are those of torch and torchmetrics; each model takes part or says no."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy, multilabel_auroc, multilabel_average_precision

from analysis.record import evaluation
from data.dataset import Batch, Split
from data.errors import UserError
from data.loader import Loader, Shard
from data.metrics import metric_named
from data.seeding import seed_everything
from models.loading import stand_in
from models.logged_metrics import logged_metrics
from models.parts.classification import Classification, ClassifierSettings
from models.parts.labelling import ONE_CLASS, SEVERAL_LABELS, labelling_of
from models.registry import MODELS
from tests.models.test_objectives import INFO, SMALL, info_of, train_step

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("hat", "red", "two words", "old")
SEVERAL = replace(INFO, classes=NAMES, several_labels=True, num_images={"train": 100}, class_counts=(50, 10, 80, 25))
ONE_CLASS_MODELS = {"cvae": "a conditional model", "cvae_head": "a conditional model", "ac_gan": "an ac_gan"}


class Alone:
    """What `evaluate` needs of accelerate, in one process."""

    device = torch.device("cpu")
    num_processes = 1
    is_main_process = True
    autocast = staticmethod(torch.no_grad)


def labelled(num, seed=0):
    """Logits and labels [num, 4] that have to do with each other."""
    random = np.random.RandomState(seed)
    labels = random.rand(num, 4) < (0.5, 0.1, 0.8, 0.3)
    logits = random.randn(num, 4) + labels
    return torch.from_numpy(logits).float(), torch.from_numpy(labels).float()


def classifier(**settings):
    """A classifier whose images are its logits."""
    return Classification(nn.Flatten(), ClassifierSettings(**settings), SEVERAL)


def batch_of(logits, labels):
    return Batch(logits[:, :, None, None].clone(), labels)


def test_losses_are_the_binary_cross_entropy_and_accuracy_is_the_mean_over_the_labels():
    logits, labels = labelled(40)
    objective, batch = classifier(), batch_of(logits, labels)
    loss = -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log())
    found = objective(batch, "classify")
    torch.testing.assert_close(found["loss"], loss.mean())
    torch.testing.assert_close(found["label_accuracy"], ((logits > 0) == labels.bool()).float().mean())
    each = objective.evaluate(batch)
    torch.testing.assert_close(each["loss"], loss.mean(1))
    torch.testing.assert_close(each["label_accuracy"].mean(), found["label_accuracy"])


def test_pooled_logits_have_the_mean_of_the_probabilities_and_one_stays_as_it_is():
    logits = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0)) * 4
    for labelling in (ONE_CLASS, SEVERAL_LABELS):
        each = torch.stack([labelling.probabilities(one.double()) for one in logits])
        pooled = labelling.probabilities(labelling.pooled(logits))
        torch.testing.assert_close(pooled.double(), each.mean(0), atol=1e-6, rtol=1e-4)
        assert torch.equal(labelling.pooled(logits[:1]), logits[0])
    sure = SEVERAL_LABELS.pooled(torch.tensor([[[40.0]], [[50.0]]]))
    assert sure.item() == pytest.approx(40.0 + math.log(2), abs=1e-3)


def test_smoothing_and_weights_change_the_training_loss_alone_as_torch_does():
    logits, labels = labelled(40)
    objective, batch = classifier(label_smoothing=0.2, class_weights="balanced"), batch_of(logits, labels)
    weights = torch.tensor([1.0, 9.0, 0.25, 3.0])  # images without the label to one with it
    expected = F.binary_cross_entropy_with_logits(logits, labels * 0.8 + 0.1, pos_weight=weights)
    torch.testing.assert_close(objective(batch, "classify")["loss"], expected)
    assert torch.equal(objective.evaluate(batch)["loss"], classifier().evaluate(batch)["loss"])


def test_mixed_images_have_their_labels_mixed_alike():
    seed_everything(0)
    labels = labelled(7)[1]
    objective = classifier(mixup=1.0)
    images, targets = objective.labelling.mix(objective.mix, labels[:6, :, None, None].clone(), labels[:6])
    torch.testing.assert_close(targets, images[:, :, 0, 0])  # the images are their labels
    assert not torch.equal(targets, labels[:6])
    assert objective(batch_of(torch.randn(7, 4), labels), "classify")["loss"].isfinite()


def test_a_split_is_measured_as_by_torchmetrics_whatever_the_batches_and_processes(monkeypatch):
    logits, labels = labelled(101)
    pixels = (logits.view(101, 1, 1, 4).expand(-1, 3, 1, 4) * 20 + 128).clamp(0, 255).byte()
    loaders = [
        Loader(Split(pixels, labels), SEVERAL, torch.device("cpu"), shard=Shard(rank, num))
        for rank, num in ((0, 1), (0, 2), (1, 2))
    ]
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    objective = Classification(net, ClassifierSettings(), SEVERAL)
    whole = evaluation.evaluate(Alone(), objective, loaders[0], 30).metrics
    found = objective.predict(loaders[0].batch(torch.arange(101)).images).detach()
    expected = {
        "mAP": multilabel_average_precision(found, labels.long(), 4).item(),
        "auroc": multilabel_auroc(found, labels.long(), 4).item(),
    }
    assert list(whole) == ["loss", "label_accuracy", "mAP", "auroc"]
    assert {name: whole[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    shares = []
    monkeypatch.setattr(evaluation, "gather_object", lambda own: shares.append(own[0]) or shares)
    for loader in loaders[1:]:
        divided = evaluation.evaluate(Alone(), objective, loader, 7).metrics
    assert divided == pytest.approx(whole)


@pytest.mark.parametrize(("sizes", "is_uneven"), [((0, 5), True), ((10, 16), True), ((10, 15), False), ((0, 0), False)])
def test_metrics_of_uneven_classes_are_scikit_learns_and_are_logged_only_of_these(sizes, is_uneven):
    info = replace(info_of("cnn"), class_sizes=sizes)
    settings = MODELS["cnn"].settings_class(model="cnn", **SMALL["cnn"])
    logged = logged_metrics(stand_in(settings, info))
    assert ("val/balanced_accuracy" in logged) == ("val/macro_f1" in logged) == is_uneven
    random = torch.Generator().manual_seed(3)
    # Classes 2 and 7 have no image; 7 is predicted, and 2 is not.
    labels = torch.tensor([0, 1, 3, 4, 5, 6])[torch.randint(6, (200,), generator=random).clamp(max=5)]
    named = torch.where(torch.rand(200, generator=random) < 0.6, labels, torch.tensor(7))
    logits = torch.nn.functional.one_hot(named, 10).float()
    found = labelling_of(info).split_metrics(labelling_of(info).kept(logits, labels))
    if is_uneven:
        with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
            balanced = balanced_accuracy_score(labels, named)
        assert found == pytest.approx(
            {"balanced_accuracy": balanced, "macro_f1": f1_score(labels, named, average="macro")}
        )
    else:
        assert found == {}


@pytest.mark.parametrize("num_classes", [10, 19, 20, 100])
def test_with_many_classes_those_among_the_five_likeliest_count_as_in_torchmetrics(num_classes):
    info = replace(info_of("cnn"), classes=tuple(map(str, range(num_classes))), class_sizes=(9, 9))
    settings = MODELS["cnn"].settings_class(model="cnn", **SMALL["cnn"])
    assert ("val/top5_accuracy" in logged_metrics(stand_in(settings, info))) == (num_classes >= 20)
    random = torch.Generator().manual_seed(num_classes)
    logits = torch.randn(300, num_classes, generator=random)
    labels = torch.randint(num_classes, (300,), generator=random)
    logits[range(300), labels] += 1.5
    scores = {name: values.mean().item() for name, values in labelling_of(info).scores(logits, labels).items()}
    tops = {"accuracy": 1, **({"top5_accuracy": 5} if num_classes >= 20 else {})}
    by_others = {
        name: multiclass_accuracy(logits, labels, num_classes, average="micro", top_k=top).item()
        for name, top in tops.items()
    }
    assert scores == pytest.approx(by_others)
    assert metric_named("val/top5_accuracy").goal == "maximize"


def test_a_network_that_always_names_the_largest_class_is_told_from_a_good_one():
    info = replace(info_of("cnn"), class_sizes=(20, 380))
    labels = torch.tensor([0] * 95 + [1] * 5)
    kept = labelling_of(info).kept(torch.tensor([[1.0, 0.0]]).expand(100, 2), labels)
    found = labelling_of(info).split_metrics(kept)
    assert found["balanced_accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx(2 * 95 / 195 / 2)


def test_a_label_that_no_image_has_or_every_one_is_left_out_of_the_means():
    logits, labels = labelled(50)
    labels[:, 0], labels[:, 1] = 0, 1
    found = SEVERAL_LABELS.split_metrics(SEVERAL_LABELS.kept(logits, labels))
    rest = SEVERAL_LABELS.split_metrics(SEVERAL_LABELS.kept(logits[:, 2:], labels[:, 2:]))
    assert found["auroc"] == pytest.approx(rest["auroc"])
    assert found["mAP"] == pytest.approx((2 * rest["mAP"] + 1) / 3)
    nothing = SEVERAL_LABELS.split_metrics(SEVERAL_LABELS.kept(logits, torch.zeros(50, 4)))
    assert all(np.isnan(value) for value in nothing.values())
    diverged = SEVERAL_LABELS.split_metrics(SEVERAL_LABELS.kept(logits * torch.nan, labels))
    assert np.isnan(diverged["mAP"])


def test_captions_tell_what_is_predicted_and_what_of_it_is_wrong():
    probabilities, label = torch.tensor([0.9, 0.7, 0.2, 0.4]), torch.tensor([1.0, 0, 0, 1])
    assert SEVERAL_LABELS.caption(probabilities, label, SEVERAL) == "hat 90 %, red 70 %\nnot red\nmisses old"
    assert SEVERAL_LABELS.caption(probabilities / 2, None, SEVERAL) == "none"
    assert max(map(len, SEVERAL_LABELS.caption(torch.ones(4), None, SEVERAL).split("\n"))) <= 26
    one = replace(SEVERAL, several_labels=False)
    shares = torch.tensor([0.1, 0.6, 0.2, 0.1])
    assert ONE_CLASS.caption(shares, torch.tensor(1), one) == "red 60 %"
    assert ONE_CLASS.caption(shares, torch.tensor(2), one) == "red 60 %, is two words"


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ONE_CLASS_MODELS])
def test_every_model_without_conditions_learns_from_images_with_several_labels(name):
    info = replace(info_of(name), classes=NAMES, several_labels=True)
    settings = MODELS[name].settings_class(model=name, **SMALL[name])
    seed_everything(0)
    objective = MODELS[name].build(settings, info)
    phases = objective.phases()
    batch = Batch(torch.randn(6, *objective.input_shape()), labelled(6)[1])
    losses = [sum(train_step(objective, phases, batch).values()) for _ in range(2)]
    assert np.isfinite(losses).all()
    with torch.no_grad():
        found = objective.eval().evaluate(batch)
    assert ("label_accuracy" in found) == isinstance(objective, Classification)
    assert found["loss"].shape == (6,)


@pytest.mark.parametrize(("name", "what"), ONE_CLASS_MODELS.items())
def test_conditional_models_want_one_class_an_image(name, what):
    with pytest.raises(
        UserError, match=f"synthetic has several labels an image, {what} needs one class: give --model="
    ):
        MODELS[name].build(MODELS[name].settings_class(model=name, **SMALL[name]), SEVERAL)


def test_what_a_run_will_log_is_known_beforehand():
    settings = MODELS["cnn"].settings_class(model="cnn", **SMALL["cnn"])
    train = ["train/classify/loss", "train/classify/label_accuracy"]
    assert logged_metrics(stand_in(settings, SEVERAL)) == [
        *train,
        "val/loss",
        "val/label_accuracy",
        "val/mAP",
        "val/auroc",
    ]
