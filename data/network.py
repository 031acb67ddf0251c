"""What downloads share: a quick test whether a server can be reached, and errors told in one line."""

import socket
import textwrap
from urllib.parse import urlsplit
from urllib.request import getproxies

TIMEOUT_SECONDS = 3.0


def unreachable(url: str) -> str:
    """Return why the server of a URL cannot be reached; "" if it can, or if a proxy is configured for it.

    Some libraries try for minutes before they give up.
    """
    try:
        address = urlsplit(url)
        if address.scheme in getproxies():
            return ""
        port = address.port or {"http": 80, "https": 443}[address.scheme]
    except (KeyError, ValueError):
        return f"{url} is no address of a server"
    try:
        socket.create_connection((address.hostname, port), TIMEOUT_SECONDS).close()
    except (OSError, UnicodeError):
        return f"no connection to {address.hostname}"
    return ""


def in_one_line(error: BaseException) -> str:
    """Return what an error says, shortened to one line; its kind where it says nothing."""
    return textwrap.shorten(str(error), 100, placeholder="...") or type(error).__name__
