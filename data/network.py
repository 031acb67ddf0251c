"""Whether a server can be reached, asked before a library tries in vain for minutes."""

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

TIMEOUT_SECONDS = 3.0


def unreachable(url: str) -> str:
    """What keeps us from the server of a URL; empty if nothing does, or if a proxy is to know."""
    address = urlsplit(url)
    if address.scheme in getproxies():
        return ""
    try:
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        socket.create_connection((address.hostname, port), TIMEOUT_SECONDS).close()
    except OSError:
        return f"no connection to {address.hostname}"
    return ""
