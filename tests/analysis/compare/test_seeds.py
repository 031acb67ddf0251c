"""Recipes over their seeds, against closed forms, scipy's own tests and simulations."""

import csv

import numpy as np
import pytest
from scipy import stats

from analysis.compare import seeds
from analysis.compare.seeds import Draw, difference_over_images, duel, mean_over_seeds, verdict
from analysis.read.predictions import right_by_image
from data.metrics import metric_named

ACCURACY, LOSS = metric_named("test/accuracy"), metric_named("test/loss")


def by_seed(values):
    return dict(enumerate(values, 1))


def test_the_interval_of_a_mean_is_students():
    values = [0.9, 0.92, 0.97]
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert mean_over_seeds(values, "val/loss") == pytest.approx((np.mean(values), low, high))
    assert mean_over_seeds([0.9], "val/accuracy") == (0.9, None, None)


def test_the_interval_of_three_seeds_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [mean_over_seeds(rng.normal(size=3).tolist(), "val/loss") for _ in range(2000)]
    assert np.mean([each.low < 0 < each.high for each in found]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("metric", "least", "most"),
    [
        ("val/accuracy", 0, 1),
        ("test/mAP", 0, 1),
        ("test/ece", 0, 1),
        ("test/nearest_auroc", 0, 1),
        ("val/nmi", 0, 1),
        ("val/purity", 0, 1),
        ("val/ari", -0.5, 1),
        ("test/recall_inception_1000", 0, 1),
        ("test/density_inception_1000", 0, None),
        ("test/fid_inception_1000", 0, None),
        ("test/inception_score_inception_1000", 1, None),
        ("test/kid_inception_1000", None, None),  # its estimate has no bias, and may be below 0
        ("val/loss", None, None),  # of densities, and of a critic, it may be below 0
    ],
)
def test_an_interval_ends_where_the_metric_does(metric, least, most):
    for values in (
        [(least or 0) + value for value in (0.0, 0.05, 0.3)],
        [(most or 2) - value for value in (0.0, 0.05, 0.3)],
    ):
        mean, *found = mean_over_seeds(values, metric)
        expected = stats.ttest_1samp(values, 0).confidence_interval()
        low = expected.low if least is None else max(least, expected.low)
        assert found == pytest.approx([low, expected.high if most is None else min(most, expected.high)])
        assert found[0] <= mean <= found[1]


def test_an_interval_that_is_cut_off_holds_the_mean_as_often_as_the_whole_one():
    rng = np.random.default_rng(0)
    for mean in (0.93, 0.97):
        draws = rng.beta(30 * mean, 30 * (1 - mean), size=(1000, 3))
        found = [mean_over_seeds(values.tolist(), "val/accuracy") for values in draws]
        whole = stats.ttest_1samp(draws, 0, axis=1).confidence_interval()
        assert np.mean([each.high for each in found]) < np.mean(whole.high)
        assert [each.low <= mean <= each.high for each in found] == list((whole.low <= mean) & (mean <= whole.high))


def test_a_difference_is_no_greater_than_the_metrics_range():
    one, other = {1: 0.0, 2: 1.0}, {1: 0.5, 2: 0.2}
    assert duel(one, other, ACCURACY).difference[1:] == (-1, 1)
    assert duel(one, other, LOSS).difference.high > 1


def test_a_difference_of_some_of_the_seeds_says_of_which():
    one, other = {1: 0.50, 2: 0.52, 3: 0.9, 4: 0.9}, {1: 0.60, 2: 0.63}  # the mean of all seeds is the better one
    found = duel(one, other, ACCURACY)
    assert found.difference.mean < 0 < np.mean(list(one.values())) - np.mean(list(other.values()))
    assert verdict(found, None, "test/accuracy").startswith("-10.50 % [")
    assert "] over seeds 1 and 2, which both have, " in verdict(found, None, "test/accuracy")
    assert "] over the seeds, " in verdict(duel({1: 0.5, 2: 0.52}, other, ACCURACY), None, "test/accuracy")
    many = {seed: 0.5 + seed / 1000 for seed in range(9)}
    text = verdict(duel(many, {**many, 10: 0.9}, ACCURACY), None, "test/accuracy")
    assert "] over the 9 seeds that both have, " in text


