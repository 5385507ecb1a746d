"""Files at http(s) addresses: fetched with patience and suspicion, or refused with a reason.

Addresses come from lists that somebody else wrote, and servers answer what they like. So nothing is read without bounds (bytes,
seconds, redirects, attempts), servers that ask for patience get it, and unless ``http.private_addresses`` is set no connection is
made to an address that is not on the public internet. Proxies of the environment are not used.
"""

import ipaddress
import itertools
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
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

from image_similarity.kernels.decoding import Unreadable
from image_similarity.settings import HttpSettings

SCHEMES = ("http", "https")

_CHUNK = 1 << 16
_HOSTS_KEPT = 64
_LASTING = {401: "forbidden", 403: "forbidden", 451: "forbidden", 404: "not_found", 410: "not_found"}
_PASSING = {408: "timeout", 429: "rate_limited"}
_MAKING = threading.Lock()
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

T = TypeVar("T")


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


class _Passing(Unreadable):
    """A failure that may be gone at the next attempt; ``retry_after``: the seconds that the server asks to wait."""

    def __init__(self, reason: str, detail: str, retry_after: float | None = None):
        super().__init__(reason, detail)
        self.retry_after = retry_after


def get(
    address: str,
    max_bytes: int,
    settings: HttpSettings | None = None,
    etag: str | None = None,
    last_modified: str | None = None,
) -> Answer:
    """The file at ``address``, its content decoded if it came compressed.

    With ``etag`` or ``last_modified``, from an earlier answer, only if it changed since. Raises `Unreadable` with one of
    `images.FETCH_REASONS`; of a longer file than ``max_bytes`` no more than one byte above that is kept.
    """
    settings = settings or HttpSettings()
    conditions = {"If-None-Match": etag, "If-Modified-Since": last_modified}
    headers = {name: value for name, value in conditions.items() if value is not None}

    def attempt(deadline: float) -> Answer:
        with _answered("GET", address, headers, settings, deadline) as response:
            content = None if response.status == 304 else _body(response, max_bytes, deadline)
            return Answer(content, response.headers.get("ETag"), response.headers.get("Last-Modified"))

    return _with_patience(attempt, settings)


def status(address: str, settings: HttpSettings | None = None) -> Status | None:
    """Size and version of the file at ``address``, asked by HEAD; None if they cannot be had, for whatever reason."""
    settings = settings or HttpSettings()

    def attempt(deadline: float) -> Status:
        with _answered("HEAD", address, {}, settings, deadline) as response:
            return Status(_announced(response), response.headers.get("ETag"), response.headers.get("Last-Modified"))

    try:
        return _with_patience(attempt, settings)
    except Unreadable:
        return None


def _with_patience(attempt: Callable[[float], T], settings: HttpSettings) -> T:
    """What ``attempt(deadline)`` returns, tried again while its failures are passing ones and there is time.

    Between attempts stands the pause that the server asks for, else one that doubles, of random length: many workers that failed
    together do not come back together. A server that asks for a longer pause than is allowed is left alone.
    """
    deadline = time.monotonic() + settings.total_seconds
    for number in itertools.count(1):
        try:
            return attempt(deadline)
        except _Passing as failure:
            pause = settings.backoff_seconds * 2 ** (number - 1) * random.uniform(0.5, 1.5)
            if failure.retry_after is not None:
                pause = max(pause, failure.retry_after)
            too_long = (failure.retry_after or 0) > settings.retry_after_seconds or time.monotonic() + pause > deadline
            if number > settings.retries or too_long:
                raise
            time.sleep(pause)
    raise AssertionError("unreachable")


@contextmanager
def _answered(
    method: str, address: str, headers: dict[str, str], settings: HttpSettings, deadline: float
) -> Iterator[urllib3.BaseHTTPResponse]:
    """The answer (2xx, or 304 where ``headers`` name a version) at the end of all redirects, its body not read yet."""
    visited = [address]
    while True:
        with _failures_as_unreadable(), _asked(method, visited[-1], headers, settings, deadline) as response:
            location = response.get_redirect_location()
            if not location:
                _check_status(response, may_be_unchanged=bool(headers))
                yield response
                return
            following = urljoin(visited[-1], location)
        if following in visited or len(visited) > settings.redirects:
            raise Unreadable("too_many_redirects", f"{len(visited)} redirects, the last to {following}")
        visited.append(following)


