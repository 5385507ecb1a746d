"""Files at http(s) addresses: fetched with patience and suspicion, or refused with a reason.

Addresses come from lists that somebody else wrote, and servers answer what they like. So nothing is read without bounds
(bytes, seconds, redirects, attempts), servers that ask for patience get it, and unless ``http.private_addresses`` is
set no connection is made to an address that is not on the public internet. Proxies of the environment are not used."""

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
_MAKING = threading.Lock()
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

T = TypeVar("T")


class HttpOptions(Hashable, Protocol):
    """How servers are asked: ``[http]`` of the settings explains each. Hashable, since each has connections of its
    own."""

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
    """None: the server says that nothing changed since the version that was named."""
    etag: str | None
    last_modified: str | None
    """As the server writes it."""


@dataclass(frozen=True)
class Status:
    """What a server tells of a file without sending it; each may be missing."""

    size_bytes: int | None
    etag: str | None
    last_modified: str | None


class _TransientFailure(Unreadable):
    """A failure that may be gone at the next attempt; ``retry_after``: the seconds that the server asks to wait."""

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
    """The file at ``address``, its content decoded if it came compressed.

    With ``etag`` or ``last_modified``, from an earlier answer, only if it changed since. Raises `Unreadable` with one
    of `fetch.FETCH_REASONS`; of a longer file than ``max_bytes`` no more than one chunk (64 KiB) above that is kept.
    """
    conditions = {"If-None-Match": etag, "If-Modified-Since": last_modified}
    headers = {name: value for name, value in conditions.items() if value is not None}

    def attempt(deadline: float) -> Answer:
        with _answered("GET", address, headers, options, deadline) as response:
            content = None if response.status == 304 else _body(response, max_bytes, deadline)
            return Answer(content, response.headers.get("ETag"), response.headers.get("Last-Modified"))

    return _with_patience(attempt, options)


def download(address: str, target: Path, options: HttpOptions) -> None:
    """Copy the file at ``address`` to ``target``, which appears only when it is complete. Its size has no bound.

    Raises `Unreadable` with one of `fetch.FETCH_REASONS`, ``OSError`` where ``target`` cannot be written.
    """

    def attempt(deadline: float) -> None:
        with _answered("GET", address, {}, options, deadline) as response, appearing_when_complete(target) as out:
            for chunk in _chunks(response, deadline):
                out.write(chunk)

    _with_patience(attempt, options)


def status(address: str, options: HttpOptions) -> Status | None:
    """Size and version of the file at ``address``, asked by HEAD; None if they cannot be had, for whatever reason."""

    def attempt(deadline: float) -> Status:
        with _answered("HEAD", address, {}, options, deadline) as response:
            return Status(_announced(response), response.headers.get("ETag"), response.headers.get("Last-Modified"))

    try:
        return _with_patience(attempt, options)
    except Unreadable:
        return None


def _with_patience(attempt: Callable[[float], T], options: HttpOptions) -> T:
    """What ``attempt(deadline)`` returns, tried again while its failures are passing ones and there is time.

    Between attempts stands the pause that the server asks for, else one that doubles, of random length: many workers
    that failed together do not come back together. A server that asks for a longer pause than is allowed is left alone.
    """
    deadline = time.monotonic() + options.total_seconds
    for number in itertools.count(1):
        try:
            return attempt(deadline)
        except _TransientFailure as failure:
            pause = options.backoff_seconds * 2 ** (number - 1) * random.uniform(0.5, 1.5)
            if failure.retry_after is not None:
                pause = max(pause, failure.retry_after)
            too_long = (failure.retry_after or 0) > options.retry_after_seconds or time.monotonic() + pause > deadline
            if number > options.retries or too_long:
                raise
            time.sleep(pause)
    raise AssertionError("unreachable")


@contextmanager
def _answered(
    method: str, address: str, headers: dict[str, str], options: HttpOptions, deadline: float
) -> Iterator[urllib3.BaseHTTPResponse]:
    """The answer (2xx, or 304 where ``headers`` name a version) at the end of all redirects, its body not read yet."""
    visited = [address]
    while True:
        with _failures_as_unreadable(), _asked(method, visited[-1], headers, options, deadline) as response:
            location = response.get_redirect_location()
            if not location:
                _check_status(response, may_be_unchanged=bool(headers))
                yield response
                return
            following = urljoin(visited[-1], location)
        if following in visited or len(visited) > options.redirects:
            raise Unreadable("too_many_redirects", f"{len(visited)} redirects, the last to {following}")
        visited.append(following)


