"""Where the best learning rate lies at each width, on made-up runs whose best rates are known."""

import math
import re
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from analysis.compare.lr_transfer import (
    METRIC,
    Curve,
    comparison_of,
    curves_of,
    draw,
    draw_curve,
    draw_transfer,
    moved,
    vertex,
)
from analysis.read.runs import read_runs
from analysis.transfer import main
from data.errors import UserError
from data.files import write_json
from tests.analysis.test_no_torch import CODE, ROOT
from tests.run_folders import SWEEP, write_run

RATES = [2.0**power for power in range(-12, -5)]


def loss_at(rate, best, least):
    """A loss that is least at the rate 2^best."""
    return least + 0.1 * (math.log2(rate) - best) ** 2


def write_sweep(folder, best, seeds=(1, 2, 3), **settings):
    """Runs at seven rates, whose best ones are told by parametrisation and width."""
    for parametrization, by_width in best.items():
        for width, power in by_width.items():
            for rate in RATES:
                for seed in seeds:
                    value = loss_at(rate, power + 0.1 * (seed - 2), 2 - width / 100)
                    told = {"parametrization": parametrization, "width": width, "lr": rate, "seed": seed}
                    run_id = f"{parametrization}-{width}-{rate}-{seed}"
                    write_run(folder / run_id, [9.0, 3 * value], model="mlp", **told, **settings)  # a third is logged
    (folder / "sweep.yaml").write_text(SWEEP)
    return folder


BEST = {"standard": {8: -7.3, 16: -8.6, 64: -10.2}, "mup": {8: -7.3, 16: -7.4, 64: -7.0}}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("runs") / "sweeps" / "transfer", BEST)


def test_the_vertex_is_that_of_the_parabola_and_an_end_where_there_are_no_neighbours():
    assert vertex({rate: loss_at(rate, -9.3, 1) for rate in RATES}) == pytest.approx(-9.3)
    assert vertex({rate: loss_at(rate, -9.3, 1) for rate in (2**-10, 2**-9, 2**-6)}) == pytest.approx(-9.3)
    assert vertex({2**-9: 1.0, 2**-8: 2.0}) == -9
    assert vertex({2**-9: 2.0, 2**-8: 1.0, 2**-7: math.inf}) == -8
    assert vertex({2**-9: 1.0, 2**-8: 1.0, 2**-7: 1.0}) == -9


def test_best_rates_and_their_uncertainty_are_those_of_the_runs(sweep):
    found = curves_of(read_runs(sweep).records, METRIC)
    assert list(found) == ["standard", "mup"]
    assert list(found["mup"]) == [8, 16, 64]
    for name, by_width in BEST.items():
        for width, power in by_width.items():
            assert found[name][width].optima() == pytest.approx([power - 0.1, power, power + 0.1], abs=1e-9)
            assert found[name][width].seconds == [1.0] * len(RATES) * 3
    assert moved(found["standard"]) == pytest.approx((2.9, math.hypot(0.1, 0.1)))
    assert moved(found["mup"]) == pytest.approx((0.4, math.hypot(0.1, 0.1)))


