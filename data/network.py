"""A quick test whether a server can be reached, because some libraries try for minutes before they give up."""

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

TIMEOUT_SECONDS = 3.0


def unreachable(url: str) -> str:
    """Return why the server of a URL cannot be reached; "" if it can, or if a proxy is configured for it."""
    address = urlsplit(url)
    if address.scheme in getproxies():
        return ""
    try:
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        socket.create_connection((address.hostname, port), TIMEOUT_SECONDS).close()
    except OSError:
        return f"no connection to {address.hostname}"
    return ""
