"""The report on 127.0.0.1: made anew when it is asked for and the runs have gone on since."""

import hashlib
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from analysis.compare.html_page import html_page
from analysis.compare.report import Choice, find_comparison
from analysis.read.index import Stamps, stamps_of_all
from data.errors import UserError, in_one_line
from data.paths import default_runs_dir, expanded
from data.visible import say, visible, warn

HOST = "127.0.0.1"


class Pages:
    """Makes the page of a report, and keeps it as long as the runs' files stay as they are.

    Args:
        choice: which runs are compared.
        command: the command line that makes the page, which it names.
    """

    def __init__(self, choice: Choice, command: str) -> None:
        self.choice = choice
        self.command = command
        self.stamps: Stamps | None = None  # of the page
        self.page = b""
        self.lock = Lock()  # a browser asks several times at once

    def current(self) -> tuple[str, bytes]:
        """Return the stamp of the runs that the page knows, and the page.

        Raises:
            UserError: there are no such runs any more.
        """
        with self.lock:
            stamps = self.current_stamps()
            if stamps != self.stamps:
                page = html_page(find_comparison(self.choice), self.command, tag_of(stamps))
                self.stamps, self.page = stamps, page.encode("utf-8", "replace")
            return tag_of(stamps), self.page

    def current_stamps(self) -> Stamps:
        """Return the stamps of the runs as they are now."""
        return stamps_of_all(expanded(self.choice.runs_dir or default_runs_dir()))


def tag_of(stamps: Stamps) -> str:
    """Return what changes whenever the runs go on, as an HTTP ETag; "" without runs."""
    return stamps.runs and f'"{hashlib.sha256(stamps.runs.encode("utf-8", "surrogateescape")).hexdigest()[:16]}"'


class Handler(BaseHTTPRequestHandler):
    """Answers a browser: there is one page.

    Args:
        pages: makes the page.
        details: of the request, from the server.
    """

    def __init__(self, pages: Pages, *details: Any) -> None:
        self.pages = pages
        super().__init__(*details)

    def do_GET(self) -> None:
        """Answer with the page, or with a line that says why there is none; to HEAD with the stamp of the runs."""
        name = self.headers.get("Host", "").partition(":")[0]  # without a port where that is 80
        if name not in (HOST, "localhost"):  # another site's name that leads here, whose scripts would read the page
            return self.answer(HTTPStatus.FORBIDDEN, b"ask 127.0.0.1", "text/plain")
        if self.path.partition("?")[0] not in ("/", "/index.html"):
            return self.answer(HTTPStatus.NOT_FOUND, b"there is one page, /", "text/plain")
        try:
            if self.command == "HEAD":
                return self.answer(HTTPStatus.OK, b"", "text/html", tag_of(self.pages.current_stamps()))
            stamp, page = self.pages.current()
        except (UserError, OSError) as error:
            line = f"no report: {visible(error)}; load again once there is one"
            return self.answer(HTTPStatus.SERVICE_UNAVAILABLE, line.encode(), "text/plain")
        except Exception as error:  # the runs go on, and the next page may come out
            warn(f"report: {type(error).__name__}: {in_one_line(error)}")
            line = f"the report has failed ({in_one_line(error)}); load again later"
            return self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, line.encode(), "text/plain")
        self.answer(HTTPStatus.OK, page, "text/html", stamp)

    do_HEAD = do_GET

    def answer(self, status: HTTPStatus, content: bytes, kind: str, stamp: str = "") -> None:
        """Send an answer; a browser that has gone away meanwhile misses it."""
        try:
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            if stamp:
                self.send_header("ETag", stamp)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet about every request."""


def make_server(choice: Choice, command: str, port: int) -> ThreadingHTTPServer:
    """Return a server of the report, which has made the page once.

    Args:
        choice: which runs are compared.
        command: the command line that makes the page, which it names.
        port: where; 0 for any that is free.

    Raises:
        UserError: there are no such runs, or the port cannot be had.
    """
    pages = Pages(choice, command)
    pages.current()  # now, while an error ends the program
    try:
        server = ThreadingHTTPServer((HOST, port), partial(Handler, pages))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise UserError(f"--port={port}: {reason}: name another, or 0 for any that is free") from None
    server.daemon_threads = True
    return server


def serve(choice: Choice, command: str, port: int) -> None:
    """Serve the report until Ctrl-C; arguments and errors are those of `make_server`."""
    with make_server(choice, command, port) as server:
        say(f"http://{HOST}:{server.server_port}/ shows the report until Ctrl-C; it says when the runs have gone on")
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.1)
