"""Connections to http(s) servers: whom they lead to, and how long a request may use them.

A server may take its time with every single byte: of a TLS handshake, a status line, headers, interim answers, the size
of a chunk, a trailer. A timeout of each receive bounds none of them in whole. So every wait of a socket ends at the
deadline of the request that its thread is working on.
"""

import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, Protocol

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context

from image_similarity.errors import Unreadable
from image_similarity.storage import timeouts

_HOSTS_KEPT = 64
_MANAGER_LOCK = threading.Lock()
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_INSIDE_CLOUDS = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
"""Global by their registration, and yet metadata services: of Azure, and of Oracle (192.0.0.192) among addresses that
are reserved for protocols.
"""


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


# -- the deadline ------------------------------------------------------------------------------------------------------


class _Request(threading.local):
    """The limits of the request that this thread is working on."""

    deadline: float
    """By the clock of ``time.monotonic``."""
    options: HttpOptions


_request = _Request()


def begin(options: HttpOptions) -> float:
    """Starts the clock for this thread's next request, with its redirects and further attempts. Returns the deadline,
    by the clock of ``time.monotonic``.
    """
    _request.options, _request.deadline = options, time.monotonic() + options.total_seconds
    return _request.deadline


def seconds_left() -> float:
    """The seconds until the deadline of this thread's request. Raises ``TimeoutError`` if it has passed."""
    left = _request.deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("not complete within http.total_seconds")
    return left


class _Bounded(socket.socket):
    """A socket whose every wait ends after ``read_seconds``, and at the deadline of its thread's request.

    All that is received from servers goes through `recv_into`. OpenSSL's handshakes and reads count a socket's timeout
    for the whole of them, however slowly their bytes come.
    """

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        self._wait_at_most(_request.options.read_seconds)
        return super().recv_into(*arguments, **options)

    def send(self, *arguments: Any) -> int:
        self._wait_at_most(_request.options.read_seconds)
        return super().send(*arguments)

    def sendall(self, *arguments: Any) -> None:
        self._wait_at_most(_request.options.read_seconds)
        super().sendall(*arguments)

    def _wait_at_most(self, seconds: float) -> None:
        self.settimeout(min(seconds, seconds_left()))


class _BoundedTls(_Bounded, ssl.SSLSocket):
    def do_handshake(self, *arguments: Any) -> None:
        self._wait_at_most(_request.options.connect_seconds)
        super().do_handshake(*arguments)


# -- connections -------------------------------------------------------------------------------------------------------


def manager(options: HttpOptions) -> urllib3.PoolManager:
    """The connections of this process with ``options``. Its threads share them. Call `begin` before each request."""
    with _MANAGER_LOCK:  # threads that begin together must share one manager
        return _manager(os.getpid(), options)


@lru_cache(maxsize=8)
def _manager(process: int, options: HttpOptions) -> urllib3.PoolManager:
    """The connections of this process. ``process`` is part of the cache's key, since a forked child must not share its
    parent's sockets.
    """
    context = create_urllib3_context()
    context.load_default_certs()
    context.sslsocket_class = _BoundedTls
    manager = urllib3.PoolManager(
        num_pools=_HOSTS_KEPT,
        maxsize=options.connections_per_host,
        block=True,  # the limit holds for all threads of the process
        headers={"User-Agent": options.user_agent, "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"},
        ssl_context=context,
    )
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
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


def _addresses(host: str, port: int, public_only: bool) -> list[str]:
    """The IPs of ``host``. With ``public_only``, `Unreadable` if any of them is not public: a host with both kinds is
    suspicious.
    """
    entries = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    refused = [address for address in addresses if public_only and not is_public(address)]
    if refused:
        raise Unreadable("private_address", f"{host} is {refused[0]}: http.private_addresses = true allows it")
    return addresses


class _Mixin(HTTPConnection):
    """A connection that resolves its host once, and connects to the very address that was checked. Its waits are
    bounded.
    """

    def _new_conn(self) -> socket.socket:
        name, failure = self._dns_host, None
        for address in self._resolved(name):
            self._dns_host, self.timeout = address, self._connect_seconds()
            try:
                return _bounded(super()._new_conn())
            except (NewConnectionError, ConnectTimeoutError) as error:
                failure = error
            finally:
                self._dns_host = name  # certificates and the Host header need the name
        raise failure or NewConnectionError(self, f"{name} has no address")

    def _resolved(self, name: str) -> list[str]:
        public_only = not _request.options.private_addresses
        try:
            return timeouts.within(self._connect_seconds(), _addresses, name, self.port, public_only)
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(name, self, error) from error  # type: ignore[arg-type]
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"{name} was not resolved: {error}") from None

    def _connect_seconds(self) -> float:
        return min(_request.options.connect_seconds, seconds_left())


def _bounded(connected: socket.socket) -> _Bounded:
    bounded = _Bounded(connected.family, connected.type, connected.proto, fileno=connected.detach())
    bounded.settimeout(connected.gettimeout())
    return bounded


class _Connection(_Mixin):
    pass


class _TlsConnection(_Mixin, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls: Any = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls: Any = _TlsConnection
