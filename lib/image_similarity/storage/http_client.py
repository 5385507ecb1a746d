"""Files at http(s) addresses: fetched with retries and limits, or refused with a reason.

Others write the lists of addresses, and servers may answer anything. So bytes, seconds, redirects and attempts are
limited. Pauses that servers ask for are kept. Unless ``http.private_addresses`` is set, no connection is made to an
address that is not on the public internet. Proxies of the environment are not used.
"""

import io
import itertools
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin

import urllib3
from urllib3.exceptions import EmptyPoolError, HTTPError, InvalidHeader, NewConnectionError, ProtocolError
from urllib3.exceptions import TimeoutError as HttpTimeout

from image_similarity.errors import Unreadable, counted
from image_similarity.storage import http_connections
from image_similarity.storage.blobs import appearing_when_complete
from image_similarity.storage.http_connections import HttpOptions, seconds_left

SCHEMES = ("http", "https")

_CHUNK = 1 << 16
_LARGEST = 2**63 - 1
"""The largest size that a table can hold. Servers may announce any number."""
_PERMANENT = {401: "forbidden", 403: "forbidden", 451: "forbidden", 404: "not_found", 410: "not_found"}
_TRANSIENT = {408: "timeout", 429: "rate_limited"}

T = TypeVar("T")


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

    def attempt() -> Answer:
        with _response("GET", address, headers, options) as response:
            content = None if response.status == 304 else _body(response, max_bytes)
            return Answer(content, response.headers.get("ETag"), response.headers.get("Last-Modified"))

    return _with_retries(attempt, options)


def download(address: str, target: Path, options: HttpOptions) -> None:
    """Copy the file at ``address`` to ``target``, which appears only when it is complete. The size is not limited.

    Raises `Unreadable` with one of `fetch.FETCH_REASONS`, or ``OSError`` if ``target`` cannot be written.
    """

    def attempt() -> None:
        with _response("GET", address, {}, options) as response, appearing_when_complete(target) as out:
            for chunk in _chunks(response):
                out.write(chunk)

    _with_retries(attempt, options)


def status(address: str, options: HttpOptions) -> Status | None:
    """Size and version of the file at ``address``, by a HEAD request; None if it fails, for whatever reason."""

    def attempt() -> Status:
        with _response("HEAD", address, {}, options) as response:
            size = _announced(response)
            known = size if size is not None and size <= _LARGEST else None
            return Status(known, response.headers.get("ETag"), response.headers.get("Last-Modified"))

    try:
        return _with_retries(attempt, options)
    except Unreadable:
        return None


def _with_retries(attempt: Callable[[], T], options: HttpOptions) -> T:
    """The result of ``attempt()``. Transient failures are retried while there are attempts and time left.

    The pause before a retry is the one that the server asks for, or a random one that doubles with each attempt, if
    that is longer. Random pauses keep many workers that failed together from returning together. There is no retry if
    the server asks for a longer pause than the options allow.
    """
    deadline = http_connections.begin(options)
    for attempts in itertools.count(1):
        try:
            return attempt()
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
    method: str, address: str, headers: dict[str, str], options: HttpOptions
) -> Iterator[urllib3.BaseHTTPResponse]:
    """The response at the end of all redirects: 2xx, or 304 if ``headers`` name a version. Its body is not read yet."""
    addresses = [address]
    while True:
        with _failures_as_unreadable(), _single_response(method, addresses[-1], headers, options) as response:
            location = response.get_redirect_location()
            if not location:
                _check_status(response, may_be_unchanged=bool(headers))
                yield response
                return
            next_address = urljoin(addresses[-1], location)
        if next_address in addresses or len(addresses) > options.redirects:
            raise Unreadable("too_many_redirects", f"{counted(len(addresses), 'redirect')}, the last to {next_address}")
        addresses.append(next_address)


@contextmanager
def _single_response(
    method: str, address: str, headers: dict[str, str], options: HttpOptions
) -> Iterator[urllib3.BaseHTTPResponse]:
    """One request and its response of any status. The connection is closed unless the body is read to its end."""
    scheme = address.partition("://")[0].lower()
    if scheme not in SCHEMES or "://" not in address:
        raise Unreadable("unsupported_scheme", f"{address}: no http(s) address")
    manager = http_connections.manager(options)
    response = manager.request(
        method,
        address,
        headers={**manager.headers, **headers},
        timeout=urllib3.Timeout(connect=options.connect_seconds, read=options.read_seconds),  # what messages say
        pool_timeout=seconds_left(),  # for a connection that another thread uses; sockets bound all other waits
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
    except ValueError:  # its text has the address in a form that hides no password
        raise Unreadable("unsupported_scheme", "not a valid address") from None
    except (HTTPError, TimeoutError) as error:
        try:
            seconds_left()  # whatever came of it: the reason is that time is up
        except TimeoutError as late:
            raise Unreadable("timeout", str(late)) from None
        raise _TransientFailure(_reason(error), _in_words(error)) from None


def _reason(error: Exception) -> str:
    """The reason for a failed request."""
    if isinstance(error, NewConnectionError):  # no such host, or no listener; urllib3 counts it as a timeout
        return "io_error"
    if isinstance(error, (HttpTimeout, EmptyPoolError, TimeoutError)):
        return "timeout"
    if isinstance(error, ProtocolError):  # reset, closed too early, or no HTTP
        return "incomplete"
    return "io_error"  # an invalid certificate, ...


def _in_words(error: Exception) -> str:
    """The text of ``error`` without the object of urllib3 that it begins with, and without numbers of the system's."""
    return re.sub(r"\[Errno -?\d+\] ", "", re.sub(r"^\w+\(host=[^)]*\): ", "", str(error)))


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


def _body(response: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
    """The body, decompressed. `Unreadable` for more than ``max_bytes`` bytes."""
    announced = _announced(response)
    if announced is not None and announced > max_bytes:
        raise Unreadable("too_many_bytes", f"{counted(announced, 'byte')}, {counted(max_bytes, 'is', 'are')} allowed")
    content = io.BytesIO()  # it hands over what it holds; to join chunks would hold the file twice
    for chunk in _chunks(response):
        content.write(chunk)
        if content.tell() > max_bytes:
            raise Unreadable("too_many_bytes", f"more than {counted(max_bytes, 'byte')}")
    return content.getvalue()


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    while chunk := response.read1(_CHUNK, decode_content=True):
        yield chunk


def _announced(response: urllib3.BaseHTTPResponse) -> int | None:
    """The size of the file in the response's headers; None if it is missing, or if it is that of compressed content."""
    size = response.headers.get("Content-Length", "")
    return int(size) if size.isascii() and size.isdigit() and "Content-Encoding" not in response.headers else None
