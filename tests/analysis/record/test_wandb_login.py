import importlib.util
import re
import socket
import threading
import time
from dataclasses import asdict

import pytest

from analysis.record import wandb_login
from analysis.record.tracker import Tracker
from analysis.record.wandb_login import automatic_mode, choose_mode
from analysis.record.wandb_start import RunFacts
from data import servers
from data.errors import UserError
from models.core.settings import Settings


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def answering(server, request):
    """A server that answers a request with a status."""

    def answer():
        for _ in range(2):  # the first connection only shows that there is a server
            with server.accept()[0] as connection:
                if connection.recv(2**16):
                    status = getattr(request, "param", 200)
                    connection.sendall(f"HTTP/1.1 {status} As asked\r\nContent-Length: 0\r\n\r\n".encode())

    threading.Thread(target=answer, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_without_wandb_installed_nothing_is_sent(monkeypatch):
    monkeypatch.setattr(wandb_login, "find_spec", lambda name: None)
    assert choose_mode("auto") == ("off", " (wandb is not installed)")


def test_a_folder_of_wandbs_runs_is_not_its_client(monkeypatch, tmp_path):
    (tmp_path / "of_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(wandb_login, "find_spec", lambda name: importlib.util.find_spec("of_runs"))
    assert choose_mode("auto") == ("off", " (wandb is not installed)")


def test_without_credentials_the_run_is_offline_and_says_why(account, server):
    mode, reason = automatic_mode(account(f"http://127.0.0.1:{server.getsockname()[1]}"))
    assert mode == "offline"
    assert "wandb login" in reason


def test_without_a_connection_the_run_is_soon_offline_and_says_why(account, server):
    port = server.getsockname()[1]
    server.close()
    started = time.monotonic()
    mode, reason = automatic_mode(account(f"http://127.0.0.1:{port}", api_key="secret"))
    assert mode == "offline"
    assert "no connection to 127.0.0.1" in reason
    assert "secret" not in reason
    assert time.monotonic() - started < servers.TIMEOUT_SECONDS


def test_a_server_that_does_not_answer_is_given_up_in_time(account, monkeypatch):
    monkeypatch.setattr(servers, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        for _ in range(3):  # which fills the queue of connections, so that the next one hangs
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        started = time.monotonic()
        mode, _ = automatic_mode(account(f"http://127.0.0.1:{full.getsockname()[1]}", api_key="secret"))
        seconds = time.monotonic() - started
        for client in waiting:
            client.close()
    assert mode == "offline"
    assert 0.1 < seconds < 2


def test_a_server_that_takes_the_request_and_says_nothing_is_given_up_in_time(account, server, monkeypatch):
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 0.2)
    settings = account(f"http://127.0.0.1:{server.getsockname()[1]}", api_key="secret")
    assert automatic_mode(settings) == ("offline", " (127.0.0.1 does not answer)")


@pytest.mark.parametrize("answering", [429, 500, 503], indirect=True)
def test_a_server_in_trouble_is_not_waited_for(account, answering):
    mode, reason = automatic_mode(account(answering, api_key="secret"))
    assert mode == "offline"
    assert re.fullmatch(r" \(127.0.0.1 answers (429|500|503)\)", reason)


@pytest.mark.parametrize("answering", [200, 302, 401, 403, 404], indirect=True)
def test_any_other_answer_is_left_to_the_client(account, answering):
    assert automatic_mode(account(answering, api_key="secret")) == ("online", "")


@pytest.mark.parametrize("source", ["api_key", "identity_token_file", "netrc"])
def test_with_credentials_and_a_connection_the_run_is_online(source, account, answering, tmp_path):
    credentials = {source: "secret"}
    if source == "netrc":
        (tmp_path / "netrc").write_text("machine 127.0.0.1\nlogin user\npassword secret\n")
        (tmp_path / "netrc").chmod(0o600)
        credentials = {}
    assert automatic_mode(account(answering, **credentials)) == ("online", "")


@pytest.mark.parametrize(("asked", "mode"), [("offline", "offline"), ("online", "online"), ("disabled", "off")])
def test_wandb_mode_is_obeyed(asked, mode, account, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", asked)
    settings = account("https://api.wandb.ai", mode=asked, api_key="secret")
    assert automatic_mode(settings) == (mode, f" (WANDB_MODE={asked})")


@pytest.mark.parametrize(("value", "is_off"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_wandb_disabled_switches_off_as_in_huggingfaces_trainer_unless_tracking_is_told(value, is_off, monkeypatch):
    monkeypatch.setenv("WANDB_DISABLED", value)
    monkeypatch.setattr(wandb_login, "client_settings", lambda: None)
    monkeypatch.setattr(wandb_login, "automatic_mode", lambda settings: ("online", ""))
    assert choose_mode("auto") == (("off", f" (WANDB_DISABLED={value})") if is_off else ("online", ""))
    assert choose_mode("offline") == ("offline", "")


def test_wandb_mode_online_asks_nobody_for_a_key(account, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    settings = account(f"http://127.0.0.1:{server.getsockname()[1]}", mode="online")
    assert automatic_mode(settings) == ("offline", " (no credentials; `wandb login` gives them)")


VARIABLES = {
    "WANDB_MODE": "sometimes",
    "WANDB_BASE_URL": "localhost:8080",
    "WANDB_TAGS": "",
    "WANDB_INIT_TIMEOUT": "abc",
    "WANDB_PROJECT": "a/b",
}


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("tracking", ["auto", "offline", "online"])
def test_a_variable_that_wandb_does_not_take_is_told_in_one_line(variable, tracking, monkeypatch, tmp_path):
    monkeypatch.setattr("wandb.sdk.wandb_setup._singleton", None)  # else the settings are not read again
    monkeypatch.setenv(variable, VARIABLES[variable])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        choose_mode(tracking)
    assert "\n" not in str(error.value)
    assert VARIABLES[variable] in str(error.value)
    assert variable in str(error.value) or variable == "WANDB_PROJECT"


@pytest.mark.parametrize("tracking", ["offline", "online"])
def test_what_wandb_is_asked_for_needs_it(tracking, monkeypatch):
    monkeypatch.setattr(wandb_login, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"^--tracking={tracking}: wandb is not installed: pip install wandb"):
        choose_mode(tracking)


@pytest.mark.parametrize(("switched", "mode"), [("offline", "offline"), ("disabled", "off"), ("dryrun", "offline")])
def test_what_was_switched_off_by_a_command_of_the_client_stays_off(switched, mode, account, server):
    settings = account(f"http://127.0.0.1:{server.getsockname()[1]}", api_key="secret", mode=switched)
    assert automatic_mode(settings) == (mode, f" (`wandb {switched}`)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tags": f"night,{'t' * 65}"}, "--tags: t+ has 65 characters, and W&B takes 64"),
        ({"run_id": "r" * 101}, "--run_id=r+ is too long for W&B: give at most 100"),
        *(({"project": name}, "--project=.* is no name of a project") for name in ("", "a/b", "a#b", "p" * 129)),
    ],
)
def test_names_that_wandb_would_refuse_later_are_refused_before_anything_is_written(changes, message, tmp_path):
    settings = asdict(Settings(tracking="offline", **{"run_id": "a", **changes}))
    with pytest.raises(UserError, match=message):
        Tracker(RunFacts(tmp_path / "a", settings, {}, {}))
    assert not (tmp_path / "a").exists()
