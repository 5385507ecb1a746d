"""Files at http(s) addresses: fetched with retries and limits, or refused with a reason.

Others write the lists of addresses, and servers may answer anything. So bytes, seconds, redirects and attempts are
limited. Pauses that servers ask for are kept. Unless ``http.private_addresses`` is set, no connection is made to an
address that is not on the public internet. Proxies of the environment are not used.
"""

import ipaddress
import itertools
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
)
from urllib3.exceptions import TimeoutError as HttpTimeout

from image_similarity.errors import Unreadable
from image_similarity.storage.blobs import appearing_when_complete

SCHEMES = ("http", "https")

_CHUNK = 1 << 16
_HOSTS_KEPT = 64
_PERMANENT = {401: "forbidden", 403: "forbidden", 451: "forbidden", 404: "not_found", 410: "not_found"}
_TRANSIENT = {408: "timeout", 429: "rate_limited"}
_MANAGER_LOCK = threading.Lock()
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_INSIDE_CLOUDS = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
"""Global by their registration, and yet metadata services: of Azure, and of Oracle (192.0.0.192) among addresses that
are reserved for protocols.
"""

T = TypeVar("T")


class HttpOptions(Hashable, Protocol):
    """The options of requests. ``[http]`` of the settings documents them. They are hashable, since each set of options
    has its own connections.
    """

    @property
    def user_agent(self) -> str: ...
    @property
    def connections_per_host(self) -> int: ...
    @property
    def connect_seconds(self) -> float: ...
    @property
    def read_seconds(self) -> float: ...
    @property
    def total_seconds(self) -> float: ...
    @property
    def retries(self) -> int: ...
    @property
    def backoff_seconds(self) -> float: ...
    @property
    def retry_after_seconds(self) -> float: ...
    @property
    def redirects(self) -> int: ...
    @property
    def private_addresses(self) -> bool: ...


@dataclass(frozen=True)
class Answer:
    content: bytes | None
    """None: the server says that the file is unchanged since the version in the request."""
    etag: str | None
    last_modified: str | None
    """In the server's own format."""


@dataclass(frozen=True)
class Status:
    """Size and version of a file, from a server that did not send the file. Each value may be missing."""

    size_bytes: int | None
    etag: str | None
    last_modified: str | None


class _TransientFailure(Unreadable):
    """A transient failure. ``retry_after``: the pause in seconds that the server asks for."""

    def __init__(self, reason: str, detail: str, retry_after: float | None = None):
        super().__init__(reason, detail)
        self.retry_after = retry_after


def get(
    address: str,
    max_bytes: int,
    options: HttpOptions,
    etag: str | None = None,
    last_modified: str | None = None,
) -> Answer:
    """The file at ``address``. Compressed content is decoded.

    With ``etag`` or ``last_modified`` of an earlier answer, the content is sent only if it changed since then. Raises
    `Unreadable` with one of `fetch.FETCH_REASONS`. A file longer than ``max_bytes`` is read to one chunk (64 KiB) above
    that at most.
    """
    conditions = {"If-None-Match": etag, "If-Modified-Since": last_modified}
    headers = {name: value for name, value in conditions.items() if value is not None}

    def attempt(deadline: float) -> Answer:
        with _response("GET", address, headers, options, deadline) as response:
            content = None if response.status == 304 else _body(response, max_bytes, deadline)
            return Answer(content, response.headers.get("ETag"), response.headers.get("Last-Modified"))

    return _with_retries(attempt, options)


def download(address: str, target: Path, options: HttpOptions) -> None:
    """Copy the file at ``address`` to ``target``, which appears only when it is complete. The size is not limited.

    Raises `Unreadable` with one of `fetch.FETCH_REASONS`, or ``OSError`` if ``target`` cannot be written.
    """

    def attempt(deadline: float) -> None:
        with _response("GET", address, {}, options, deadline) as response, appearing_when_complete(target) as out:
            for chunk in _chunks(response, deadline):
                out.write(chunk)

    _with_retries(attempt, options)


