from types import SimpleNamespace

import pytest


@pytest.fixture
def account(tmp_path, monkeypatch):
    """What W&B knows of the user, with credentials or without; nothing of it comes from this machine."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def make(base_url, api_key=None, identity_token_file=None, mode="online"):
        return SimpleNamespace(base_url=base_url, api_key=api_key, identity_token_file=identity_token_file, mode=mode)

    return make
