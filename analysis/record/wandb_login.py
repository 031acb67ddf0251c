"""Whether a run goes to Weights & Biases: what was asked for, credentials, and a server that answers."""

import netrc
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from analysis.record.run_folder import split_tags
from data import servers
from data.errors import UserError
from data.paths import expanded

# What `wandb offline`, `wandb disabled` and $WANDB_MODE ask for; "online" is the client's default, too.
MODES = {"offline": "offline", "dryrun": "offline", "disabled": "off"}
TRUE = ("1", "on", "yes", "true")  # of WANDB_DISABLED, which HuggingFace's Trainer obeys, and W&B's client no longer
# Time that an ended run has for its upload where the server is gone; $WANDB_FINISH_TIMEOUT takes its place.
FINISH_TIMEOUT_SECONDS = 300
INIT_TIMEOUT_SECONDS = 30
LONGEST_TAG, LONGEST_RUN_ID, LONGEST_PROJECT = 64, 100, 128  # characters; of a longer id the upload of weights fails
NOT_IN_PROJECTS = "/\\#?%:"


def check_limits(settings: Mapping[str, Any]) -> None:
    """Refuse names that W&B would refuse in the middle of a run or at its end.

    Raises:
        UserError: a tag, the run's id or the project's name is too long, or has letters that W&B does not take.
    """
    for tag in split_tags(settings["tags"]):
        if len(tag) > LONGEST_TAG:
            raise UserError(f"--tags: {tag} has {len(tag)} characters, and W&B takes {LONGEST_TAG}: shorten it")
    if len(settings["run_id"]) > LONGEST_RUN_ID:
        raise UserError(f"--run_id={settings['run_id']} is too long for W&B: give at most {LONGEST_RUN_ID} characters")
    project = settings["project"]
    if not project or len(project) > LONGEST_PROJECT or set(project) & set(NOT_IN_PROJECTS):
        raise UserError(
            f"--project={project} is no name of a project on W&B: give 1 to {LONGEST_PROJECT} characters, "
            f"none of {' '.join(NOT_IN_PROJECTS)}"
        )


def choose_mode(tracking: str) -> tuple[str, str]:
    """Return W&B's mode for the setting `tracking`, and in brackets the reason where auto means offline or off.

    It never asks for a key on the terminal.

    Raises:
        UserError: W&B's client is not installed, or its settings are not such that it takes, where it is asked for; or
            "online" without credentials.
    """
    if tracking == "off":
        return "off", ""
    disabled = os.environ.get("WANDB_DISABLED", "")
    if tracking == "auto" and disabled.lower() in TRUE:
        return "off", f" (WANDB_DISABLED={disabled})"
    if not is_installed():
        if tracking == "auto":
            return "off", " (wandb is not installed)"
        raise UserError(f"--tracking={tracking}: wandb is not installed: pip install wandb, or give off")
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_TIMEOUT_SECONDS))  # else a run waits for ever
    os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
    os.environ.setdefault("WANDB_INIT_TIMEOUT", str(INIT_TIMEOUT_SECONDS))  # of a server that does not answer
    settings = client_settings()
    if tracking == "offline":
        return "offline", ""
    if tracking == "auto":
        return automatic_mode(settings)
    if not has_credentials(settings):
        raise UserError("--tracking=online: there are no W&B credentials; `wandb login` gives them")
    return "online", ""


def is_installed() -> bool:
    """Return whether W&B's client is installed; a folder `wandb` of its runs in the current one is not that."""
    found = find_spec("wandb")
    return found is not None and found.origin is not None


def client_settings() -> Any:
    """Return the settings of W&B's client, from its variables in the environment and its files.

    Raises:
        UserError: it does not take one of them.
    """
    import wandb

    try:
        return wandb.setup().settings
    except wandb.errors.UsageError as error:
        raise UserError(f"W&B's settings: {error}: mend the variable WANDB_... or W&B's file of settings") from None
    except ValueError as error:
        first = error.errors()[0] if hasattr(error, "errors") else {"loc": ("mode",), "msg": str(error)}
        name = str(first["loc"][0])
        variables = [f"WANDB_{each.upper()}" for each in (name, name.removeprefix("run_"))]
        told = next((f"{each}={os.environ[each]}" for each in variables if each in os.environ), f"{name} in its file")
        raise UserError(f"W&B's settings: {told}: {first['msg']}") from None


def automatic_mode(settings: Any) -> tuple[str, str]:
    """Return the mode for --tracking=auto, with the reason for staying offline in brackets."""
    asked = os.environ.get("WANDB_MODE")
    if (asked == "online" and has_credentials(settings)) or settings.mode in MODES:
        by = f"WANDB_MODE={asked}" if asked else f"`wandb {settings.mode}`"  # which writes it to W&B's settings
        return MODES.get(settings.mode, "online"), f" ({by})"
    obstacle = find_obstacle(settings)
    return ("offline", f" ({obstacle})") if obstacle else ("online", "")


def find_obstacle(settings: Any) -> str:
    """Return what keeps us from W&B's server; empty where nothing does."""
    if not has_credentials(settings):
        return "no credentials; `wandb login` gives them"
    return servers.unreachable(settings.base_url) or servers.in_trouble(settings.base_url)


def has_credentials(settings: Any) -> bool:
    """Return whether the user has logged in to W&B's server, by environment, settings file or netrc."""
    if settings.api_key or settings.identity_token_file:
        return True
    host = urlsplit(settings.base_url).hostname or ""
    path = expanded(os.environ.get("NETRC") or "~/.netrc")
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