def test_recipes_with_the_same_seeds_are_compared_seed_by_seed():
    one, other = [0.9, 0.8, 0.7, 0.95], [0.89, 0.78, 0.69, 0.93]  # the seeds differ far more than the recipes
    found, expected = duel(by_seed(one), by_seed(other), ACCURACY), stats.ttest_rel(one, other)
    low, high = expected.confidence_interval()
    assert found.difference == pytest.approx((0.015, low, high))
    assert found.probability == pytest.approx(1 - expected.pvalue / 2)
    assert (found.num_more, found.paired) == (0, ())
    assert duel(by_seed(one), by_seed(other), LOSS).probability == pytest.approx(expected.pvalue / 2)


def test_recipes_with_other_seeds_are_compared_by_welchs_test():
    one, other = [0.9, 0.8, 0.7, 0.95], [0.6, 0.62, 0.61]
    found, expected = duel(by_seed(one), {seed + 9: x for seed, x in by_seed(other).items()}, ACCURACY), None
    expected = stats.ttest_ind(one, other, equal_var=False)
    low, high = expected.confidence_interval()
    assert found.difference == pytest.approx((np.mean(one) - np.mean(other), low, high))
    assert found.probability == pytest.approx(1 - expected.pvalue / 2)
    one_seed_shared = duel(by_seed(one), {seed + 3: x for seed, x in by_seed(other).items()}, ACCURACY)
    assert one_seed_shared == found  # a single pair tells no deviation


@pytest.mark.parametrize("num", [3, 10])
def test_the_interval_of_a_single_seed_against_several_holds_the_difference_as_often_as_it_says(num):
    rng = np.random.default_rng(0)
    draws = [(by_seed(rng.normal(100, size=num)), {0: rng.normal()}) for _ in range(2000)]
    for true, sides in ((100, draws), (-100, [(other, one) for one, other in draws])):
        found = [duel(*each, LOSS).difference for each in sides]
        assert np.mean([each.low < true < each.high for each in found]) == pytest.approx(0.95, abs=0.02)


def test_a_single_seed_of_each_tells_nothing():
    found = duel({1: 0.9}, {1: 0.8}, ACCURACY)
    assert found == ((pytest.approx(0.1), None, None), None, None, (), True)
    assert verdict(found, None, "test/accuracy") == "+10.00 % over the seeds; one seed of each tells nothing"


def test_the_further_seeds_that_are_named_settle_it_and_one_fewer_does_not():
    differences = np.array([0.02, -0.01, 0.03])
    found = duel(by_seed(0.5 + differences), by_seed(np.full(3, 0.5)), ACCURACY)
    assert found.num_more > 0
    mean, deviation = differences.mean(), differences.std(ddof=1)
    for num, is_settled in ((3 + found.num_more, True), (2 + found.num_more, False)):
        assert (mean > stats.t.ppf(0.975, num - 1) * deviation / num**0.5) == is_settled
    assert f"{found.num_more} further seeds of each would settle it" in verdict(found, None, "test/accuracy")


def test_no_further_seed_is_asked_for_where_the_interval_leaves_0_out_already():
    found = duel({0: 0.80, 1: 0.81, 2: 0.805}, {10: 0.79, 11: 0.796, 12: 0.788}, ACCURACY)
    assert found.difference.low > 0
    assert found.num_more == 0
    assert "further" not in verdict(found, None, "test/accuracy")
    rng = np.random.default_rng(0)
    for nums in [(3, 3), (2, 5), (1, 3), (4, 1)] * 25:
        one, other = (rng.normal(2 * i, 1 + i, size=num) for i, num in enumerate(nums))
        found = duel(by_seed(one), {seed + 9: x for seed, x in by_seed(other).items()}, ACCURACY)
        assert (found.num_more == 0) == (not found.difference.low <= 0 <= found.difference.high)


@pytest.mark.parametrize("nums", [(3, 3), (2, 6), (1, 3), (4, 1)])
def test_the_further_seeds_that_are_named_settle_welchs_test_of_other_seeds_and_one_fewer_does_not(nums):
    one, other = [0.8, 0.83, 0.82, 0.81][: nums[0]], [0.79, 0.81, 0.82, 0.8, 0.78, 0.785][: nums[1]]
    found = duel(by_seed(one), {seed + 9: x for seed, x in by_seed(other).items()}, ACCURACY)
    samples = [one if len(one) > 1 else other, other if len(other) > 1 else one]  # a single value varies as the others
    deviations = [np.std(sample, ddof=1) for sample in samples]
    assert found.num_more > 1
    for more, is_settled in ((found.num_more, True), (found.num_more - 1, False)):
        num_one, num_other = (num + more for num in nums)
        expected = stats.ttest_ind_from_stats(
            np.mean(one), deviations[0], num_one, np.mean(other), deviations[1], num_other, equal_var=False
        )
        assert (expected.pvalue < 0.05) == is_settled


