"""The report in a real Chromium, from disk and without a network."""

import json
import math
import random
import time

import pytest
from PIL import Image

from analysis import report
from analysis.compare import html_page
from analysis.record import run_folder
from data.files import write_json
from data.metrics import shown
from tests.run_folders import SWEEP, rows_of, write_gans, write_run
from tests.sweep_agents import wait_until

HOSTILE = "<img src=x onerror='window.hacked=1'> \"quoted\"\nand %{x}"
NUM_TRIALS = 12


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    """A sweep of two settings, half of it with a picture, and final runs."""
    runs_dir = tmp_path_factory.mktemp("runs")
    draw = random.Random(0)
    for i in range(NUM_TRIALS):
        lr = math.exp(draw.uniform(-10, -4))
        start = (math.log(lr) + 7) ** 2 / 5 + 0.5
        losses = [start + 1 / (epoch + 1) for epoch in range(3 if i % 4 == 3 else 6)]
        state = "stopped" if i % 4 == 3 else "finished"
        folder = runs_dir / "sweeps" / "tiny" / f"{i:03d}-trial"
        write_run(folder, losses, state=state, days=i / 24, lr=lr, optimizer="sgd" if i % 2 else "adam")
        if i % 2:
            (folder / run_folder.PANELS).mkdir()
            Image.new("RGB", (40, 30), "red").save(folder / run_folder.PANELS / "confusion_matrix.png")
    for seed in (1, 2):  # trained on all images, so that nothing was logged of a validation split
        folder = write_run(
            runs_dir / "sweeps" / "tiny" / f"final-000-trial-seed{seed}", [0.5], lr=1e-3, seed=seed, days=1
        )
        rows = [{name: value for name, value in row.items() if "val/" not in name} for row in rows_of([0.5])]
        (folder / run_folder.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        summary = {"state": "finished", "test/accuracy": 0.9 + seed / 100, "epochs": 1, "train_seconds": 1.0}
        write_json(folder / run_folder.SUMMARY, summary)
    return runs_dir


@pytest.fixture(scope="module")
def page(runs_dir):
    assert report.main(["--runs_dir", str(runs_dir), "--sweep", "tiny", "--metric", "val/loss"]) == 0
    return runs_dir / "sweeps" / "tiny" / "report.html"


@pytest.fixture
def opened(browser, page):
    """The page as it opens, loaded anew where a test has changed it."""
    if browser.run("location.href") != page.as_uri() or browser.is_changed:
        browser.open(page)
    return browser


@pytest.mark.slow
def test_the_page_draws_every_chart_without_an_error_or_a_request(browser, page):
    browser.requests()
    browser.open(page)
    requests, console = browser.requests()
    assert console == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    for term in ("loss", "accuracy"):
        assert len(browser.traces(f"[data-term={term}]")) == 5 * 2  # the best five, training and validation
        assert browser.drawn(f"[data-term={term}]") == 5 * 2
    assert browser.drawn("#progress-chart") == 2  # the staircase and the trials
    assert browser.drawn("#setting-chart") == 1
    assert browser.run("document.querySelector('#setting-chart').layout.xaxis.type") == "log"
    assert browser.run("document.querySelectorAll('#importance-chart .bars .point').length") == 2
    assert browser.run("document.querySelector('#parallel-chart').layout.shapes.length") == 3  # lr, optimizer, val/loss
    assert browser.texts(".tile .figure")[0] == "91.50 %"  # the headline: test accuracy of the final runs
    hidden = browser.run("[...document.querySelectorAll('section')].filter((one) => one.hidden).map((one) => one.id)")
    assert hidden == ["front"]  # of a sweep with several metrics
    assert browser.drawn("[data-setting=lr]") == 4  # the surface and its deviation, the best runs, and points on them


@pytest.mark.slow
def test_the_headline_of_final_runs_is_the_metric_of_their_sweep(browser, tmp_path):
    write_gans(tmp_path / "sweeps" / "s")
    page = tmp_path / "page.html"
    assert report.main([f"--runs_dir={tmp_path}", "--metric=val/fid_x_60", f"--out={page}"]) == 0
    browser.open(page)
    assert browser.texts(".tile .name")[0] == "final test/fid_x_60"
    assert browser.texts(".tile .figure")[0] == "22.00"


@pytest.mark.slow
def test_the_best_trial_of_several_seeds_is_told_by_its_mean(browser, tmp_path):
    sweep, page = tmp_path / "sweeps" / "s", tmp_path / "page.html"
    for trial, accuracies in (("000-steady", (0.9, 0.92)), ("001-lucky", (0.95, 0.8))):
        for seed, accuracy in enumerate(accuracies, 1):
            run = sweep / (f"{trial}-s{seed}" if seed > 1 else trial)
            write_run(run, [1.0], [accuracy], lr=accuracies[1] / 10, seed=seed)
    (sweep / run_folder.SWEEP_FILE).write_text(
        SWEEP.replace("val/loss, goal: minimize", "val/accuracy, goal: maximize")
    )
    assert report.main([f"--runs_dir={tmp_path}", f"--out={page}"]) == 0
    browser.open(page)
    assert browser.texts(".tile .figure")[:2] == ["91.00 %", "lr 0.092"]
    assert browser.texts(".tile .more")[0] == "± 1.41 %, 000-steady, 2 seeds"
    assert browser.column("run")[0] == "001-lucky"


@pytest.mark.slow
def test_runs_are_found_by_what_is_written_of_them_and_differ_in_what_is_written(browser, tmp_path):
    for i in range(3):
        write_run(tmp_path / f"run{i}", [1.0], [0.5 + i / 1000], lr=1.2345e-3 + i / 1e9, seed=1234567890 + i)
    assert report.main([f"--runs_dir={tmp_path}", "--metric=val/accuracy"]) == 0
    browser.open(tmp_path / "report.html")
    assert browser.column("seed") == ["1,234,567,892", "1,234,567,891", "1,234,567,890"]
    rows = dict(zip(browser.texts("#differences tbody th"), browser.texts("#differences tbody tr"), strict=False))
    assert any("0.001234502" in row and "0.0012345" in row for row in rows.values())
    browser.type("#search", "1.23e-3 50.10")
    assert browser.column("run") == ["run1"]


@pytest.mark.slow
def test_values_have_the_digits_that_they_have_in_a_terminal(opened):
    values = [0, 1e-9, 0.0005, 0.001, 0.0123456, 1.23456, -9.99, 9.99996, 12.3456, 99.999, 12345.678, 123456, 1e9]
    call = "import('page/format.js').then(({formatMetric}) => done(values.map((it) => formatMetric(name, it))))"
    for name in ("val/loss", "val/accuracy"):
        found = opened.driver.execute_async_script(f"const [name, values, done] = arguments; {call}", name, values)
        terminal = [shown(name, value) for value in values]
        assert found == [text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e") for text in terminal]


@pytest.mark.slow
def test_shown_runs_are_among_those_that_are_drawn_of_many(browser, tmp_path):
    for i in range(310):  # more than lines of parallel coordinates
        write_run(tmp_path / f"run{i:03d}", [1.0 + i], lr=10.0 ** -(i / 100))
    assert report.main([f"--runs_dir={tmp_path}", "--metric=val/loss"]) == 0
    browser.open(tmp_path / "report.html")
    places = "[...new Set(document.querySelector('#parallel-chart').data.at(-1).customdata)]"
    assert browser.run(f"{places}.slice(0, 6)") == [0, 1, 2, 3, 4, 6]
    browser.click("#chosen .chip", 1)
    assert browser.run(f"{places}.slice(0, 6)") == [0, 2, 3, 4, 6, 8]


@pytest.mark.slow
def test_a_diverged_run_leaves_an_axis_with_few_ticks_and_one_that_has_just_begun_the_unit_of_time(browser, tmp_path):
    slow = [{**row, "epoch_seconds": 7200.0} for row in rows_of([0.5, 0.4])]
    write_run(tmp_path / "diverged", [1e25])
    write_run(tmp_path / "begun", [], state=None)
    write_run(tmp_path / "long", [0.5, 0.4])
    (tmp_path / "long" / run_folder.METRICS).write_text("".join(json.dumps(row) + "\n" for row in slow))
    assert report.main([f"--runs_dir={tmp_path}", "--metric=val/loss"]) == 0
    browser.open(tmp_path / "report.html")
    assert len(browser.run("document.querySelector('#progress-chart').layout.yaxis.tickvals")) < 13
    browser.click("#chosen .chip", 2)
    browser.click("[data-choice=curves-x] button[value=seconds]")
    assert browser.run("document.querySelector('[data-term=loss]').layout.xaxis.title.text") == "hours of training"


@pytest.mark.slow
def test_settings_are_shown_on_one_scale_and_shares_within_0_and_100_percent(browser, tmp_path):
    for number, loss in enumerate((0.9, 0.3, 0.8, 0.5)):
        folder = tmp_path / f"run{number}"
        write_run(folder, [loss], [0.5], lr=10.0 ** -(number // 2), width=16 * (1 + number % 2), seed=number)
    ranges = {}
    for metric in ("val/accuracy", "val/loss"):
        page = tmp_path / f"{metric.rpartition('/')[2]}.html"
        assert report.main([f"--runs_dir={tmp_path}", f"--metric={metric}", f"--out={page}"]) == 0
        browser.open(page)
        charts = "[...document.querySelectorAll('#isolation .chart, #setting .chart')]"
        ranges[metric] = browser.run(f"{charts}.map((chart) => chart._fullLayout.yaxis.range)")
    assert all(-0.1 < low < 0.5 < high < 1.1 for low, high in ranges["val/accuracy"])
    _, *own = ranges["val/loss"]  # the first one is of the chart of all runs
    assert len(own) > 1
    assert own[1:] == own[:-1]
    assert own[0][0] < 0.3
    assert own[0][1] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.98, 0.0])
def test_no_axis_of_shares_has_a_tick_beyond_0_and_100_percent_where_all_are_alike(share, browser, tmp_path):
    for number in range(4):
        folder = tmp_path / f"run{number}"
        write_run(folder, [0.5], [share], lr=10.0 ** -(number // 2), width=16 * (1 + number % 2), seed=number)
    assert report.main([f"--runs_dir={tmp_path}", "--metric=val/accuracy"]) == 0
    browser.open(tmp_path / "report.html")
    found = "'#isolation .chart, #setting-chart, #progress-chart, [data-term=accuracy]'"
    charts = f"[...document.querySelectorAll({found})]"
    ticks = browser.run(f"{charts}.map((one) => [...one.querySelectorAll('.ytick text')].map((it) => it.textContent))")
    assert len(ticks) == 5
    for texts in ticks:
        percents = [float(text.removesuffix("%").replace("\u2212", "-")) for text in texts]
        assert len(percents) > 1
        assert 0 <= min(percents) < max(percents) <= 100


def test_the_page_is_made_of_modules_that_leave_no_globals(opened):
    scripts = "[...document.querySelectorAll('script')].map((script) => script.type)"
    assert opened.run(scripts) == ["application/json", "", "importmap", "module"]  # the second is Plotly's
    names = ["report", "ranked", "shown", "plot", "drawCurves", "element"]
    assert opened.run(f"{names}.filter((name) => name in globalThis)") == []


def test_no_line_of_the_page_is_longer_than_those_of_python():
    for path in html_page.ASSETS.iterdir():
        assert max(map(len, path.read_text().splitlines())) <= 120, path


def test_early_stopped_trials_are_marked(opened):
    symbols = opened.run("document.querySelector('#progress-chart').data.at(-1).marker.symbol")
    assert sorted(set(symbols)) == ["circle", "x-thin-open"]
    assert symbols.count("x-thin-open") == NUM_TRIALS // 4
    assert opened.column("state").count("stopped early") == opened.texts("#runs tbody td").count("stopped early") > 0


def test_time_is_told_in_a_unit_that_suits_it(opened):
    axis = "document.querySelector('[data-term=loss]').layout.xaxis.title.text"
    opened.click("[data-choice=curves-x] button[value=seconds]")
    assert opened.run(axis) == "seconds of training"
    longest = "Math.max(...document.querySelector('[data-term=loss]').data.flatMap((trace) => trace.x))"
    assert opened.run(longest) == 6 * 0.5
    opened.click("[data-choice=progress-x] button[value=ended]")
    title = opened.run("document.querySelector('#progress-chart').layout.xaxis.title.text")
    assert title == "hours since the first start"


def test_the_comparer_shows_the_settings_that_differ_alone(opened):
    rows = opened.texts("#differences tbody th")
    assert "lr" in rows
    assert "setting_3" not in rows
    assert "setting_3=3" in opened.texts("#shared")[0]


def test_pictures_of_shown_runs_lie_side_by_side(opened):
    shown = opened.run(
        "[...document.querySelectorAll('#pictures img')].map((image) => [image.alt, image.naturalWidth])"
    )
    names = [name for name in opened.column("run")[:5] if int(name[:3]) % 2]
    assert shown == [[f"confusion_matrix of {name}", 40] for name in names]


def test_colours_follow_the_scheme_of_the_reader(opened):
    colours = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        colours.append(
            opened.run(
                "['body', '.gtitle, .xtitle'].map((one) => getComputedStyle(document.querySelector(one)))"
                ".flatMap((style) => [style.backgroundColor, style.fill])"
            )
        )
    opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    light, dark = colours
    assert light[0] == "rgb(244, 245, 247)"
    assert dark[0] == "rgb(17, 20, 26)"
    assert light[3] != dark[3]  # text of a chart


def test_the_leaderboard_is_paged_sorted_and_searched(opened):
    assert opened.column("#") == [str(i) for i in range(1, 11)]
    losses = [float(text) for text in opened.column("val/loss")]
    assert losses == sorted(losses)
    opened.click("#next")
    assert len(opened.column("#")) == NUM_TRIALS + 2 - 10
    number = opened.texts("#runs thead th").index("lr")
    opened.click("#runs thead th button", number - 1)
    rates = [float(text) for text in opened.column("lr")]
    assert rates == sorted(rates)
    opened.click("#runs thead th button", number - 1)
    again = [float(text) for text in opened.column("lr")]
    assert again == sorted(again, reverse=True)
    assert again[0] > rates[0]
    assert opened.run("document.querySelector('#runs th[aria-sort]').getAttribute('aria-sort')") == "descending"
    opened.type("#search", "sgd stopped")
    assert set(opened.column("state")) == {"stopped early"}
    assert opened.texts("#found") == [f"{NUM_TRIALS // 4} runs"]


def test_toggling_a_run_hides_its_curves_and_its_column(opened):
    first = opened.column("run")[0]
    assert first in opened.traces("[data-term=loss]")
    assert first in opened.texts("#differences thead th")[1]
    opened.click("#chosen .chip")
    assert first not in opened.traces("[data-term=loss]")
    assert opened.drawn("[data-term=loss]") == 4 * 2
    assert not [text for text in opened.texts("#differences thead th") if first in text]
    opened.click("#runs tbody input")
    assert first in opened.traces("[data-term=loss]")


def test_a_box_on_an_axis_picks_the_runs_that_pass_it_until_it_is_taken_away(opened):
    lines = "document.querySelector('#parallel-chart').data.slice(0, -2)"
    num_runs = f"{lines}.map((trace) => trace.x.filter((x) => x === 0).length)"
    boxes = "document.querySelectorAll('#parallel-chart .selectionlayer path').length"
    left_out, *shades = opened.run(num_runs)
    assert (left_out, sum(shades)) == (0, NUM_TRIALS)
    opened.draw_box("#parallel-chart", [0.9, 0.8], [1.1, 1.05])  # the upper half of optimizer's axis
    for change in (lambda: None, lambda: opened.click("#chosen .chip")):  # other runs are shown
        change()
        left_out, *shades = opened.run(num_runs)
        assert (left_out, sum(shades)) == (NUM_TRIALS // 2, NUM_TRIALS // 2)
        assert opened.run(boxes) > 0
    opened.double_click("#parallel-chart", [0.5, 0.5])
    opened.click("#chosen .chip")
    left_out, *shades = opened.run(num_runs)
    assert (left_out, sum(shades), opened.run(boxes)) == (0, NUM_TRIALS, 0)


def test_what_is_enlarged_stays_so_when_another_run_is_shown_and_not_on_another_axis(opened):
    chart = "document.querySelector('[data-term=loss]')"
    ranges = f"['xaxis', 'yaxis'].map((axis) => {chart}._fullLayout[axis].range)"
    whole = opened.run(ranges)
    opened.draw_box("[data-term=loss]", [2, 0.9], [4, 1.6])
    enlarged = opened.run(ranges)
    assert enlarged == [
        [pytest.approx(2, abs=0.1), pytest.approx(4, abs=0.1)],
        [pytest.approx(0.9, abs=0.05), pytest.approx(1.6, abs=0.05)],
    ]
    opened.click("#chosen .chip")
    assert opened.run(ranges) == enlarged
    opened.click("#chosen .chip")
    opened.click("[data-choice=curves-x] button[value=seconds]")
    assert opened.run(ranges)[0] != enlarged[0]
    assert opened.run(ranges)[1] == enlarged[1]
    opened.click("[data-choice=curves-x] button[value=epoch]")
    assert opened.run(ranges)[0] == whole[0]


def test_what_a_browser_may_fill_in_by_itself_is_what_the_page_shows(opened):
    fields = "[...document.querySelectorAll('input[type=search], select')]"
    assert set(opened.run(f"{fields}.map((field) => field.autocomplete)")) == {"off"}


@pytest.mark.slow
def test_what_a_reader_has_chosen_outlives_loading_the_page_again_and_is_in_its_address(browser, page):
    browser.open(page)
    browser.click("#runs tbody input", 2)
    hidden = browser.column("run")[2]
    browser.click("[data-choice=curves-x] button[value=seconds]")
    setting = "document.querySelector('#setting-name')"
    browser.run(f"({setting}.value = '1', {setting}.onchange())")
    browser.click("#runs thead th button", browser.texts("#runs thead th").index("lr") - 1)
    browser.type("#search", "adam")
    seen = look_at(browser)
    assert hidden not in seen["lines"]
    chosen = browser.run("location.hash")
    browser.click("nav a[href='#parallel']")
    wait_until(lambda: browser.run("location.hash") == chosen, "a way to a section leaves the address as it is")
    top = "document.querySelector('#parallel').getBoundingClientRect().top"
    wait_until(lambda: 0 <= browser.run(top) < 150, "the section is at the top of the window")
    browser.open(page)
    assert not [name for name, value in look_at(browser).items() if value == seen[name]]
    browser.requests()
    browser.open(page, chosen=chosen)
    assert look_at(browser) == seen
    assert browser.requests()[1] == []
    browser.open(page)
    browser.run(f"(window.isOld = true, location.hash = {chosen!r})")  # as a link that is followed from the page itself
    wait_until(lambda: browser.run("!window.isOld && document.documentElement.dataset.ready"), "the page is drawn anew")
    assert look_at(browser) == seen


def look_at(browser):
    """Return what the reader of a report can have chosen, as the page shows it."""
    return {
        "lines": sorted(set(browser.traces("[data-term=loss]"))),
        "unit": browser.run("document.querySelector('[data-term=loss]').layout.xaxis.title.text"),
        "setting": browser.run("document.querySelector('#setting-chart').layout.xaxis.title.text"),
        "runs": browser.column("run"),
        "pressed": browser.texts("[data-choice] [aria-pressed=true]"),
    }


@pytest.mark.slow
def test_choices_outlive_loading_whatever_runs_and_settings_are_called(browser, tmp_path):
    for i in range(7):
        losses = [1.0 + i / 10] * (i % 3 + 1)
        write_run(tmp_path / f"part{i}" / "same & id=1", losses, epochs=7 - i, width=8 * (i + 1))
    assert report.main(["--runs_dir", str(tmp_path)]) == 0
    browser.open(tmp_path / "report.html")
    browser.click("#runs tbody input", 6)
    browser.click("#runs tbody input", 0)
    titles = browser.texts("#runs thead th")
    browser.click("#runs thead th button", len(titles) - 2 - titles[::-1].index("epochs"))  # the setting
    checked = "[...document.querySelectorAll('#runs tbody input')].map((box) => box.checked)"
    seen = browser.texts("#runs tbody tr"), browser.run(checked)
    assert sum(seen[1]) == 5
    browser.open(tmp_path / "report.html", chosen=browser.run("location.hash"))
    assert (browser.texts("#runs tbody tr"), browser.run(checked)) == seen
    for place in [i for i, is_checked in enumerate(seen[1]) if is_checked]:
        browser.click("#runs tbody input", place)
    browser.open(tmp_path / "report.html", chosen=browser.run("location.hash"))
    assert not any(browser.run(checked))


@pytest.mark.slow
def test_the_way_back_from_a_section_leaves_what_was_chosen_since(browser, page):
    browser.open(page)
    browser.click("#runs tbody input", 6)
    browser.click("nav a[href='#parallel']")
    browser.click("#runs tbody input", 7)
    shown = "document.querySelectorAll('#runs tbody input:checked').length"
    assert browser.run(shown) == 7
    browser.run("(window.isOld = true, history.back())")
    time.sleep(1)
    assert browser.run("window.isOld")
    assert browser.run(shown) == 7
    browser.open(page, chosen=browser.run("location.hash"))
    assert browser.run(shown) == 7


@pytest.mark.slow
def test_the_page_works_where_its_address_cannot_be_written(browser, page):
    browser.open(page)
    script = """
        const frame = document.createElement("iframe");
        Object.assign(frame, {sandbox: "allow-scripts", id: "preview", width: 1200, srcdoc: arguments[0]});
        document.body.replaceChildren(frame);
    """
    browser.driver.execute_script(script, page.read_text())
    browser.driver.switch_to.frame("preview")
    try:
        wait_until(lambda: browser.run("document.documentElement.dataset.ready") == "true", "the page is drawn")
        browser.click("#runs tbody input", 6)
        browser.type("#search", "sgd")
        assert len(browser.traces("[data-term=loss]")) == 6 * 2
        assert set(browser.column("optimizer")) == {"sgd"}
    finally:
        browser.driver.switch_to.default_content()


@pytest.mark.slow
def test_an_address_that_names_runs_that_are_gone_shows_the_best(browser, page):
    browser.open(page)
    best = browser.traces("[data-term=loss]")
    browser.open(page, chosen="#run=tiny%2Fgone&setting=gone&sort=gone&curves-x=gone")
    assert browser.traces("[data-term=loss]") == best


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 768])
def test_nothing_is_wider_than_the_window(browser, page, width):
    browser.open(page, width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    charts = "[...document.querySelectorAll('.js-plotly-plot')]"
    assert browser.run(f"{charts}.filter((one) => !one.closest('.scroll')).every((one) => one.offsetWidth <= {width})")


@pytest.mark.slow
def test_runs_that_differ_in_their_seed_alone_are_one_row(browser, tmp_path):
    for seed, accuracy in enumerate((0.90, 0.92, 0.91), 1):
        write_run(tmp_path / f"a{seed}", [1.0], [accuracy], lr=0.1, seed=seed)
        write_run(tmp_path / f"b{seed}", [1.0], [accuracy - 0.05 + 0.001 * (seed - 2)], lr=0.2, seed=seed)
    assert report.main(["--runs_dir", str(tmp_path), "--metric=val/accuracy"]) == 0
    browser.open(tmp_path / "report.html")
    assert browser.texts("#recipes tbody tr:first-child td") == [
        "val/accuracy",
        "0.1",
        "3",
        "91.00 % ± 1.00 %",
        "88.52 % to 93.48 %",
        "–",
    ]
    [other] = browser.texts("#recipes tbody tr:last-child td:last-child")
    assert other.startswith("-5.00 % [-5.25 %, -4.75 %] over the seeds, less than 1 % likely to be better")


@pytest.mark.slow
def test_names_and_settings_are_text_alone(browser, tmp_path):
    for i in range(2):
        write_run(tmp_path / f"{HOSTILE}{i}", [2.0, 1.0 + i], model=HOSTILE, note=f"{HOSTILE}{i}", lr=10.0**-i)
    assert report.main(["--runs_dir", str(tmp_path)]) == 0
    browser.requests()
    browser.open(tmp_path / "report.html")
    requests, console = browser.requests()
    assert console == []
    assert sorted(requests) == sorted([(tmp_path / "report.html").as_uri(), *html_page.modules().values()])
    assert browser.run("window.hacked === undefined")
    assert browser.column("run") == [f"{HOSTILE}0", f"{HOSTILE}1"]
    assert browser.run("document.querySelectorAll('img[src=x]').length") == 0


@pytest.mark.slow
def test_the_page_says_that_settings_are_left_out(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(html_page, "MOST_SETTINGS", 2)
    for i in range(2):
        write_run(tmp_path / f"run{i}", [2.0, 1.0 + i], lr=10.0**-i, depth=i, width=i)
    assert report.main(["--runs_dir", str(tmp_path)]) == 0
    browser.open(tmp_path / "report.html")
    assert "The 2 settings that vary most" in browser.texts("#more-settings")[0]
    assert len({"lr", "depth", "width"} & set(browser.texts("#runs thead th"))) == 2
    assert {"lr", "depth", "width"} <= set(browser.texts("#differences tbody th"))


@pytest.mark.slow
def test_the_page_says_what_the_kept_weights_have_why_a_run_failed_and_what_is_not_comparable(browser, tmp_path):
    write_run(tmp_path / "best", [0.9, 0.5, 0.6], [0.7, 0.8, 0.85], val_fraction=0.1)  # the least loss is kept
    write_run(tmp_path / "other", [0.9], [0.7], val_fraction=0.2)
    write_json(write_run(tmp_path / "gone", [0.9]) / "summary.json", {"state": "failed", "error": "out of memory"})
    (tmp_path / "notes").mkdir()
    assert report.main(["--runs_dir", str(tmp_path), "--metric=val/accuracy"]) == 0
    browser.open(tmp_path / "report.html")
    [warning] = browser.texts("#warning")
    assert (
        "differ in val_fraction: 0.1 (1), 0.2 (1)." in warning or "differ in val_fraction: 0.2 (1), 0.1 (1)." in warning
    )
    assert "1 folder in the runs folder could not be read as a run: notes." in warning
    assert "best, epoch 3; its kept weights have 80.00 %, of epoch 2" in browser.texts(".tile .more")
    assert browser.column("of kept weights")[:2] == ["80.00 %", "70.00 %"]
    assert "out of memory" in browser.run("[...document.querySelectorAll('#runs td')].map((one) => one.title)")
