"""A page that follows a run while it trains: ``distrib report RUN --serve``."""

import contextlib
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zlib import crc32

from distrib.insight.report import page
from distrib.insight.report.page import Section
from distrib.lifecycle.ending import say
from distrib.settings import SettingsError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
REST = 10
"""So many times what building the parts took goes by before they are built again."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'"

Build = Callable[[], tuple[str, list[Section]]]


class Parts:
    """The subtitle and the sections of the page, built anew when the journal has grown."""

    def __init__(self, journal: Path, build: Build) -> None:
        self._journal, self._build, self._lock = journal, build, threading.Lock()
        self._size, self._next = -1, 0.0
        self._built: tuple[str, list[Section]] = ("", [])

    def latest(self) -> tuple[str, list[Section]]:
        """As they are now, or were a moment ago.

        Raises:
            SettingsError: the journal cannot be read.
        """
        with self._lock:
            size, began = self._journal.stat().st_size if self._journal.exists() else 0, time.monotonic()
            if size != self._size and began >= self._next:
                self._built, self._size = self._build(), size
                self._next = time.monotonic() + REST * (time.monotonic() - began)
            return self._built


class Handler(BaseHTTPRequestHandler):
    """Answers GET for the page and its parts; everything else is refused, and nothing can be changed."""

    def __init__(self, title: str, parts: Parts, hosts: tuple[str, ...], *request: Any) -> None:
        self._title, self._parts, self._hosts = title, parts, hosts
        super().__init__(*request)

    def do_GET(self) -> None:
        """Answer."""
        # A page of somebody else's whose name leads here must not read this one (DNS rebinding).
        if self._hosts and self._host() not in self._hosts:
            self.send_error(HTTPStatus.FORBIDDEN, "This page is for browsers on the same machine")
            return
        try:
            subtitle, sections = self._parts.latest()
        except SettingsError as error:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "The journal cannot be read", str(error))
            return
        if self.path == "/":
            self._answer(page.page(self._title, subtitle, sections, live=True), "text/html")
        elif self.path == "/parts":
            contents = {section.anchor: section.content for section in sections}
            self._answer(json.dumps({"subtitle": subtitle, "sections": contents}), "application/json")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _host(self) -> str | None:
        """The name by which the page was asked for; None if that is none."""
        try:
            return urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:  # such as a bracket that is never closed
            return None

    def _answer(self, text: str, kind: str) -> None:
        content = text.encode()
        tag = f'"{crc32(content):x}-{len(content):x}"'
        same = self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if same else HTTPStatus.OK)
        self.send_header("ETag", tag)
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Security-Policy", POLICY)
        if not same:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not same:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing: a page that is open asks every few seconds."""


class Server6(ThreadingHTTPServer):
    """For addresses such as ::1."""

    address_family = socket.AF_INET6


def serve(title: str, parts: Parts, host: str, port: int) -> None:
    """Serve the page until Ctrl-C, or until asked to end (SIGTERM).

    Raises:
        SettingsError: the address cannot be had, or the journal cannot be read.
    """
    parts.latest()
    hosts = LOOPBACK if host in LOOPBACK else ()
    try:
        kind = Server6 if ":" in host else ThreadingHTTPServer
        server = kind((host, port), partial(Handler, title, parts, hosts))
    except (OSError, OverflowError) as error:
        raise SettingsError(f"cannot serve on {host}, port {port}: {error}. Give another --port or --host") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with server:
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{server.server_port}/ follows the run; Ctrl-C ends it", sys.stdout)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