def test_equal_recipes_are_not_to_be_told_apart():
    found = duel(by_seed([0.5, 0.6]), by_seed([0.5, 0.6]), ACCURACY)
    assert (found.probability, found.num_more) == (0.5, None)
    assert "not to be told apart" in verdict(found, None, "test/accuracy")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({1: 0.8764, 2: 0.8764}, {1: 0.8763, 2: 0.8763}),  # one image in 10,000
        ({1: 0.8764, 2: 0.8764}, {3: 0.8763}),
        ({1: 0.9722, 2: 0.9694}, {1: 0.9694, 2: 0.9666}),  # differences that are equal but for rounding
        ({1: 0.8764, 2: 0.8764}, {3: 0.8763, 4: 0.8763}),
    ],
)
def test_seeds_that_say_exactly_the_same_tell_nothing_of_others(one, other):
    found = duel(one, other, ACCURACY)
    assert (found.difference[1:], found.probability, found.num_more) == ((None, None), None, None)
    assert "; all seeds say exactly the same, which tells nothing of others" in verdict(found, None, "test/accuracy")
    assert mean_over_seeds([0.8764, 0.8764], "test/accuracy") == (0.8764, None, None)


def test_folds_are_not_called_seeds():
    one, other = (
        {Draw(1, f"{fold}/9"): value + fold / 100 for fold in range(num)} for num, value in ((8, 0.1), (7, 0.2))
    )
    assert "over the 7 folds that both have" in verdict(duel(one, other, ACCURACY), None, "test/accuracy", what="fold")


def write_predictions(folder, right, split="test"):
    folder.mkdir()
    with (folder / "predictions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "split", "true", "predicted", "probability", "loss"))
        for i, is_right in enumerate(right):
            table.writerow((f"{i}.png", split, "cat", "cat" if is_right else "dog", 0.9, 0.1))


def test_few_images_are_told_from_many(tmp_path):
    rng = np.random.default_rng(0)
    for num, is_enough in ((54, False), (10_000, True)):
        for seed in (1, 2):
            write_predictions(tmp_path / f"a{num}-{seed}", rng.permutation(num) < 0.93 * num)
            write_predictions(tmp_path / f"b{num}-{seed}", rng.permutation(num) < 0.90 * num)
        one, other = ([tmp_path / f"{name}{num}-{seed}" for seed in (1, 2)] for name in "ab")
        right, of_other = right_by_image(one, "test"), right_by_image(other, "test")
        assert len(right) == num
        assert set(right.values()) <= {0.0, 0.5, 1.0}
        found = difference_over_images(right, of_other)
        assert (found.low > 0) == is_enough
        expected = stats.sem([right[i] - of_other[i] for i in right]) * 1.96
        assert found.high - found.mean == pytest.approx(expected, rel=0.15)
    assert right_by_image(one, "val") == {}
    assert right_by_image([*one, tmp_path], "test") == {}  # a run without predictions
    assert difference_over_images({}, right) is None


def test_what_is_not_certain_is_not_rounded_to_certainty():
    assert [seeds.likelihood(each) for each in (0.0, 1e-9, 0.5, 0.994, 0.996, 1.0)] == [
        "0 %",
        "less than 1 %",
        "50 %",
        "99 %",
        "more than 99 %",
        "100 %",
    ]


def test_a_difference_that_more_images_might_undo_is_said():
    found = duel(by_seed([0.9, 0.91, 0.905]), by_seed([0.8, 0.81, 0.806]), ACCURACY)
    text = verdict(found, seeds.Interval(0.1, -0.02, 0.2), "test/accuracy")
    assert "over the images" in text
    assert "too few to say it of others" in text
    for low, is_undone in ((0.0, True), (0.001, False)):  # an interval that ends at 0 does not leave it out
        assert ("too few" in verdict(found, seeds.Interval(0.1, low, 0.2), "test/accuracy")) == is_undone
