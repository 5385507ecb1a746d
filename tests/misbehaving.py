"""A web server on loopback that does wrong what servers do wrong, one path for each, and counts what it is asked.

`ETAG` and `LAST_MODIFIED` belong to ``/versioned.png``, which is not sent again to those who name one of them.
"""

import gzip
import io
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

ETAG = '"v1"'
LAST_MODIFIED = "Wed, 01 Jan 2025 00:00:00 GMT"
HTML = b"<!DOCTYPE html><html><body>This picture has moved.</body></html>"


def picture(seed: int = 0, format: str = "PNG") -> bytes:
    """A small picture of its own."""
    content = io.BytesIO()
    Image.linear_gradient("L").resize((32, 24)).rotate(seed).convert("RGB").save(content, format)
    return content.getvalue()


class Misbehaving(ThreadingHTTPServer):
    """``address`` is its root. ``asked``: requests by method and path; ``times``: when they came, by path."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.files: dict[str, bytes] = {}
        """Further paths, served as they are."""
        self.asked: Counter[tuple[str, str]] = Counter()
        self.times: dict[str, list[float]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        """Of the last request for each path."""
        self.clients: set[tuple[str, int]] = set()
        """The ends of all connections."""
        self.pause = 0.0
        """Before every answer."""
        self.is_down = False
        """Whether 503 is all that it answers."""
        self.at_once = self.most_at_once = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()

    def gets(self, path: str) -> int:
        return self.asked["GET", path]

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients hang up here on purpose


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Misbehaving]:
    server = Misbehaving(tls)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Misbehaving

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.asked[self.command, self.path] += 1
            server.clients.add(self.client_address)
            server.times.setdefault(self.path, []).append(time.monotonic())
            server.headers[self.path] = dict(self.headers)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            number = server.asked[self.command, self.path]
        try:
            server.stopping.wait(server.pause)
            if server.is_down:
                self.send(503)
            elif self.path in server.files:
                self.send(200, server.files[self.path], {"Content-Type": "image/png"})
            else:
                PATHS.get(self.path, lambda handler, _: handler.send(404, HTML))(self, number)
        finally:
            with server.lock:
                server.at_once -= 1

    def send(self, code: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """A whole answer; a Content-Length in ``headers`` wins over the true one."""
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and code != 304:
            self.wfile.write(content)

    def good(self, headers: dict[str, str] | None = None) -> None:
        self.send(200, picture(), {"Content-Type": "image/png", **(headers or {})})

    def slow(self) -> None:
        self.server.stopping.wait(5)
        self.good()

    def hop(self) -> None:
        self.send(307, headers={"Location": f"/hop-{int(self.path.removeprefix('/hop-')) + 1}"})

    def versioned(self) -> None:
        same = self.headers.get("If-None-Match") == ETAG or self.headers.get("If-Modified-Since") == LAST_MODIFIED
        versions = {"ETag": ETAG, "Last-Modified": LAST_MODIFIED}
        self.send(304, headers=versions) if same else self.good(versions)

    def hang_up(self, reset: bool) -> None:
        """Announce more than is sent; then end the connection, or reset it."""
        self.send(200, picture()[:40], {"Content-Length": "5000"})
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def trickle(self, beginning: bytes, more: bytes) -> None:
        """An answer that never ends. Its bytes come more often than clients give up waiting for some."""
        self.wfile.write(beginning)
        while not self.server.stopping.wait(0.05):
            self.wfile.write(more)
        self.close_connection = True

    def slow_hop(self) -> None:
        self.server.stopping.wait(0.2)
        self.send(307, headers={"Location": f"/slow-hop-{int(self.path.removeprefix('/slow-hop-')) + 1}"})

    def for_ever(self, chunk: bytes, pause: float) -> None:
        """A body of unknown length that does not end by itself."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        while self.command == "GET" and not self.server.stopping.wait(pause):
            self.wfile.write(chunk)
        self.close_connection = True

    def compressed(self, content: bytes) -> None:
        self.send(200, _gzipped(content), {"Content-Encoding": "gzip"})


@cache
def _gzipped(content: bytes) -> bytes:
    """Once: while 50 MB are compressed, a client waits longer than it may."""
    return gzip.compress(content)


BOMB = b"0" * 50_000_000
_gzipped(BOMB)

Behaviour = Callable[[_Handler, int], None]
"""What to do with a handler, given how often this path was asked for, this time included."""

