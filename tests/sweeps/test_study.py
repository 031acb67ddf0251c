"""sweeps/study.py: the rows of its file, what they take, and the steps as they are taken."""

import json
import math
import time
from types import SimpleNamespace

import pytest

from analysis.terminal import clock
from data.errors import UserError
from sweeps import study
from sweeps.local import row_cost, rows
from sweeps.local.row_cost import Cost, find_costs, seconds_of, seen, with_dearest_trial
from sweeps.local.row_plan import obstacle_of, plan
from sweeps.local.rows import Row, Step, chosen, read_rows, steps_of

FOREVER = 1e9


def step(name, code="", row="a", **options):
    return Step(row, name, ("python", "-c", code), **options)


def study_of(tmp_path, *steps, workers=2, seconds=None, deadline=FOREVER):
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True, exist_ok=True)
    names = {one.row: Row(one.row, {}) for one in steps}
    return study.Study(names, steps, folder, [{}] * workers, {}, time.monotonic() + deadline, seconds or {})


@pytest.fixture
def taken(monkeypatch):
    """What was taken into the results, in place of the committed files."""
    calls = []
    monkeypatch.setattr(study.results, "update", lambda *arguments: calls.append(arguments[1:]))
    return calls


def read_file(tmp_path, text, **told):
    path = tmp_path / "rows.yaml"
    path.write_text(text)
    return read_rows(tmp_path, told, path)


def test_every_row_of_the_file_can_be_read_and_has_its_sweep(tmp_path):
    found = read_rows(tmp_path, {})
    assert {"mlp", "mlp_recipe", "mlp_lr", "ac_gan"} <= {row.name for row in found}
    for row in found:
        if row.sweep:
            assert (rows.CHECKOUT / row.sweep).is_file()
            assert row.sweep.stem == row.name
        else:
            assert row.settings["model"]
    recipe = next(row for row in found if row.name == "cnn_recipe")
    assert (recipe.settings["pooling"], recipe.settings["val_fraction"], recipe.settings["test"]) == ("mean", 0.0, True)


def test_settings_of_the_command_line_win(tmp_path):
    [row] = read_file(
        tmp_path, "a: {settings: {model: mlp, epochs: 3, weights: '{runs}/b'}}".replace("mlp", "timm"), epochs=2
    )
    assert (row.settings["epochs"], row.settings["weights"]) == (2, f"{tmp_path}/b")


