"""Whether a server can be reached and is well, told in seconds and in one line."""

import socket
from http import HTTPStatus
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import getproxies, urlopen

TIMEOUT_SECONDS = 3.0
ANSWER_SECONDS = 10.0


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


def in_trouble(url: str) -> str:
    """Return what is wrong with a server that can be reached but does not answer, or has an error; "" if it is well.

    What else there may be, such as a refusal or a certificate that is unknown here, is left to the server's own client.
    """
    host = urlsplit(url).hostname
    try:
        urlopen(url, timeout=ANSWER_SECONDS).close()
    except HTTPError as error:
        is_overloaded = error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code == HTTPStatus.TOO_MANY_REQUESTS
        return f"{host} answers {error.code}" if is_overloaded else ""
    except TimeoutError:
        return f"{host} does not answer"
    except URLError as error:
        return f"{host} does not answer" if isinstance(error.reason, TimeoutError) else ""
    except (OSError, HTTPException, ValueError):
        return ""
    return ""