@contextmanager
def _asked(
    method: str, address: str, headers: dict[str, str], options: HttpOptions, deadline: float
) -> Iterator[urllib3.BaseHTTPResponse]:
    """One request and its answer, whatever its status. A body that is not read to its end costs the connection."""
    scheme = address.partition("://")[0].lower()
    if scheme not in SCHEMES or "://" not in address:
        raise Unreadable("unsupported_scheme", f"{address}: no http(s) address")
    left = _seconds_left(deadline)
    timeout = urllib3.Timeout(connect=min(options.connect_seconds, left), read=min(options.read_seconds, left))
    with _MAKING:  # threads that begin together must not make one each
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
            response.drain_conn()  # notices that nothing follows, which keeps the connection
        response.close()
        response.release_conn()  # after close, for the pool counts connections and would wait for this one for ever


@contextmanager
def _failures_as_unreadable() -> Iterator[None]:
    try:
        yield
    except NewConnectionError as error:  # no such host, nobody listens; urllib3 counts it as a timeout
        raise _TransientFailure("io_error", str(error)) from None
    except HttpTimeout as error:
        raise _TransientFailure("timeout", str(error)) from None
    except ValueError as error:  # no address at all
        raise Unreadable("unsupported_scheme", str(error)) from None
    except ProtocolError as error:  # reset, closed too early, no HTTP
        raise _TransientFailure("incomplete", str(error)) from None
    except HTTPError as error:  # a certificate that is not right, ...
        raise _TransientFailure("io_error", str(error)) from None


def _check_status(response: urllib3.BaseHTTPResponse, may_be_unchanged: bool) -> None:
    """Raise `Unreadable` unless the answer is what was asked for."""
    code = response.status
    if 200 <= code < 300 or (code == 304 and may_be_unchanged):
        return
    told = f"HTTP {code} {response.reason or ''}".strip()
    if code in _PERMANENT:
        raise Unreadable(_PERMANENT[code], told)
    if code in _TRANSIENT or code >= 500:
        raise _TransientFailure(_TRANSIENT.get(code, "server_error"), told, _retry_after(response))
    raise Unreadable("http_error", told)


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    """The pause in seconds that the server asks for, by a number or a date; None where it does not, or not in HTTP's
    words."""
    try:
        return urllib3.Retry().get_retry_after(response)
    except InvalidHeader:
        return None


def _body(response: urllib3.BaseHTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """The body, decoded. What has arrived is taken as it comes, so that a body that trickles for ever meets the
    deadline."""
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
    """The size of the file as the server tells it before it sends it; None where that is not told, or of its compressed
    form."""
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
    """The connections of this process. ``process`` is part of the key, for a forked child must not share its parent's
    sockets."""
    manager = urllib3.PoolManager(
        num_pools=_HOSTS_KEPT,
        maxsize=options.connections_per_host,
        block=True,  # the bound holds for all threads of the process
        headers={"User-Agent": options.user_agent, "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"},
    )
    if not options.private_addresses:
        manager.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicTlsPool}
    return manager


def is_public(address: str) -> bool:
    """Whether the IP ``address`` is one of the public internet, also where IPv6 only wraps an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = (
            ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        )
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _public_addresses(host: str, port: int) -> list[str]:
    """The IPs of ``host``. `Unreadable` if one of them is not public: what resolves to both is up to no good."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    refused = [address for address in addresses if not is_public(address)]
    if refused:
        raise Unreadable("private_address", f"{host} is {refused[0]}: http.private_addresses = true allows it")
    return addresses


class _PublicMixin(HTTPConnection):
    """A connection that resolves its host itself, once, and connects to the very address that was checked."""

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
                self._dns_host = name  # what certificates and the header Host are about
        raise failure or NewConnectionError(self, f"{name} has no address")


class _PublicConnection(_PublicMixin):
    pass


class _PublicTlsConnection(_PublicMixin, HTTPSConnection):
    pass


class _PublicPool(HTTPConnectionPool):
    ConnectionCls: Any = _PublicConnection


class _PublicTlsPool(HTTPSConnectionPool):
    ConnectionCls: Any = _PublicTlsConnection
