"""The socket, how long clients may take, and signals."""

import asyncio
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from image_similarity.errors import WrongInput

HEAD_SECONDS = 10.0
"""Longest time until the head of a request is there, from when a client has connected or has its last answer."""
MOST_CONNECTIONS = 100
_HEAD_BYTES = 1 << 16
"""Longest head of a request: ids of images may be long."""
_LAST_PORT = 65535


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host`` and ``port``; 0: any port that is free. Raises ``WrongInput``."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # its last connections may linger
            listening.bind(address)
            listening.listen(MOST_CONNECTIONS)
        except OSError:
            listening.close()
            raise
        return listening
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            another = f"--port {port + 1}, or " if port < _LAST_PORT else ""
            raise WrongInput(f"port {port} is in use: give {another}--port 0 for any that is free") from None
        if error.errno == errno.EACCES:
            raise WrongInput(f"port {port} may not be used by this account: give one above 1023") from None
        raise WrongInput(f"--host {host}: {error.strerror or error}") from None


class _Impatient(H11Protocol):
    """A connection that is closed if the head of a request takes longer than `HEAD_SECONDS`."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._restart()

    def on_response_complete(self) -> None:
        self._restart()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _restart(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class Server:
    """Serves an application at a socket until it is ended."""

    def __init__(self, app: ASGIApp, listening: socket.socket):
        config = uvicorn.Config(
            app,
            http=_Impatient,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="critical",
            access_log=False,  # it would show what was asked, and the token
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it tells what broken forms hold
        self._server, self._listening = uvicorn.Server(config), listening

    def run(self) -> None:
        """Returns after Ctrl-C, SIGTERM or `stop`, once requests are answered that are at work, or after 3 s."""
        with _signals(self.stop):
            self._server.run(sockets=[self._listening])

    def stop(self) -> None:
        self._server.should_exit = True


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call ``stop``. uvicorn handles them while it runs, and sends them again when it has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