def status(address: str, options: HttpOptions) -> Status | None:
    """Size and version of the file at ``address``, by a HEAD request; None if it fails, for whatever reason."""

    def attempt(deadline: float) -> Status:
        with _response("HEAD", address, {}, options, deadline) as response:
            return Status(_announced(response), response.headers.get("ETag"), response.headers.get("Last-Modified"))

    try:
        return _with_retries(attempt, options)
    except Unreadable:
        return None


def _with_retries(attempt: Callable[[float], T], options: HttpOptions) -> T:
    """The result of ``attempt(deadline)``. Transient failures are retried while there are attempts and time left.

    The pause before a retry is the one that the server asks for, or a random one that doubles with each attempt, if
    that is longer. Random pauses keep many workers that failed together from returning together. There is no retry if
    the server asks for a longer pause than the options allow.
    """
    deadline = time.monotonic() + options.total_seconds
    for attempts in itertools.count(1):
        try:
            return attempt(deadline)
        except _TransientFailure as failure:
            pause = options.backoff_seconds * 2 ** (attempts - 1) * random.uniform(0.5, 1.5)
            if failure.retry_after is not None:
                pause = max(pause, failure.retry_after)
            too_long = (failure.retry_after or 0) > options.retry_after_seconds or time.monotonic() + pause > deadline
            if attempts > options.retries or too_long:
                raise
            time.sleep(pause)
    raise AssertionError("unreachable")


@contextmanager
def _response(
    method: str, address: str, headers: dict[str, str], options: HttpOptions, deadline: float
) -> Iterator[urllib3.BaseHTTPResponse]:
    """The response at the end of all redirects: 2xx, or 304 if ``headers`` name a version. Its body is not read yet."""
    addresses = [address]
    while True:
        with _failures_as_unreadable(), _single_response(method, addresses[-1], headers, options, deadline) as response:
            location = response.get_redirect_location()
            if not location:
                _check_status(response, may_be_unchanged=bool(headers))
                yield response
                return
            next_address = urljoin(addresses[-1], location)
        if next_address in addresses or len(addresses) > options.redirects:
            raise Unreadable("too_many_redirects", f"{len(addresses)} redirects, the last to {next_address}")
        addresses.append(next_address)


@contextmanager
def _single_response(
    method: str, address: str, headers: dict[str, str], options: HttpOptions, deadline: float
) -> Iterator[urllib3.BaseHTTPResponse]:
    """One request and its response of any status. The connection is closed unless the body is read to its end."""
    scheme = address.partition("://")[0].lower()
    if scheme not in SCHEMES or "://" not in address:
        raise Unreadable("unsupported_scheme", f"{address}: no http(s) address")
    left = _seconds_left(deadline)
    timeout = urllib3.Timeout(connect=min(options.connect_seconds, left), read=min(options.read_seconds, left))
    with _MANAGER_LOCK:  # threads that begin together must share one manager
        manager = _manager(os.getpid(), options)
    response = manager.request(
        method,
        address,
        headers={**manager.headers, **headers},
        timeout=timeout,
        redirect=False,
        retries=False,
        preload_content=False,
    )
    try:
        yield response
    finally:
        if response.length_remaining == 0:
            response.drain_conn()  # sees the end of the body, which keeps the connection open
        response.close()
        response.release_conn()  # after close; the pool counts connections, and would wait for this one for ever


@contextmanager
def _failures_as_unreadable() -> Iterator[None]:
    try:
        yield
    except NewConnectionError as error:  # no such host, or no listener; urllib3 counts it as a timeout
        raise _TransientFailure("io_error", str(error)) from None
    except HttpTimeout as error:
        raise _TransientFailure("timeout", str(error)) from None
    except ValueError:  # its text has the address in a form that hides no password
        raise Unreadable("unsupported_scheme", "not a valid address") from None
    except ProtocolError as error:  # reset, closed too early, or no HTTP
        raise _TransientFailure("incomplete", str(error)) from None
    except HTTPError as error:  # an invalid certificate, ...
        raise _TransientFailure("io_error", str(error)) from None


