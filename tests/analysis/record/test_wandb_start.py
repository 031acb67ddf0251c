"""A run starts offline where W&B's client cannot start it online, and says why."""

import errno
import io
import logging
from types import SimpleNamespace

import pytest

from analysis.record import wandb_start
from analysis.record.wandb_start import RunFacts, start_wandb
from data.errors import UserError

wandb = pytest.importorskip("wandb")
PROXY = "Timed out while retrying: Post: proxyconnect tcp: connect: connection refused\nConsider increasing the timeout"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a run whose client fails of an error where it is to be online."""

    def start_with(error, tracking):
        def init(facts, mode):
            if mode == "online":
                raise error
            return SimpleNamespace(config={}, define_metric=lambda *_, **__: None)

        monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
        monkeypatch.setattr(wandb_start, "init_wandb", init)
        monkeypatch.setattr(wandb_start, "upload_command", lambda *_: "wandb sync x")
        monkeypatch.setattr(wandb, "teardown", lambda: None)
        monkeypatch.setattr(logging, "raiseExceptions", True)  # as it is before a run starts
        start_wandb(RunFacts(tmp_path, {"tracking": tracking}, {}, {}), "online", "")

    return start_with


@pytest.mark.parametrize(
    ("text", "told"), [(PROXY, PROXY.partition("\n")[0]), ("", "CommError"), ("\nNo network", "No network")]
)
def test_the_first_line_of_the_clients_error_is_the_reason(text, told, start, capsys):
    start(wandb.errors.CommError(text), "auto")
    assert capsys.readouterr().out == f"W&B: offline ({told}); to upload later: wandb sync x\n"
    with pytest.raises(UserError) as error:
        start(wandb.errors.CommError(text), "online")
    assert str(error.value) == f"--tracking=online: {told}; give offline, or off"


def test_a_log_of_the_client_that_finds_the_disk_full_prints_no_traceback(start, capsys):
    class FullDisk(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    start(wandb.errors.CommError("No network"), "auto")
    handler = logging.StreamHandler(FullDisk())
    handler.handle(logging.makeLogRecord({"msg": "restore done"}))
    assert capsys.readouterr().err == ""
