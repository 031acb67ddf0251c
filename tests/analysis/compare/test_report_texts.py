"""Long names in the report, in a real Chromium: whole, or with an ellipsis and the whole of them at the pointer."""

import json
import random

import pytest

from analysis import report
from analysis.record import run_folder
from tests.run_folders import write_run

RUN = "2026-11-27_variational-autoencoder-with-a-long-name-of-its-own"
ARCHITECTURES = [f"tf_efficientnet_lite{i}.in1k_pretrained" for i in range(3)]
METRIC = "val/bits_per_dimension"
LONG = {
    "generator_spectral_normalisation_of_all_its_convolutions": (True, False),
    "discriminator_steps_per_generator_step": (1, 2, 5),
    "label_smoothing_of_the_discriminator": (0.1, 0.2, 0.3),
    "steps": (10, 20, 30),
}
WIDEST = "Math.max(...[...document.querySelectorAll('#runs td')].map((cell) => cell.offsetWidth))"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    runs_dir = tmp_path_factory.mktemp("runs")
    draw = random.Random(0)
    for i in range(24):
        settings = {name: draw.choice(values) for name, values in LONG.items()}
        settings |= {"arch": ARCHITECTURES[i % 3], "note": "a word " * 300 + str(i % 2)}
        folder = write_run(runs_dir / f"{RUN}-{i:02d}", [1 + i / 10], **settings)
        rows = [json.loads(line) for line in (folder / run_folder.METRICS).read_text().splitlines()]
        text = "".join(json.dumps({**row, METRIC: row["val/loss"]}) + "\n" for row in rows)
        (folder / run_folder.METRICS).write_text(text)
    page = runs_dir / "report.html"
    assert report.main([f"--runs_dir={runs_dir}", f"--metric={METRIC}", f"--out={page}"]) == 0
    return page


@pytest.fixture
def opened(browser, page):
    if browser.run("location.href") != page.as_uri():
        browser.open(page)
    return browser


def boxes(browser, selector):
    """Left, top, right and bottom of elements."""
    script = f"[...document.querySelectorAll('{selector}')].map((one) => one.getBoundingClientRect())"
    return browser.run(f"{script}.map((box) => [box.left, box.top, box.right, box.bottom])")


def overlap(one, other):
    """Whether two boxes share more than their edges."""
    return all(min(one[2 + k], other[2 + k]) - max(one[k], other[k]) > 1 for k in (0, 1))


def test_no_axis_of_parallel_coordinates_has_a_title_that_is_cut_or_lies_on_another_one(opened):
    annotations = opened.run("document.querySelector('#parallel-chart').layout.annotations")
    titles = [each for each in annotations if each.get("hovertext") in {METRIC, "arch", "note", *LONG}]
    texts = {each["hovertext"]: each["text"].removeprefix("<b>").removesuffix("</b>") for each in titles}
    assert texts.keys() == {METRIC, "arch", "note", *LONG}
    for name, text in texts.items():
        assert "…" in text or text.replace("<br>", "") == name
    assert texts[METRIC].replace("<br>", "") == METRIC
    assert texts["steps"] == "steps"
    found = boxes(opened, "#parallel-chart .annotation-text")
    [chart] = boxes(opened, "#parallel-chart .main-svg:first-child")
    drawn = [box for each, box in zip(annotations, found, strict=True) if each in titles]
    assert not [pair for k, one in enumerate(drawn) for pair in drawn[:k] if overlap(one, pair)]
    assert all(chart[0] <= left and top >= chart[1] and right <= chart[2] for left, top, right, _ in drawn)


def test_values_that_differ_at_their_ends_look_different_where_they_are_shortened(opened):
    for chart, texts in (
        ("#parallel-chart", "layout.annotations.filter((each) => each.text.includes('lite')).map((each) => each.text)"),
        ("[data-setting=arch]", "layout.xaxis.ticktext"),
    ):
        shown = opened.run(f"document.querySelector('{chart}').{texts}")
        assert len(set(shown)) == 3, shown
        assert all("…" in text for text in shown)


def test_names_of_runs_are_told_apart_in_the_table_the_chips_and_the_comparer(opened):
    for selector in ("#runs td:nth-child(3) .clipped", ".chip .clipped", "#differences thead .clipped"):
        tails = opened.run(
            f"[...document.querySelectorAll('{selector}')].map((one) => "
            "one.lastChild.scrollWidth <= one.clientWidth && one.lastChild.textContent)"
        )
        assert len(tails) == len(set(tails)) >= 5, selector
        assert False not in tails, selector
        assert opened.run(f"[...document.querySelectorAll('{selector}')].every((one) => one.title === one.textContent)")
    assert opened.column("run")[0] == f"{RUN}-00"  # the whole of it is there, to be copied and found


def test_no_value_of_a_setting_makes_a_column_as_wide_as_the_window(opened):
    assert opened.run(WIDEST) < 400
    assert (
        opened.run(
            "Math.max(...[...document.querySelectorAll('#differences tr:not(.group) th')].map((th) => th.offsetWidth))"
        )
        < 400
    )
    rows = opened.run(
        "[...document.querySelectorAll('#differences tbody th[scope=row] .clipped')].map((th) => th.title)"
    )
    assert set(LONG) <= set(rows)


def test_the_buttons_of_a_chart_lie_on_nothing_that_it_draws(opened):
    charts = "[...document.querySelectorAll('.js-plotly-plot')].filter((one) => one.offsetWidth)"
    top = "one.getBoundingClientRect().top + one._fullLayout.yaxis._offset"
    bottom = "one.querySelector('.modebar').getBoundingClientRect().bottom"
    assert (
        opened.run(f"{charts}.filter((one) => {bottom} > {top} + 1).map((one) => one.id || one.parentNode.innerText)")
        == []
    )
    [buttons] = boxes(opened, "#parallel-chart .modebar")
    assert not [box for box in boxes(opened, "#parallel-chart .annotation-text") if overlap(box, buttons)]


def test_a_long_value_leaves_room_for_what_is_said_of_a_recipe(browser, tmp_path):
    for i, name in enumerate(("first " * 60, "other " * 60)):
        for seed in (1, 2):
            write_run(tmp_path / f"{i}-{seed}", [1.0 + i + seed / 9], note=name, seed=seed)
    assert report.main([f"--runs_dir={tmp_path}", "--metric=val/loss"]) == 0
    browser.open(tmp_path / "report.html")
    [room, needed] = browser.run(
        "['clientWidth', 'scrollWidth'].map((one) => document.querySelector('#recipes .scroll')[one])"
    )
    assert needed <= room


@pytest.mark.parametrize("width", [390, 1280])
def test_every_name_on_an_axis_has_its_label_and_bars_have_room(browser, page, width):
    browser.open(page, width)
    option = "[...document.querySelectorAll('#setting-name option')].find((one) => one.text === 'arch').value"
    browser.run(f"(document.querySelector('#setting-name').value = {option})")
    browser.run("document.querySelector('#setting-name').dispatchEvent(new Event('change'))")
    for chart, num in (("[data-setting=arch]", 3), ("#setting-chart", 3)):
        drawn = browser.run(
            f"[...document.querySelectorAll('{chart} .xtick text')].filter((one) => one.style.display != 'none').length"
        )
        assert drawn == num
    chart = "document.querySelector('#importance-chart')"
    whole, bars = browser.run(f"[{chart}.offsetWidth, {chart}._fullLayout.xaxis._length]")
    assert bars > whole / 2