@contextmanager
def _asked(
    method: str, address: str, headers: dict[str, str], settings: HttpSettings, deadline: float
) -> Iterator[urllib3.BaseHTTPResponse]:
    """One request and its answer, whatever its status. A body that is not read to its end costs the connection."""
    scheme = address.partition("://")[0].lower()
    if scheme not in SCHEMES or "://" not in address:
        raise Unreadable("unsupported_scheme", f"{address}: no http(s) address")
    left = _seconds_left(deadline)
    timeout = urllib3.Timeout(connect=min(settings.connect_seconds, left), read=min(settings.read_seconds, left))
    with _MAKING:  # threads that begin together must not make one each
        manager = _manager(os.getpid(), settings)
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
        raise _Passing("io_error", str(error)) from None
    except HttpTimeout as error:
        raise _Passing("timeout", str(error)) from None
    except ValueError as error:  # no address at all
        raise Unreadable("unsupported_scheme", str(error)) from None
    except ProtocolError as error:  # reset, closed too early, no HTTP
        raise _Passing("incomplete", str(error)) from None
    except HTTPError as error:  # a certificate that is not right, ...
        raise _Passing("io_error", str(error)) from None


def _check_status(response: urllib3.BaseHTTPResponse, may_be_unchanged: bool) -> None:
    """Raise `Unreadable` unless the answer is what was asked for."""
    code = response.status
    if 200 <= code < 300 or (code == 304 and may_be_unchanged):
        return
    told = f"HTTP {code} {response.reason or ''}".strip()
    if code in _LASTING:
        raise Unreadable(_LASTING[code], told)
    if code in _PASSING or code >= 500:
        raise _Passing(_PASSING.get(code, "server_error"), told, _retry_after(response))
    raise Unreadable("http_error", told)


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    """The pause in seconds that the server asks for, by a number or a date; None where it does not, or not in HTTP's words."""
    try:
        return urllib3.Retry().get_retry_after(response)
    except InvalidHeader:
        return None


def _body(response: urllib3.BaseHTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """The body, decoded. What has arrived is taken as it comes, so that a body that trickles for ever meets the deadline."""
    announced = _announced(response)
    if announced is not None and announced > max_bytes:
        raise Unreadable("too_many_bytes", f"{announced:,} bytes, {max_bytes:,} are allowed")
    content = bytearray()
    while chunk := response.read1(min(_CHUNK, max_bytes + 1 - len(content)), decode_content=True):
        content += chunk
        if len(content) > max_bytes:
            raise Unreadable("too_many_bytes", f"more than {max_bytes:,} bytes")
        _seconds_left(deadline)
    return bytes(content)


def _announced(response: urllib3.BaseHTTPResponse) -> int | None:
    """The size of the file as the server tells it before it sends it; None where that is not told, or of its compressed form."""
    size = response.headers.get("Content-Length", "")
    return int(size) if size.isascii() and size.isdigit() and "Content-Encoding" not in response.headers else None


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise Unreadable("timeout", "not complete within http.total_seconds")
    return left


# -- connections ---------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _manager(process: int, settings: HttpSettings) -> urllib3.PoolManager:
    """The connections of this process. ``process`` is part of the key, for a forked child must not share its parent's sockets."""
    manager = urllib3.PoolManager(
        num_pools=_HOSTS_KEPT,
        maxsize=settings.connections_per_host,
        block=True,  # the bound holds for all threads of the process
        headers={"User-Agent": settings.user_agent, "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"},
    )
    if not settings.private_addresses:
        manager.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicTlsPool}
    return manager


def is_public(address: str) -> bool:
    """Whether the IP ``address`` is one of the public internet, also where IPv6 only wraps an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
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