@pytest.mark.parametrize(
    "text",
    [
        "a: {settings: {model: mlp}, after: b}",
        "a: 3",
        "[]",
        "a: {settings: {model: no_such}}",
        "a: {settings: {weights: '{x}'}}",
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(UserError) as error:
        read_file(tmp_path, text)
    assert "\n" not in str(error.value)


def test_rows_are_chosen_by_name_and_pattern_in_the_order_asked_for():
    found = [Row(name, {}) for name in ("a", "b_recipe", "c_recipe")]
    assert [row.name for row in chosen(found, "c*,a")] == ["c_recipe", "a"]
    with pytest.raises(UserError, match=r"--rows=d is none.*a, b_recipe"):
        chosen(found, "a,d")


def test_first_runs_come_before_second_ones_and_sweeps_last():
    found = [Row("s", {}, sweep=rows.Path("s.yaml")), Row("a", {}), Row("b", {}, seeds=1, then=("look", "{run}"))]
    steps = steps_of(found, 2, ["--workers=2"])
    assert [one.name for one in steps] == ["a-seed1", "b-seed1", "b-seed1-then", "a-seed2", "s-search", "s-final"]
    assert steps[2].words == ("look", "b-seed1")
    assert steps[2].after == ("b-seed1",)
    assert steps[5].words[-2:] == ("--seeds=2", "--workers=2")


def test_a_run_costs_its_epochs_and_what_lies_beside_them():
    row = Row("a", {"model": "mlp", "epochs": 4}, then=("look", "{run}"))
    training, look = steps_of([row], 1, ())
    assert seconds_of(training, row, Cost(5.0, 100.0, 1000)) == 5 + 4 * 10
    assert seconds_of(look, row, Cost(5.0, 100.0, 1000)) == 0
    assert seconds_of(training, row, Cost(beside=math.inf)) == math.inf


SOME_SWEEP = """\
{program: train.py, method: random, run_cap: 7, metric: {name: val/loss, goal: minimize}, parameters: {lr:
{min: 0.1, max: 0.2}, epochs: {value: 4}, train_fraction: {value: 0.25}, val_fraction: {value: 0.2}}}
"""
TRIAL = 5 + 4 * 1000 / 100  # seconds, of 5,000 images: a quarter, of which a fifth is held out
FINAL = 5 + 4 * 5000 / 100


@pytest.fixture
def some_lr(tmp_path, monkeypatch):
    """A study of one sweep, whose cost is known; its folder."""
    (tmp_path / "some_lr.yaml").write_text(SOME_SWEEP)
    (tmp_path / "rows.yaml").write_text(f"some_lr: {{sweep: {tmp_path}/some_lr.yaml}}\n")
    monkeypatch.setattr(rows, "FILE", tmp_path / "rows.yaml")
    monkeypatch.setattr(study, "find_costs", lambda *arguments: {"some_lr": Cost(5.0, 100.0, 1000)})
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    (tmp_path / "study").mkdir()
    return tmp_path / "study"


@pytest.mark.parametrize(
    ("options", "done", "seconds"),
    [
        (["--seeds=3"], [], 7 * TRIAL + 3 * FINAL),
        (["--seeds=10"], [], 7 * TRIAL + 10 * FINAL),
        (["--seeds=3"], ["search"], 3 * FINAL),
        (["--seeds=4", "--workers=2", "--hours=0.12"], ["search"], 2 * FINAL),  # one worker has searched
        (["--seeds=3"], ["search", "final"], 0),
        (["--seeds=4"], ["search", "final"], 4 * FINAL),
    ],
)
def test_a_sweep_is_planned_by_what_is_left_of_it_whoever_has_searched(some_lr, capsys, options, done, seconds):
    words = {
        "search": ["python", "sweeps/agent.py", str(some_lr.parent / "some_lr.yaml"), "--workers=1"],
        "final": ["python", "sweeps/final.py", "some_lr", "--seeds=3", "--workers=1"],
    }
    done = {f"some_lr-{name}": {"words": words[name], "seconds": 9.0} for name in done}
    (some_lr / "done.json").write_text(json.dumps(done))
    assert study.main([*options, "--plan"]) == 0
    told = capsys.readouterr().out
    assert f"in all about {clock(seconds)}" in told
    assert "does not fit" not in told


def test_the_plan_takes_what_fits_and_says_why_the_rest_does_not(capsys):
    found = [Row(name, {"epochs": 10}) for name in ("short", "long", "broken", "over", "bare")]
    found[-1] = Row("bare", {"epochs": 10}, then=("look", "{run}"))
    found.append(Row("next", {"epochs": 1}, after="long"))
    costs = {"short": Cost(0, 100, 9000), "long": Cost(0, 1, 9000), "broken": Cost(fault="no images")}
    done = {*(f"{name}-seed2" for name in ("long", "broken", "next")), "over-seed1", "over-seed2", "bare-seed1"}
    done |= {"bare-seed2", "bare-seed2-then"}  # but not what follows on its first run
    steps = [one for one in steps_of(found, 2, ()) if one.name not in done]
    assert [row.name for row in plan(found, costs, steps, 1.0, 2)] == ["short", "over", "bare"]
    output = capsys.readouterr()
    for word in ("30m00s", "does not fit", "done", "trained, more to do", "needs long"):
        assert word in output.out
    assert "broken cannot be trained: no images" in output.err


def test_a_row_is_kept_out_of_the_plan_by_a_fault_by_what_it_needs_or_by_the_time():
    row = Row("a", {}, after="b")
    assert obstacle_of(row, Cost(fault="no images"), 9.0, 8.0, {"b"}) == "see below"
    assert obstacle_of(row, Cost(), 9.0, 8.0, {"a", "b"}) == "needs b"
    assert obstacle_of(row, Cost(), 9.0, 8.0, {"a"}) == "does not fit"
    assert obstacle_of(row, Cost(), 8.0, 8.0, {"a"}) == ""


def test_steps_are_taken_in_order_once_and_those_that_need_a_failed_one_are_not(tmp_path, taken, capsys):
    log = tmp_path / "log"
    note = f"import pathlib, sys; open({str(log)!r}, 'a').write(sys.argv[0] + '{{}}')"
    steps = [
        step("a1", note.format("1")),
        step("bad", "raise SystemExit(3)", row="b"),
        step("b2", note.format("4"), row="b", after=("bad",)),
        step("a1-then", note.format("2"), after=("a1",)),
        step("c1", note.format("3"), row="c", after=("a",)),
        step("d1", note.format("5"), row="d", after=("b",)),
    ]
    assert study_of(tmp_path, *steps).run() == 1
    assert log.read_text() == "-c1-c2-c3"
    errors = capsys.readouterr().err
    assert "b2: left out, since bad failed" in errors
    assert "d1: left out, since b failed" in errors
    assert [names for names, _ in taken] == [[], []]  # of a and c, whose steps are no runs
    again = study_of(tmp_path, *steps[:1], steps[3])
    assert not again.waiting
    assert again.run() == 0


def test_a_step_is_taken_again_when_its_command_has_changed(tmp_path, taken):
    study_of(tmp_path, step("a1", "pass")).run()
    assert [one.name for one in study_of(tmp_path, step("a1", "0"), step("a2", "0")).waiting] == ["a1", "a2"]


def test_a_sweep_has_all_workers_to_itself(tmp_path, taken):
    log = tmp_path / "log"
    write = f"import time; f = open({str(log)!r}, 'a'); f.write('<'); f.flush(); time.sleep(0.2); f.write('>')"
    study_of(tmp_path, step("a1", write), step("s", write, row="s", takes_all=True), step("a2", write)).run()
    assert log.read_text() == "<><><>"


def test_what_cannot_end_in_time_is_not_begun(tmp_path, taken, capsys):
    one = study_of(tmp_path, step("a1", "pass", trains=True), seconds={"a1": 900.0}, deadline=600)
    assert one.run() == 0
    assert "a1: left out, it takes 15m00s, of 10m00s that are left" in capsys.readouterr().out


def test_what_follows_on_a_step_that_is_left_out_is_left_out_too_and_the_study_ends(tmp_path, taken, capsys):
    steps = [
        step("d1", "pass", row="d", after=("c",)),
        step("a1", "pass", trains=True),
        step("a1-then", "pass", after=("a1",)),
        step("b1", "pass", row="b"),
        step("c1", "pass", row="c", after=("a",)),
    ]
    started = time.monotonic()
    one = study_of(tmp_path, *steps, seconds={"a1": 900.0}, deadline=60)
    assert one.run() == 0
    assert time.monotonic() - started < 30
    assert list(one.done) == ["b1"]
    assert not one.failed
    told = capsys.readouterr().out
    for line in (
        "a1-then: left out, since it needs a1",
        "c1: left out, since it needs a",
        "d1: left out, since it needs c",
    ):
        assert line in told
    assert len(study_of(tmp_path, *steps).waiting) == 4  # with more time they are taken


@pytest.mark.parametrize(("state", "is_done"), [("finished", True), ("stopped", False)])
def test_a_run_that_has_been_stopped_is_not_done_though_it_ended_well(tmp_path, taken, capsys, state, is_done):
    summary = tmp_path / "runs" / "a1" / "summary.json"
    summary.parent.mkdir(parents=True)
    summary.write_text(json.dumps({"state": state}))
    steps = [step("a1", "pass", trains=True), step("a1-then", "pass", after=("a1",))]
    one = study_of(tmp_path, *steps, deadline=60)
    assert one.run() == 0
    assert [one.name for one in study_of(tmp_path, *steps).waiting] == ([] if is_done else ["a1", "a1-then"])
    assert bool(taken) == is_done
    assert ("a1: stopped; the same command goes on with it" in capsys.readouterr().out) != is_done


def test_the_end_of_time_stops_what_is_under_way(tmp_path, taken):
    started = time.monotonic()
    one = study_of(tmp_path, step("a1", "import time; time.sleep(60)"), deadline=0.5)
    assert one.run() == 0
    assert time.monotonic() - started < 30
    assert not one.failed
    assert not one.done


def test_what_is_measured_before_an_interruption_is_told_and_kept(tmp_path, monkeypatch, capsys):
    def measure(unknown, devices, environment):
        yield "a", Cost(2.0, 1234.5, 50_000)
        yield "b", Cost(beside=math.inf)
        yield "c", Cost(fault="no weights\x1b")
        raise KeyboardInterrupt

    monkeypatch.setattr(row_cost, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        find_costs([Row(name, {"model": name}) for name in "abcd"], tmp_path, "MACHINE", [{}], {})
    [costs] = json.loads((tmp_path / "costs.json").read_text()).values()
    assert [cost["images_per_second"] for cost in costs.values()] == [1234.5]
    told = capsys.readouterr().out
    assert "a: 1,234 images/s" in told
    assert "b: too slow to be measured" in told
    assert "c: no weights\\x1b" in told


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Names of the rows that are measured anew in a study of an mlp and of a sweep of its."""
    names = []

    def measure(rows, devices, environment):
        for row in rows:
            names.append(row.name)
            yield row.name, Cost(1.0, 1000.0, 9000)

    (tmp_path / "some_lr.yaml").write_text(SOME_SWEEP)
    (tmp_path / "rows.yaml").write_text(
        f"a: {{settings: {{model: mlp}}}}\nsome_lr: {{sweep: {tmp_path}/some_lr.yaml}}\n"
    )
    monkeypatch.setattr(rows, "FILE", tmp_path / "rows.yaml")
    monkeypatch.setattr(row_cost, "measure", measure)
    monkeypatch.setattr(study, "device_name", lambda device: "MACHINE")
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    return names


def test_the_cost_of_a_row_is_kept_for_its_settings_precision_and_devices(tmp_path, measured, monkeypatch):
    def anew(*options):
        measured.clear()
        with_dearest_trial.cache_clear()  # as in another process
        assert study.main([*options, "--plan"]) == 0
        return measured

    assert anew() == ["a", "some_lr"]
    assert anew() == []
    assert anew("--epochs=3") == []  # a run's cost is that of an epoch, times its epochs
    assert anew("--train_fraction=0.1") == ["a"]
    assert anew("--batch_size=1024", "--compile=True") == ["a"]
    assert anew("--workers=2") == ["a", "some_lr"]
    assert anew() == []
    (tmp_path / "some_lr.yaml").write_text(SOME_SWEEP.replace("0.25", "1.0"))
    assert anew() == ["some_lr"]
    for precision in ("fp16", "fp8"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
        assert anew() == ["a", "some_lr"]


def test_costs_of_unknown_settings_are_measured_anew(tmp_path, measured):
    (tmp_path / "study").mkdir()
    costs = {"beside": 1.0, "images_per_second": 7.0, "images": 9, "fault": ""}
    (tmp_path / "study" / "costs.json").write_text(json.dumps({"MACHINE, 1 worker": {"a": costs}}))
    assert study.main(["--rows=a", "--plan"]) == 0
    assert measured == ["a"]


COST = '{"MACHINE": {"mlp": {"images": 9, "images_per_second": %s}}}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("done.json", '{"a": 3}'),
        ("costs.json", '{"MACHINE": {"mlp": 5}}'),
        *(("costs.json", COST % value) for value in ("null", "0", "-1", '"x"')),
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path, monkeypatch, capsys, name, content):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    monkeypatch.setattr(study, "device_name", lambda device: "MACHINE")
    (tmp_path / "study").mkdir()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    (tmp_path / "study" / name).write_text(content.replace("MACHINE", "MACHINE, 1 worker on 1 device, no"))
    assert study.main(["--rows=mlp", "--plan"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{name} is damaged" in line
    assert "remove it" in line


def test_words_that_are_no_options_are_settings_though_options_begin_with_them():
    options, words = study.parse(["--seed=5", "--row=mlp", "--plan"])
    assert (options.seeds, options.rows, options.plan) == (3, "*", True)
    assert words == ["--seed=5", "--row=mlp"]


@pytest.mark.parametrize("word", ["--seed=5", "--run-id=a", "--runs_dir=b", "--dry_run"])
def test_settings_that_the_study_tells_each_run_itself_are_refused(tmp_path, monkeypatch, capsys, word):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    monkeypatch.setattr(study, "find_costs", lambda *arguments: {})
    assert study.main(["--rows=mlp", "--plan", word]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{word.replace('-id', '_id')}" in line
    assert "the study tells each run this itself; --seeds says" in line


@pytest.mark.parametrize(("is_fast", "precision"), [(True, "bf16"), (False, "no")])
def test_runs_are_in_bf16_only_where_it_is_computed_in(is_fast, precision, tmp_path, monkeypatch):
    found = []
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(study, "has_fast_bf16", lambda device: is_fast)
    monkeypatch.setattr(study, "find_costs", lambda *arguments: found.append(arguments[-1]) or {})
    assert study.main(["--rows=mlp", "--plan"]) == 0
    assert found[0]["ACCELERATE_MIXED_PRECISION"] == precision


def test_results_that_cannot_be_added_to_are_told_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    monkeypatch.setattr(study.results, "RESULTS", tmp_path / "results.json")
    (tmp_path / "results.json").write_text('[{"name"')
    assert study.main(["--rows=mlp"]) == 2
    assert "results.json is damaged" in capsys.readouterr().err


def test_a_row_that_cannot_be_trained_has_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    monkeypatch.setattr(study, "find_costs", lambda *arguments: {"mlp": Cost(fault="no images")})
    assert study.main(["--rows=mlp", "--plan"]) == 0
    assert study.main(["--rows=mlp"]) == 1
    assert "mlp cannot be trained: no images" in capsys.readouterr().err


def test_a_step_whose_result_could_not_be_written_is_taken_again(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study.results, "update", fail)
    with pytest.raises(OSError, match="No space"):
        study_of(tmp_path, step("a1", "pass")).run()
    assert [one.name for one in study_of(tmp_path, step("a1", "pass")).waiting] == ["a1"]


@pytest.mark.parametrize(
    ("code", "num_epochs", "cost"),
    [
        (-9, 0, Cost(fault="killed by SIGKILL: the last line")),
        (1, 3, Cost(fault="exit code 1: the last line")),
        (2, 0, Cost(fault="the last line")),
        (0, 3, Cost(beside=4.0, images_per_second=50.0, images=9)),  # it has stopped early
    ],
)
def test_a_short_training_that_ends_is_told_by_how_it_has_ended(tmp_path, code, num_epochs, cost):
    rows = [{"epoch": i + 1, "lr": 0.1, "epoch_seconds": 0.5, "images_per_second": 50.0} for i in range(num_epochs)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "data.json").write_text('{"num_images": {"train": 9}}')
    process, told = SimpleNamespace(returncode=code), {"exit": f"exit code {code}", "killed": "killed by SIGKILL"}
    run = SimpleNamespace(folder=tmp_path, process=process, seconds=lambda: 5.5, last_lines=lambda num: "the last line")
    run.exit = lambda: told["exit" if code >= 0 else "killed"]
    assert seen(run, has_ended=True) == cost


@pytest.mark.slow
def test_a_row_is_measured_trained_and_taken_into_the_results(tmp_path, monkeypatch, taken, capsys, lean):
    path = tmp_path / "rows.yaml"
    path.write_text("tiny: {settings: {model: mlp, dataset: digits, epochs: 1, width: 8}, note: a try}\n")
    monkeypatch.setattr(rows, "FILE", path)
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path / "runs"))
    words = ["--seeds=1", "--tracking=off", "--preview=0"]
    assert study.main(words) == 0, capsys.readouterr()
    assert taken == [(["tiny-seed1"], {"tiny": "a try"})]
    assert json.loads((tmp_path / "runs" / "tiny-seed1" / "summary.json").read_text())["state"] == "finished"
    [costs] = json.loads((tmp_path / "runs" / "study" / "costs.json").read_text()).values()
    assert [cost["images_per_second"] > 0 for cost in costs.values()] == [True]
    assert study.main(words) == 0
    assert "done" in capsys.readouterr().out
