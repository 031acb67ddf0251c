"""What a reader of the report needs in a real Chromium: legible axes, an honest headline, a keyboard that goes on."""

import pytest

from analysis import report
from analysis.compare.recipes import MOST_SINGLE
from data.files import write_json
from tests.run_folders import write_run

pytestmark = pytest.mark.slow
TICKS = "[...document.querySelectorAll('{} .{}tick text')].map((tick) => tick.textContent)"
FOCUSED = "document.activeElement.ariaLabel || document.activeElement.textContent"


def shown(browser, runs_dir, *options):  # noqa: F811
    assert report.main(["--runs_dir", str(runs_dir), *options]) == 0
    browser.open(runs_dir / "report.html")
    return browser


def test_no_two_ticks_of_a_narrow_axis_of_percentages_are_written_alike(browser, tmp_path):  # noqa: F811
    for i in range(6):
        write_run(tmp_path / f"run{i}", [1.0, 0.9], [0.880 + i / 500, 0.881 + i / 500], lr=1e-3 * 2**i)
    page = shown(browser, tmp_path, "--metric=val/accuracy")
    for chart in ("#setting-chart", "#progress-chart", "[data-term=accuracy]"):
        ticks = page.run(TICKS.format(chart, "y"))
        assert len(set(ticks)) == len(ticks) > 2
        assert all(tick.endswith("%") for tick in ticks)
    assert "88.2%" in page.run(TICKS.format("#setting-chart", "y"))


def test_a_run_that_has_diverged_makes_no_axis_of_an_accuracy_logarithmic(browser, tmp_path):  # noqa: F811
    for i in range(12):
        write_run(
            tmp_path / f"run{i}", [1.0], [0.01 if i == 11 else 0.8 + i / 100], lr=1e-3 * 2**i, width=8 * (1 + i % 2)
        )
    page = shown(browser, tmp_path, "--metric=val/accuracy")
    for chart in ("#setting-chart", "#progress-chart", "[data-setting=width]", "[data-setting=lr]"):
        assert page.run(f"document.querySelector('{chart}')._fullLayout.yaxis.type") == "linear"
    texts = page.run("document.querySelector('#parallel-chart').layout.annotations.map((one) => one.text)")
    assert {"20 %", "80 %"} <= set(texts)


def test_a_logarithmic_axis_has_ticks_however_close_its_values_are(browser, tmp_path):  # noqa: F811
    for i in range(9):
        write_run(tmp_path / f"run{i}", [1.0 + i], lr=1.1e-3 + i * 1e-4)
    page = shown(browser, tmp_path, "--metric=val/loss")
    assert page.run("document.querySelector('#setting-chart').layout.xaxis.type") == "log"
    assert page.run(TICKS.format("#setting-chart", "x")) == ["1.2e-3", "1.4e-3", "1.6e-3", "1.8e-3"]
    texts = page.run("document.querySelector('#parallel-chart').layout.annotations.map((one) => one.text)")
    assert {"1.2e-3", "1.8e-3"} <= set(texts)


def test_by_a_metric_of_the_test_images_the_headline_is_the_mean_of_one_trials_final_runs(browser, tmp_path):  # noqa: F811
    finals = ("000-a", 0.1, (0.5, 0.6)), ("000-a-epochs9", 0.1, (0.90, 0.92)), ("001-b", 0.2, (0.80, 0.96))
    for days, (name, rate, accuracies) in enumerate(finals):  # the first trial has gone on since its first final runs
        for seed, accuracy in enumerate(accuracies, 1):
            folder = tmp_path / "sweeps" / "s" / f"final-{name}-seed{seed}"
            run = write_run(folder, [], state=None, days=days, lr=rate, seed=seed, epochs=len(name))
            write_json(
                run / "summary.json", {"state": "finished", "test/accuracy": accuracy, "test/loss": 0.5, "epochs": 1}
            )
    sweep, metric = tmp_path / "sweeps" / "s", {"name": "val/accuracy", "goal": "maximize"}
    for name, rate, accuracy in (("000-a", 0.1, 0.7), ("001-b", 0.2, 0.6)):  # the first is the best by validation
        write_run(sweep / name, [1.0], [accuracy], lr=rate)
    write_json(sweep / "sweep.yaml", {"method": "random", "metric": metric, "parameters": {"lr": {"value": 1}}})
    page = shown(browser, tmp_path, "--metric=test/accuracy")
    assert page.column("test/accuracy")[0] == "96.00 %"
    tiles = dict(zip(page.texts(".tile .name"), page.texts(".tile .figure"), strict=True))
    assert tiles["final test/accuracy"] == "91.00 %"
    assert "best test/accuracy" not in tiles  # which the luckiest of all would be
    assert page.texts(".tile .more")[0].endswith("2 runs by trial 000-a")


def test_without_test_images_the_headline_is_the_mean_of_the_final_runs_on_held_out_ones(browser, tmp_path):  # noqa: F811
    write_run(tmp_path / "sweeps" / "s" / "000-a", [1.0], [1.0])
    for seed, accuracy in ((1, 0.9), (2, 0.8)):
        write_run(tmp_path / "sweeps" / "s" / f"final-000-a-seed{seed}", [1.0], [accuracy], seed=seed)
    page = shown(browser, tmp_path, "--metric=val/accuracy")
    tiles = list(zip(page.texts(".tile .name"), page.texts(".tile .figure"), strict=True))
    assert tiles[:2] == [("final val/accuracy", "85.00 %"), ("best val/accuracy", "100.00 %")]


def test_the_control_that_has_the_focus_keeps_it_when_its_table_or_bar_is_drawn_anew(browser, tmp_path):  # noqa: F811
    for i in range(8):
        write_run(tmp_path / f"run{i}", [1.0 + i], lr=10.0**-i)
    page = shown(browser, tmp_path, "--metric=val/loss")
    page.is_changed = True
    for selector, focused in {
        "#runs thead th:nth-child(3) button": "run",
        "#runs tbody tr:nth-child(2) input": "show run1",
        "#chosen .chip:nth-child(3)": "run2  3.0000",
    }.items():
        page.run(f"document.querySelector('{selector}').focus()")
        page.click(selector)
        assert page.run(FOCUSED) == focused


def test_the_page_says_which_times_these_are_and_how_many_recipes_it_leaves_out(browser, tmp_path):  # noqa: F811
    for i in range(MOST_SINGLE + 5):
        write_run(tmp_path / f"run{i}", [1.0], [0.5 + i / 100], lr=1.0 + i, seed=1)
    write_run(tmp_path / "again", [1.0], [0.5], lr=1.0, seed=2)
    page = shown(browser, tmp_path, "--metric=val/accuracy")
    assert len(page.texts("#recipes tbody tr")) == MOST_SINGLE + 1
    assert "4 further recipes of a single run left out" in page.texts("#recipes .key")[0]
    assert page.texts("#subtitle")[0].endswith("2026-11-01 (UTC)")
    assert "started (UTC)" in page.texts("#runs thead th")
