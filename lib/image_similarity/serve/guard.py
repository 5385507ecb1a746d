"""Who may ask: checks of every request before anything of it is read, and the headers of every answer.

A page of somebody else in another tab can send requests to this machine. It does not know the token, and its browser
says where it comes from. A name of its own that leads to this machine (DNS rebinding) is none that is served.

Ports of a machine share their cookies, so whatever listens at another port is sent those of this one. The cookie is
therefore set for one path, which nobody can guess: browsers send it nowhere else. It is not the token.
"""

import asyncio
import html
import ipaddress
import secrets
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from image_similarity.serve.refusals import Refused

TOKEN = "token"
"""The parameter of the printed address."""
PUBLIC = "/static/"
"""What is below it is no secret, and pages of refusals need it."""
REQUEST_SECONDS = 300.0
"""Longest time for one request: a client that does not take its answer has no more."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # without a referrer browsers send no Origin with forms either
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_ELSEWHERE = ("cross-site", "same-site")
"""Another port of this machine is the same site."""
_PRINTED = "open the address that was printed"
_FAULT = "a fault of this program; more about it stands where the server was started"

Refusal = Callable[[Scope, Refused], Response]
"""The answer to a request that is refused."""


def is_served(host: str, bound: str) -> bool:
    """Whether a request for ``host`` (of a Host header) may be meant for a server that is bound to ``bound``.

    Beyond this machine any IP address may be: what has one cannot be led elsewhere by a name.
    """
    if not host.isascii():
        return False
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.lower().removeprefix("[").removesuffix("]")
    if name in ("localhost", "127.0.0.1", bound.lower()):
        return True
    return not is_loopback(bound) and _is_ip(name)


def is_loopback(host: str) -> bool:
    """Whether a server that is bound to ``host`` is reached from this machine alone."""
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Guard:
    """Around the application. ``token``: what a client must know. ``host``, ``port``: what the server is bound to.

    ``refusal`` makes an answer; ``failed`` is told of faults of this program.
    """

    def __init__(
        self, app: ASGIApp, token: str, host: str, port: int, refusal: Refusal, failed: Callable[[Exception], None]
    ):
        self._app, self._token, self._host = app, token, host
        self._place = f"/{secrets.token_urlsafe(12)}"
        """Where a browser has its pages. The application does not know of it: its pages link relatively."""
        self._cookie, self._pass = f"image-similarity-{port}", secrets.token_urlsafe(24)
        self._refusal, self._failed = refusal, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = _Exchange(scope, receive, send)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._answer(scope, exchange)
        except (ClientDisconnect, TimeoutError):
            pass  # nobody waits for the answer
        except Exception as error:
            self._failed(error)
            if not exchange.has_begun:
                await self._refusal(scope, Refused(500, _FAULT))(scope, exchange.receive, exchange.send)

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        path = scope["path"].removeprefix(self._place)
        has_place = path != scope["path"] and path.startswith("/")
        if has_place:
            scope = {**scope, "path": path, "raw_path": scope["raw_path"].removeprefix(self._place.encode())}
        try:
            answer = self._checked(scope, has_place)
        except Refused as refused:
            answer = self._refusal(scope, refused)
        await answer(scope, exchange.receive, exchange.send)

    def _checked(self, scope: Scope, has_place: bool) -> ASGIApp:
        """What answers the request. Raises `Refused` if it is not allowed. ``has_place``: it came to a browser's
        pages.
        """
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not is_served(hosts[0], self._host):
            raise Refused(421, f"this server is not known by that name: {_PRINTED}")
        method = scope["method"]
        if method not in ("GET", "HEAD", "POST"):
            raise Refused(405, f"{method[:20]} is not allowed", headers={"Allow": "GET, HEAD, POST"})
        if scope["path"] == "/" and method == "GET":
            fields = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            if any(name == TOKEN for name, _ in fields):
                self._check_token(next(value for name, value in fields if name == TOKEN))
                return self._welcome([(name, value) for name, value in fields if name != TOKEN])
        if scope["path"].startswith(PUBLIC):
            return self._app
        if headers.get("sec-fetch-site") in _ELSEWHERE:
            raise Refused(403, f"another site's page asks: {_PRINTED}")
        self._check_knows(headers, has_place)
        self._check_origin(method, headers)
        return self._app

    def _check_knows(self, headers: Headers, has_place: bool) -> None:
        """Checks the token, which a program sends as a header, or the cookie of a browser."""
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            self._check_token(bearer.strip())
        elif not has_place or not _equal(cookie_parser(headers.get("cookie", "")).get(self._cookie, ""), self._pass):
            self._check_token("")

    def _check_token(self, given: str) -> None:
        if not _equal(given, self._token):
            raise Refused(403, f"the token is missing or wrong: {_PRINTED}, or send Authorization: Bearer TOKEN")

    def _check_origin(self, method: str, headers: Headers) -> None:
        """A browser names the origin of every POST. A program need not, if it sends the token as a header."""
        origin = headers.get("origin")
        if origin is None:
            if method == "POST" and "authorization" not in headers:
                raise Refused(403, "a POST without Origin needs the header Authorization: Bearer TOKEN")
        elif origin.lower() != f"http://{headers['host'].lower()}":
            raise Refused(403, f"another site's page asks: {_PRINTED}")

    def _welcome(self, fields: list[tuple[str, str]]) -> Response:
        """A page that leads on without the token: to a place of its own, with a cookie that is sent there alone.

        It is no redirect: after one, a browser that came from another site would not send the cookie.
        """
        target = html.escape(f"{self._place}/" + (f"?{urlencode(fields)}" if fields else ""))
        response = HTMLResponse(
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<link rel="icon" href="data:,"><meta http-equiv="refresh" content="0; url={target}">'
            f'<title>Image similarity</title><p><a href="{target}">Go on</a></p></html>'
        )
        response.set_cookie(self._cookie, self._pass, path=f"{self._place}/", httponly=True, samesite="strict")
        return response


def _equal(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), secret.encode())


class _Exchange:
    """One request and its answer. Every answer gets `HEADERS`.

    A body that nobody has read to its end is dropped before the connection is closed, up to a bound: else the client
    might lose the answer that says why.
    """

    _MOST_BYTES, _SECONDS = 1 << 24, 1.0

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        headers = Headers(scope=scope)
        self._receive, self._send = receive, send
        self._has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self.has_begun = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):
            self._has_body = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
            if self._has_body:
                headers["Connection"] = "close"
        elif self._has_body and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._drop()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _drop(self) -> None:
        dropped = 0
        try:
            async with asyncio.timeout(self._SECONDS):
                while self._has_body and dropped < self._MOST_BYTES:
                    dropped += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
