"""The report on 127.0.0.1."""

import html
import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from analysis import report
from analysis.compare import serve
from analysis.compare.report import Choice
from analysis.compare.serve import make_server
from data.errors import UserError
from tests.run_folders import write_run
from tests.sweep_agents import ROOT, wait_until


@pytest.fixture
def made(monkeypatch):
    """How often a page was made."""
    pages = []

    def counting(*arguments):
        pages.append(arguments)
        return make(*arguments)

    make = serve.html_page
    monkeypatch.setattr(serve, "html_page", counting)
    return pages


@pytest.fixture
def server(tmp_path, made):
    write_run(tmp_path / "a", [2.0, 1.0])
    server = make_server(Choice(tmp_path), "python -m analysis.report", 0)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def stamp(server, method="HEAD"):
    """What tells a page whether the runs have gone on."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, "/")
    return connection.getresponse().headers["ETag"]


def test_the_page_is_made_anew_only_when_the_runs_have_gone_on(server, made, tmp_path):
    status, first = ask(server)
    assert (status, first.lstrip()[:9].lower()) == (200, "<!doctype")
    assert ask(server) == (200, first)
    assert len(made) == 1
    with (tmp_path / "a" / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 3, "lr": 0.1, "val/loss": 0.1234}\n')
    status, second = ask(server, "/index.html?x=1")
    assert (status, len(made)) == (200, 2)
    assert "0.1234" in second
    write_run(tmp_path / "sweeps" / "lr" / "000-b", [0.5])
    assert "000-b" in ask(server)[1]
    assert len(made) == 3


def test_a_page_is_told_that_the_runs_have_gone_on_without_being_made_anew(server, made, tmp_path):
    first = stamp(server, "GET")
    assert f'data-stamp="{html.escape(first)}"' in ask(server)[1]
    assert stamp(server) == first
    write_run(tmp_path / "b", [1.0])
    assert stamp(server) not in (first, None)
    assert len(made) == 1
    assert stamp(server, "GET") == stamp(server)
    assert len(made) == 2
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    assert (stamp(server, "GET"), stamp(server)) == (None, None)


@pytest.mark.slow
def test_an_open_page_says_that_the_runs_have_gone_on_and_loads_them(browser, server, tmp_path):
    browser.open(f"http://127.0.0.1:{server.server_port}/")
    is_hidden = "document.querySelector('#gone-on').hidden"
    assert browser.column("run") == ["a"]
    time.sleep(11)  # it asks every 10 seconds
    assert browser.run(is_hidden)
    write_run(tmp_path / "b", [0.5])
    wait_until(lambda: not browser.run(is_hidden), "the page says that the runs have gone on")
    browser.run("window.isOld = true")
    browser.click("#gone-on")
    wait_until(lambda: browser.run("!window.isOld && document.documentElement.dataset.ready"), "the page is loaded")
    assert browser.column("run") == ["b", "a"]
    assert browser.run(is_hidden)


def test_signs_of_life_of_an_agent_are_no_news_and_its_trials_are_shown_anew(server, made, tmp_path):
    write_run(tmp_path / "sweeps" / "lr" / "000-b", [0.5])
    study = tmp_path / "sweeps" / "lr" / "study.db"
    study.write_bytes(b"")
    first = stamp(server, "GET")
    os.utime(study, ns=(1, 1))
    assert stamp(server) == first
    assert stamp(server, "GET") == first
    assert len(made) == 3


def test_runs_that_are_gone_are_told_and_those_that_come_back_are_shown(server, tmp_path):
    shutil.move(tmp_path / "a", tmp_path.parent / "moved")
    status, line = ask(server)
    assert (status, line.count("\n")) == (503, 0)
    assert "there are no runs to compare" in line
    shutil.move(tmp_path.parent / "moved", tmp_path / "a")
    assert ask(server)[0] == 200


def test_a_page_that_fails_is_told_and_the_server_goes_on(server, tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "b", [1.0])
    with monkeypatch.context() as patch:
        patch.setattr(serve, "find_comparison", lambda choice: 1 / 0)
        assert ask(server) == (500, "the report has failed (division by zero); load again later")
    assert capsys.readouterr().err == "report: ZeroDivisionError: division by zero\n"
    assert ask(server)[0] == 200


def test_there_is_one_page_and_only_for_this_machine(server):
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "/etc/passwd")[0] == 404
    assert ask(server, "/../a/settings.json")[0] == 404
    assert ask(server, Host="evil.example:80")[0] == 403  # a name of another site that leads here
    for host in (f"localhost:{server.server_port}", "localhost", "127.0.0.1"):  # of port 80 browsers do not tell
        assert ask(server, Host=host)[0] == 200
    for host in ("evil.example", "", "[::1]:80", ":80"):
        assert ask(server, Host=host)[0] == 403
    assert ask(server, method="HEAD") == (200, "")
    assert ask(server, method="POST")[0] == 501


def test_a_port_that_is_taken_and_other_mistakes_are_told_in_one_line(server, tmp_path, capsys):
    here = ["--serve", "--runs_dir", str(tmp_path)]
    for more, words in {
        f"--port={server.server_port}": "Address already in use: name another, or 0",
        "--port=70000": "there is no such port",
        "--publish": "not allowed with argument --serve",
        "--sweep=none": "sweep none has no runs",
    }.items():
        assert report.main([*here, more]) == 2
        line = capsys.readouterr().err
        assert words in line
        assert line.count("\n") == 1


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_where_there_are_no_runs_the_program_ends_with_a_line(tmp_path, capsys, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there are no runs|there is no runs folder"):
        make_server(Choice(tmp_path / folder), "python -m analysis.report", 0)


@pytest.mark.slow
def test_ctrl_c_ends_the_server_without_a_word(tmp_path):
    write_run(tmp_path / "a", [1.0])
    command = [sys.executable, "-m", "analysis.report", "--serve", "--port=0", f"--runs_dir={tmp_path}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
    wait_until(lambda: "shows the report" in (tmp_path / "log").read_text() or process.poll() is not None, "it is up")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert (tmp_path / "log").read_text().count("\n") == 1