PATHS: dict[str, Behaviour] = {
    "/good.png": lambda handler, _: handler.good(),
    "/good.jpg": lambda handler, _: handler.send(200, picture(3, "JPEG")),
    "/versioned.png": lambda handler, _: handler.versioned(),
    "/dated.png": lambda handler, _: handler.good({"Last-Modified": LAST_MODIFIED}),
    "/404": lambda handler, _: handler.send(404, HTML),
    "/410": lambda handler, _: handler.send(410),
    "/401": lambda handler, _: handler.send(401),
    "/403": lambda handler, _: handler.send(403),
    "/400": lambda handler, _: handler.send(400),
    "/304": lambda handler, _: handler.send(304),
    "/429-once": lambda handler, number: (
        handler.send(429, headers={"Retry-After": "1"}) if number == 1 else handler.good()
    ),
    "/503-dated": lambda handler, number: (
        handler.send(503, headers={"Retry-After": formatdate(time.time() + 2, usegmt=True)})
        if number == 1
        else handler.good()
    ),
    "/429": lambda handler, _: handler.send(429),
    "/429-tomorrow": lambda handler, _: handler.send(429, headers={"Retry-After": "86400"}),
    "/500-twice": lambda handler, number: handler.send(500) if number < 3 else handler.good(),
    "/503": lambda handler, _: handler.send(503, headers={"Retry-After": "soon"}),
    "/slow": lambda handler, _: handler.slow(),
    "/reset": lambda handler, _: handler.hang_up(reset=True),
    "/short": lambda handler, _: handler.hang_up(reset=False),
    "/short-once": lambda handler, number: handler.hang_up(reset=False) if number == 1 else handler.good(),
    "/page.jpg": lambda handler, _: handler.send(200, HTML, {"Content-Type": "image/jpeg"}),
    "/empty": lambda handler, _: handler.send(200),
    "/vast": lambda handler, _: handler.send(200, b"a", {"Content-Length": "1" + 30 * "0"}),
    "/endless": lambda handler, _: handler.for_ever(picture() * 1000, 0),
    "/trickle": lambda handler, _: handler.for_ever(b".", 0.05),
    "/compressed.png": lambda handler, _: handler.compressed(picture()),
    "/bomb": lambda handler, _: handler.compressed(BOMB),
    "/moved": lambda handler, _: handler.send(301, HTML, {"Location": "/good.png"}),
    "/loop": lambda handler, _: handler.send(302, headers={"Location": "/loop-back"}),
    "/loop-back": lambda handler, _: handler.send(302, headers={"Location": "/loop"}),
    "/to-private": lambda handler, _: handler.send(302, headers={"Location": "http://10.0.0.1/secret.png"}),
    "/to-loopback": lambda handler, _: handler.send(302, headers={"Location": "http://127.0.0.2/secret.png"}),
    "/to-name": lambda handler, _: handler.send(302, headers={"Location": "http://inside.example/secret.png"}),
    "/to-file": lambda handler, _: handler.send(302, headers={"Location": "file:///etc/passwd"}),
}
_HEAD = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_GZIP = _HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
TRICKLING = {
    "/slow-status": (b"HTTP/1.1 200 ", b"O"),
    "/slow-header": (_HEAD + b"X-Header: ", b"a"),
    "/slow-headers": (_HEAD, b"X-Header: a\r\n"),
    "/slow-continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "/slow-length": (_HEAD + b"Content-Length: 5000\r\n\r\n", b"a"),
    "/slow-end": (_HEAD + b"Connection: close\r\n\r\n", b"a"),
    "/slow-chunks": (_CHUNKED, b"1\r\na\r\n"),
    "/slow-chunk-size": (_CHUNKED + b"5;", b"a"),
    "/slow-trailer": (_CHUNKED + b"1\r\na\r\n0\r\nX-Trailer: ", b"a"),
    "/slow-trailers": (_CHUNKED + b"1\r\na\r\n0\r\n", b"X-Trailer: a\r\n"),
    "/slow-gzip-header": (_GZIP + b"\x1f\x8b\x08\x08" + bytes(6), b"a"),  # the name of the file has no end
    "/slow-gzip-blocks": (_GZIP + b"\x1f\x8b\x08\x00" + bytes(6), b"\x00\x00\x00\xff\xff"),  # each of no bytes
}
"""How the answer begins, and what comes again and again."""


def _trickling(beginning: bytes, more: bytes) -> Behaviour:
    return lambda handler, _: handler.trickle(beginning, more)


PATHS |= {path: _trickling(*parts) for path, parts in TRICKLING.items()}
PATHS |= {f"/slow-hop-{number}": lambda handler, _: handler.slow_hop() for number in range(30)}
PATHS["/to-nowhere"] = lambda handler, _: handler.send(302, headers={"Location": "http://[nowhere/"})
PATHS |= {f"/hop-{number}": lambda handler, _: handler.hop() for number in range(30)}