def test_the_words_tell_what_moves_and_what_the_narrow_rate_is_worth(sweep, tmp_path, capsys):
    assert main(["lr", str(sweep), f"--out={tmp_path / 'a.png'}"]) == 0
    words = capsys.readouterr().out
    assert "the best rate moves by 2.90 ± 0.14 notches" in words
    assert "the best rate moves by 0.40 ± 0.14 notches" in words
    assert "falls from each width to the next" in words
    assert "a run took 1.0 s of training at width 8 and 1.0 s at width 64: 1.0 times as much" in words
    price = 0.1 * ((-7 + 10.2) ** 2 - 0.2**2)
    assert (
        f"width 64 at the best rate of width 8, 0.0078125: {2 - 0.64 + 0.1 * 3.2**2 + 0.1 * 0.02 / 3:.4f}, {price:.4f}"
        in words
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_lies_above_the_frame_is_counted_and_equal_values_do_not_fall(tmp_path):
    values = {2.0**-i: {1: 70.0 + (40.0 if i == 9 else i / 10)} for i in range(10)}
    found = {"mup": {8: Curve(dict(values)), 16: Curve(dict(values))}}
    axes = draw(found, "headline", "val/loss").axes[0]
    assert axes.get_ylabel() == "val/loss, 2 of 20 means above the frame or not finite"
    low, high = axes.get_ylim()
    assert low < 70 < 70.8 < high < 80
    del values[2.0**-9]
    assert draw({"mup": {8: Curve(values)}}, "headline", "val/loss").axes[0].get_ylabel() == "val/loss"
    assert "does not fall" in comparison_of({8: Curve(values), 16: Curve(values)}, "val/loss")[0]


def test_of_one_seed_no_deviation_is_told(tmp_path, capsys):
    sweep = write_sweep(tmp_path / "sweeps" / "a", {"mup": BEST["mup"]}, seeds=(2,))
    assert main(["lr", str(sweep)]) == 0
    words = capsys.readouterr().out
    assert "the best rate moves by 0.40 notches" in words
    assert "±" not in words
    figure = draw(curves_of(read_runs(sweep).records, METRIC), "headline", METRIC)
    assert figure.axes[0].get_title() == "muP; the best rate moves by 0.40 notches"


def test_failed_runs_are_worst_and_seeds_that_are_not_through_do_not_count():
    curve = Curve({2**-10: {1: 1.0, 2: 1.0}, 2**-9: {1: 0.9}, 2**-8: {1: 2.0, 2: math.inf}})
    assert curve.means()[2**-8] == math.inf
    assert curve.best_rate() == 2**-9
    assert len(curve.optima()) == 1
    curve = Curve({2**-10: {1: 1.0, 2: 1.0}, 2**-9: {1: 0.5, 2: 0.5}, 2**-8: {1: 2.0}})
    assert len(curve.optima()) == 1  # the second has not been tried above the best rate


def test_the_value_after_the_last_epoch_counts_be_it_the_best_or_not(tmp_path):
    folder = write_sweep(tmp_path / "sweeps" / "a", {"mup": {8: -8, 16: -8}}, seeds=(1,))
    write_run(folder / "rises", [0.3, 6.0], model="mlp", parametrization="mup", width=8, lr=1.0, seed=1)
    assert curves_of(read_runs(folder).records, METRIC)["mup"][8].values[1.0] == {1: 2.0}


@pytest.mark.parametrize(("power", "is_at_end"), [(-12, True), (-9, False), (-6, True)])
def test_a_best_rate_at_either_end_of_those_tried_is_told(power, is_at_end):
    assert Curve({rate: {1: loss_at(rate, power, 1)} for rate in RATES}).is_at_end() == is_at_end


def test_a_star_stands_at_the_rate_that_the_words_tell():
    values = {rate: {seed: loss_at(rate, -9 + seed, 1) for seed in (-1, 1)} for rate in RATES}
    axes = Figure().subplots()
    draw_curve(axes, Curve(values), "black", "width 8")
    [[place], [height]] = axes.lines[-1].get_data()
    assert math.log2(place) == pytest.approx(-9)  # the mean of the logarithms, as in the words
    assert height == pytest.approx(1.1)


def test_rates_that_no_seed_has_beside_each_other_have_a_best_one_all_the_same(tmp_path, capsys):
    for seed, rate in enumerate((1e-3, 2e-3, 4e-3)):
        for width in (8, 16):
            told = {"parametrization": "mup", "width": width, "lr": rate, "seed": seed}
            write_run(tmp_path / "sweeps" / "a" / f"{width}-{rate}", [9.0, 3 + rate], model="mlp", **told)
    (tmp_path / "sweeps" / "a" / "sweep.yaml").write_text(SWEEP)
    assert main(["lr", str(tmp_path / "sweeps" / "a"), "--out", str(tmp_path / "out.png")]) == 0
    assert "best rate 0.001 (2^-9.97" in capsys.readouterr().out


def test_one_width_alone_shows_no_transfer(tmp_path, capsys):
    folder = write_sweep(tmp_path / "sweeps" / "a", {"standard": {8: -8}, "mup": {16: -8}}, seeds=(1,))
    assert main(["lr", str(folder)]) == 2
    assert "no parametrisation has finished runs at two widths" in capsys.readouterr().err
    assert not (folder / "lr_transfer.png").exists()


def test_runs_of_unequal_steps_are_not_compared(tmp_path):
    folder = write_sweep(tmp_path / "sweeps" / "a", {"mup": {8: -8}}, seeds=(1,), epochs=3)
    write_run(folder / "more", [1.0], model="mlp", width=8, lr=0.1, seed=1, epochs=4)
    with pytest.raises(UserError, match=r"^the runs differ in epochs \(3, 4\)"):
        draw_transfer(str(folder), METRIC, None)


@pytest.mark.parametrize(
    "odd",
    [{"width": [8]}, {"lr": "x"}, {"seed": None}, {"width": 0}, {"lr": -1.0}, {"parametrization": []}, {"seed": 1e999}],
)
def test_runs_with_odd_settings_are_left_out_or_stand_apart(tmp_path, odd):
    folder = write_sweep(tmp_path / "sweeps" / "a", {"mup": {8: -8, 16: -8}}, seeds=(1,))
    write_run(folder / "odd", [1.0], model="mlp", **{"width": 8, "lr": 0.1, "seed": 1, **odd})
    found = curves_of(read_runs(folder).records, METRIC)
    assert found["mup"][8].optima() == pytest.approx([-8.1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr", "nothing"], "nothing is no sweep with runs"),
        (["lr", "{}", "--metric=val/none"], "--metric=val/none: run .* has no value of it"),
        (["lr", "{}", "--widths=3"], "--widths=3 is not understood"),
        (["lr", "{}", "--out=/dev/null/a.png"], "/dev/null/a.png cannot be written"),
        (["lr", "{}", "--out=a.none"], "a.none cannot be written .Format 'none' is not supported"),
    ],
)
def test_the_program_refuses_what_it_cannot_do_in_one_line(sweep, words, message, capsys):
    assert main([word.format(sweep) for word in words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_a_width_of_which_all_runs_failed_is_left_out_with_a_line(tmp_path, capsys):
    folder = write_sweep(tmp_path / "sweeps" / "a", {"mup": {8: -8, 16: -8}}, seeds=(1,))
    for rate in RATES[:2]:
        write_run(folder / f"failed-{rate}", [1.0], model="mlp", state="failed", width=16, lr=rate, seed=1)
    assert main(["lr", str(folder)]) == 0
    told = capsys.readouterr()
    assert told.err == "standard parametrisation, width 16 is left out: some seed failed at every rate\n"
    assert "width 8: best rate" in told.out


def test_a_sweep_whose_runs_all_failed_is_refused_in_one_line(tmp_path, capsys):
    folder = tmp_path / "sweeps" / "a"
    for rate in RATES:
        write_run(folder / f"{rate}", [1.0], model="mlp", state="failed", width=8, lr=rate, seed=1)
    assert main(["lr", str(folder)]) == 2
    assert "no width has finished runs at two learning rates" in capsys.readouterr().err


@pytest.mark.slow
def test_reading_the_runs_loads_no_torch(sweep, tmp_path):
    command = [sys.executable, "-c", CODE, "analysis.transfer", "lr", str(sweep), f"--out={tmp_path / 'a.png'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_of_runs_with_the_same_settings_the_last_counts(tmp_path):
    told = {"parametrization": "mup", "lr": 2.0**-9, "seed": 1}
    for width in (8, 16):
        write_run(tmp_path / f"{width}-first", [9.0], state="failed", days=0, width=width, **told)
        write_run(tmp_path / f"{width}-again", [9.0, 3.0], days=1, width=width, **told)
        write_run(tmp_path / f"{width}-other", [9.0, 6.0], days=0.5, width=width, **{**told, "lr": 2.0**-8})
    found = curves_of(read_runs(tmp_path).records, METRIC)["mup"]
    assert [curve.values for curve in found.values()] == [{2.0**-9: {1: 1.0}, 2.0**-8: {1: 2.0}}] * 2
    assert [curve.seconds for curve in found.values()] == [[1.0, 1.0]] * 2


def test_the_time_of_a_run_is_that_of_runs_that_finished_and_have_told_theirs(tmp_path, capsys):
    folder = write_sweep(tmp_path / "sweeps" / "a", {"mup": {8: -8, 16: -8}}, seeds=(1,))
    told = {"model": "mlp", "parametrization": "mup", "width": 16, "seed": 2}
    for rate in RATES[3:]:  # after one epoch of two
        write_run(folder / f"failed-{rate}", [9.0], state="failed", lr=rate, **told)
    silent = write_run(folder / "silent", [9.0, 3.0], lr=RATES[0], **told)
    write_json(silent / "summary.json", {"state": "finished"})
    assert main(["lr", str(folder)]) == 0
    assert "1.0 s of training at width 8 and 1.0 s at width 16: 1.0 times as much" in capsys.readouterr().out


def test_a_metric_of_which_more_is_better_is_refused(sweep, capsys):
    assert main(["lr", str(sweep), "--metric=val/accuracy"]) == 2
    assert "--metric=val/accuracy: more of it is better" in capsys.readouterr().err