def _check_status(response: urllib3.BaseHTTPResponse, may_be_unchanged: bool) -> None:
    """Raise `Unreadable` unless the status is 2xx, or 304 if ``may_be_unchanged``."""
    code = response.status
    if 200 <= code < 300 or (code == 304 and may_be_unchanged):
        return
    detail = f"HTTP {code} {response.reason or ''}".strip()
    if code in _PERMANENT:
        raise Unreadable(_PERMANENT[code], detail)
    if code in _TRANSIENT or code >= 500:
        raise _TransientFailure(_TRANSIENT.get(code, "server_error"), detail, _retry_after(response))
    raise Unreadable("http_error", detail)


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    """The pause in seconds that the server asks for, as a number or a date; None if there is no valid one."""
    try:
        return urllib3.Retry().get_retry_after(response)
    except InvalidHeader:
        return None


def _body(response: urllib3.BaseHTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """The body, decompressed. It is read in chunks as they arrive, so that the deadline ends a body that trickles for
    ever. `Unreadable` for more than ``max_bytes`` bytes, or after ``deadline``.
    """
    announced = _announced(response)
    if announced is not None and announced > max_bytes:
        raise Unreadable("too_many_bytes", f"{announced:,} bytes, {max_bytes:,} are allowed")
    content = bytearray()
    for chunk in _chunks(response, deadline):
        content += chunk
        if len(content) > max_bytes:
            raise Unreadable("too_many_bytes", f"more than {max_bytes:,} bytes")
    return bytes(content)


def _chunks(response: urllib3.BaseHTTPResponse, deadline: float) -> Iterator[bytes]:
    while chunk := response.read1(_CHUNK, decode_content=True):
        yield chunk
        _seconds_left(deadline)


def _announced(response: urllib3.BaseHTTPResponse) -> int | None:
    """The size of the file in the response's headers; None if it is missing, or if it is that of compressed content."""
    size = response.headers.get("Content-Length", "")
    return int(size) if size.isascii() and size.isdigit() and "Content-Encoding" not in response.headers else None


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise Unreadable("timeout", "not complete within http.total_seconds")
    return left


# -- connections -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _manager(process: int, options: HttpOptions) -> urllib3.PoolManager:
    """The connections of this process. ``process`` is part of the cache's key, since a forked child must not share its
    parent's sockets.
    """
    manager = urllib3.PoolManager(
        num_pools=_HOSTS_KEPT,
        maxsize=options.connections_per_host,
        block=True,  # the limit holds for all threads of the process
        headers={"User-Agent": options.user_agent, "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"},
    )
    if not options.private_addresses:
        manager.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicTlsPool}
    return manager


def is_public(address: str) -> bool:
    """Whether the IP ``address`` is on the public internet. IPv4 addresses wrapped in IPv6 are unwrapped first."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = (
            ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        )
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip.is_site_local:
            return False
    elif any(ip in network for network in _INSIDE_CLOUDS):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _public_addresses(host: str, port: int) -> list[str]:
    """The IPs of ``host``. `Unreadable` if any of them is not public, since a host with both kinds is suspicious."""
    entries = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    refused = [address for address in addresses if not is_public(address)]
    if refused:
        raise Unreadable("private_address", f"{host} is {refused[0]}: http.private_addresses = true allows it")
    return addresses


class _PublicMixin(HTTPConnection):
    """A connection that resolves its host once, and connects to the very address that was checked."""

    def _new_conn(self) -> socket.socket:
        name, failure = self._dns_host, None
        try:
            addresses = _public_addresses(name, self.port)
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(name, self, error) from error  # type: ignore[arg-type]
        for address in addresses:
            self._dns_host = address
            try:
                return super()._new_conn()
            except (NewConnectionError, ConnectTimeoutError) as error:
                failure = error
            finally:
                self._dns_host = name  # certificates and the Host header need the name
        raise failure or NewConnectionError(self, f"{name} has no address")


class _PublicConnection(_PublicMixin):
    pass


class _PublicTlsConnection(_PublicMixin, HTTPSConnection):
    pass


class _PublicPool(HTTPConnectionPool):
    ConnectionCls: Any = _PublicConnection


class _PublicTlsPool(HTTPSConnectionPool):
    ConnectionCls: Any = _PublicTlsConnection
