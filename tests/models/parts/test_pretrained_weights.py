"""Where the weights of a pretrained network come from."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import UserError
from models.parts.pretrained_weights import find_weights, identity
from tests.forks import Fork
from tests.models.parts.test_backbone import no_data_dir  # noqa: F401


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match=f"^--weights={path}: there is no such file$"):
            find_weights("test_vit", weights=str(path))


def test_weights_for_random_ones_are_refused(tmp_path):
    with pytest.raises(UserError, match="^--weights=a.pth is of no use to --pretrained=False"):
        find_weights("test_vit", weights="a.pth", pretrained=False)


def test_a_network_that_no_hub_has_weights_of_is_told(monkeypatch):
    with pytest.raises(UserError, match="^--arch=resnet34d.none: resnet34d has no weights called none"):
        find_weights("resnet34d.none")
    with pytest.raises(
        UserError, match="^--arch=efficientnet_b8: no hub has weights of it: name another; or give --weights=FILE"
    ):
        find_weights("efficientnet_b8")


def main(archs):
    """Be a process that says what find_weights makes of each network, and in how many seconds."""
    import huggingface_hub  # noqa: F401
    import timm  # noqa: F401

    started = time.monotonic()
    for arch in archs:
        try:
            print(find_weights(arch))
        except ValueError as error:
            print(type(error).__name__, error)
    print(time.monotonic() - started)
    return 0


def ask_hub(tmp_path, monkeypatch, endpoint, *archs):
    """What find_weights says of each network, in a process that may print nothing else.

    A process of its own, since variables of the hub count when it is imported.
    """
    for key in [key for key in os.environ if "proxy" in key.lower()]:
        monkeypatch.delenv(key)
    hub = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": endpoint}
    asked = Fork(__name__, list(archs), tmp_path / "log", environment=hub)
    assert asked.wait() == 0, asked.errors
    *results, seconds = asked.output.splitlines()
    assert asked.errors == ""
    assert float(seconds) < 10
    assert len(results) == len(archs)
    return results


@pytest.mark.slow
def test_without_a_network_the_hub_s_cache_is_used_or_one_line_tells_what_to_fetch_and_where_to_put_it(
    tmp_path, monkeypatch
):
    snapshot = tmp_path / "hub" / "hub" / "models--timm--test_vit.r160_in1k" / "snapshots" / "0a"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0a")
    kept, absent = ask_hub(tmp_path, monkeypatch, "http://127.0.0.1:9", "test_vit", "test_resnet")
    assert kept == str(snapshot / "model.safetensors")
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "vision-sweeps" / "weights"
    assert absent == (
        "UserError --arch=test_resnet: its weights could not be downloaded (no connection to 127.0.0.1): fetch "
        "model.safetensors of http://127.0.0.1:9/timm/test_resnet.r160_in1k elsewhere and put it at "
        f"{folder}/test_resnet.safetensors; or give --weights=FILE, or --pretrained=False for random ones"
    )


BROKEN = """
import http.server, sys

class Broken(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        if "test_vit" in self.path:
            self.send_error(404)
        if "test_resnet" in self.path:
            self.send_response(200)
            self.end_headers()
        # else it hangs up

    do_GET = do_HEAD

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Broken)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.slow
def test_a_hub_that_does_not_answer_as_one_is_told_in_one_line(tmp_path, monkeypatch):
    server = subprocess.Popen([sys.executable, "-c", BROKEN], stdout=subprocess.PIPE, text=True)
    archs = ("test_vit", "test_resnet", "test_efficientnet")
    try:
        results = ask_hub(tmp_path, monkeypatch, f"http://127.0.0.1:{server.stdout.readline().strip()}", *archs)
    finally:
        server.kill()
        server.communicate()
    for arch, result in zip(archs, results, strict=True):
        assert result.startswith(f"UserError --arch={arch}: its weights could not be downloaded (")
        assert "--weights" in result


def test_weights_are_known_by_their_file_s_content_and_random_ones_by_the_seed(tmp_path):
    a, b = tmp_path / "a.pth", tmp_path / "b.pth"
    a.write_bytes(b"abc")
    b.write_bytes(b"abc")
    expected = "sha256-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert identity(a, 1) == identity(b, 2) == expected
    b.write_bytes(b"abd")
    assert identity(b, 1) != expected
    assert identity(None, 1) != identity(None, 2)
    assert identity(None, 1) == identity(None, 1)


def test_a_named_file_comes_first_then_the_data_folder_then_the_cache_folder(tmp_path, monkeypatch):
    named, data, cache = tmp_path / "named.pth", tmp_path / "data", tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    in_cache = cache / "vision-sweeps" / "weights" / "test_vit.pth"
    in_data = [data / "weights" / f"test_vit{suffix}" for suffix in (".pth", ".safetensors")]
    for path in (named, in_cache, *in_data):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_weights("test_vit") == in_cache
    monkeypatch.setenv("VISION_SWEEPS_DATA", str(data))
    assert find_weights("test_vit") == in_data[1]
    in_data[1].unlink()
    assert find_weights("test_vit") == in_data[0]
    assert find_weights("test_vit", weights=str(named)) == named
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_weights("test_vit", weights="~/named.pth") == named
    assert find_weights("test_vit", pretrained=False) is None


def test_a_tag_names_other_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    for name in ("resnet18", "resnet18.tv_in1k"):
        (tmp_path / "weights" / f"{name}.pth").touch()
        assert find_weights(name).stem == name
