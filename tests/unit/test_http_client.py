"""Fetching from servers that misbehave: what comes of each, and how often it was asked."""

import multiprocessing
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import certificates
import misbehaving
from image_similarity import __version__
from image_similarity.errors import Unreadable
from image_similarity.settings import HttpSettings
from image_similarity.storage import fetch, http_client, http_connections

QUICK = HttpSettings(backoff_seconds=0.01, retries=2, read_seconds=0.5, total_seconds=20, private_addresses=True)
MAX_BYTES = 100_000


def test_a_download_is_whole_or_not_there(server: misbehaving.Misbehaving, tmp_path: Path) -> None:
    address = server.address
    http_client.download(f"{address}/short-once", tmp_path / "good", QUICK)
    assert (tmp_path / "good").read_bytes() == misbehaving.picture() and server.gets("/short-once") == 2
    with pytest.raises(Unreadable, match="incomplete"):
        http_client.download(f"{address}/short", tmp_path / "other", QUICK)
    assert [file.name for file in tmp_path.iterdir()] == ["good"]


@pytest.fixture(scope="module")
def shared() -> Iterator[misbehaving.Misbehaving]:
    with misbehaving.serving() as server:
        yield server


@pytest.fixture
def server(shared: misbehaving.Misbehaving) -> misbehaving.Misbehaving:
    shared.asked.clear()
    shared.times.clear()
    return shared


def reason(address: str, settings: HttpSettings = QUICK) -> str:
    with pytest.raises(Unreadable) as caught:
        http_client.get(address, MAX_BYTES, settings)
    assert caught.value.reason in fetch.FETCH_REASONS and caught.value.detail
    return caught.value.reason


FAILURES = {
    "/404": ("not_found", 1),
    "/410": ("not_found", 1),
    "/401": ("forbidden", 1),
    "/403": ("forbidden", 1),
    "/400": ("http_error", 1),
    "/304": ("http_error", 1),
    "/429": ("rate_limited", 3),
    "/429-tomorrow": ("rate_limited", 1),
    "/503": ("server_error", 3),
    "/slow": ("timeout", 3),
    "/reset": ("incomplete", 3),
    "/short": ("incomplete", 3),
    "/endless": ("too_many_bytes", 1),
    "/vast": ("too_many_bytes", 1),
    "/bomb": ("too_many_bytes", 1),
    "/loop": ("too_many_redirects", 1),
    "/hop-0": ("too_many_redirects", 1),
    "/to-file": ("unsupported_scheme", 1),
    "/to-nowhere": ("unsupported_scheme", 1),
}


@pytest.mark.parametrize("path", FAILURES)
def test_what_fails_does_so_for_a_reason(server: misbehaving.Misbehaving, path: str) -> None:
    assert (reason(server.address + path), server.gets(path)) == FAILURES[path]


SUCCESSES = {
    "/good.png": 1,
    "/429-once": 2,
    "/503-dated": 2,
    "/500-twice": 3,
    "/short-once": 2,
    "/moved": 1,
    "/compressed.png": 1,
}


@pytest.mark.parametrize("path", SUCCESSES)
def test_what_can_be_had_is_had(server: misbehaving.Misbehaving, path: str) -> None:
    assert http_client.get(server.address + path, MAX_BYTES, QUICK).content == misbehaving.picture()
    assert server.gets(path) == SUCCESSES[path]


@pytest.mark.parametrize("path", ["/429-once", "/503-dated"])
def test_a_server_gets_the_pause_it_asks_for(server: misbehaving.Misbehaving, path: str) -> None:
    http_client.get(server.address + path, MAX_BYTES, QUICK)
    first, second = server.times[path]
    assert second - first >= 1, "a second, or a date two seconds ahead of which a part had passed"


def test_redirects_are_followed_to_the_bound(server: misbehaving.Misbehaving) -> None:
    reason(f"{server.address}/hop-0", QUICK.model_copy(update={"redirects": 2}))
    assert {path for _, path in server.asked} == {"/hop-0", "/hop-1", "/hop-2"}


# -- what takes too long -----------------------------------------------------------------------------------------------

HURRIED = QUICK.model_copy(update={"total_seconds": 0.4, "redirects": 20, "connect_seconds": 5})
"""Every byte comes in time, and the file never does. Without a bound of the whole these tests meet their own limit."""


@pytest.mark.timeout(20)
@pytest.mark.parametrize("path", [*misbehaving.TRICKLING, "/slow-hop-0", "/trickle"])
def test_the_bound_of_seconds_is_of_everything(server: misbehaving.Misbehaving, path: str) -> None:
    assert reason(server.address + path, HURRIED) == "timeout"
    assert server.gets(path) == 1


@pytest.mark.timeout(20)
def test_nor_do_head_requests_and_downloads_take_longer(server: misbehaving.Misbehaving, tmp_path: Path) -> None:
    assert http_client.status(f"{server.address}/slow-headers", HURRIED) is None
    with pytest.raises(Unreadable, match="timeout"):
        http_client.download(f"{server.address}/slow-gzip-blocks", tmp_path / "weights", HURRIED)
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(20)
def test_a_handshake_that_trickles_is_bounded() -> None:
    def answer() -> None:
        connection = listening.accept()[0]
        connection.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB, whose bytes follow
        with suppress(OSError):
            while not ended.wait(0.05):
                connection.sendall(b"\x02")
        connection.close()

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, daemon=True).start()
        try:
            assert reason(f"https://127.0.0.1:{listening.getsockname()[1]}/", HURRIED) == "timeout"
        finally:
            ended.set()


@pytest.mark.timeout(20)
def test_all_of_it_holds_under_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = certificates.self_signed(tmp_path)
    with misbehaving.serving(context) as server:
        assert reason(f"{server.address}/good.png", HURRIED.model_copy(update={"retries": 0})) == "io_error", "no trust"
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        http_connections._manager.cache_clear()
        for _ in range(2):
            assert http_client.get(f"{server.address}/good.png", MAX_BYTES, QUICK).content == misbehaving.picture()
        assert len(server.clients) == 1
        for path in ("/slow-status", "/slow-continue", "/slow-chunk-size", "/slow-end"):
            assert reason(server.address + path, HURRIED) == "timeout"
    http_connections._manager.cache_clear()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("private", [True, False])
def test_a_name_that_is_never_resolved_is_given_up(monkeypatch: pytest.MonkeyPatch, private: bool) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(30))
    patient = QUICK.model_copy(update={"connect_seconds": 0.1, "retries": 0, "private_addresses": private})
    try:
        assert reason("http://slow.example/a.png", HURRIED) == "timeout"
        with pytest.raises(Unreadable, match="slow.example was not resolved"):
            http_client.get("http://slow.example/a.png", MAX_BYTES, patient)
    finally:
        ended.set()


@pytest.mark.timeout(20)
def test_a_host_of_many_addresses_that_nobody_answers_at(names: dict[str, list[str]]) -> None:
    """Each of them has connect_seconds, all together total_seconds."""
    with socket.create_server(("0.0.0.0", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:  # as many as the system lets wait, and more
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        names["many.example"] = [f"127.0.0.{number}" for number in range(1, 5)]
        hurried = HURRIED.model_copy(update={"connect_seconds": 0.3, "retries": 0})
        assert reason(f"http://many.example:{port}/a.png", hurried) == "timeout"
        for each in waiting:
            each.close()


@pytest.mark.timeout(20)
def test_the_wait_for_a_connection_is_bounded(server: misbehaving.Misbehaving) -> None:
    one = HURRIED.model_copy(update={"connections_per_host": 1})
    pool = http_connections.manager(one).connection_from_url(server.address)
    taken = pool._get_conn()
    assert reason(f"{server.address}/good.png", one) == "timeout" and not server.asked
    pool._put_conn(taken)
    assert http_client.get(f"{server.address}/good.png", MAX_BYTES, one).content == misbehaving.picture()


def test_a_connection_is_used_again_with_the_time_of_the_next_request(server: misbehaving.Misbehaving) -> None:
    """The deadline of the first has passed by then."""
    before = len(server.clients)
    for _ in range(2):
        assert http_client.get(f"{server.address}/good.png", MAX_BYTES, HURRIED).content == misbehaving.picture()
        time.sleep(HURRIED.total_seconds)
    assert len(server.clients) == before + 1


# -- what is let through -----------------------------------------------------------------------------------------------


def test_the_bound_is_of_decoded_bytes_and_exact(server: misbehaving.Misbehaving) -> None:
    size = len(misbehaving.picture())
    for path in ("/good.png", "/compressed.png"):
        assert http_client.get(server.address + path, size, QUICK).content == misbehaving.picture()
        with pytest.raises(Unreadable, match="too_many_bytes"):
            http_client.get(server.address + path, size - 1, QUICK)


def test_what_did_not_change_is_not_sent_again(server: misbehaving.Misbehaving) -> None:
    address = f"{server.address}/versioned.png"
    first = http_client.get(address, MAX_BYTES, QUICK)
    assert (first.etag, first.last_modified) == (misbehaving.ETAG, misbehaving.LAST_MODIFIED)
    assert http_client.get(address, MAX_BYTES, QUICK, etag=first.etag).content is None
    assert http_client.get(address, MAX_BYTES, QUICK, last_modified=first.last_modified).content is None
    assert http_client.get(address, MAX_BYTES, QUICK, etag='"v0"').content == misbehaving.picture()


def test_status_tells_what_head_tells(server: misbehaving.Misbehaving) -> None:
    size = len(misbehaving.picture())
    assert http_client.status(f"{server.address}/versioned.png", QUICK) == http_client.Status(
        size, misbehaving.ETAG, misbehaving.LAST_MODIFIED
    )
    assert http_client.status(f"{server.address}/moved", QUICK) == http_client.Status(size, None, None)
    assert http_client.status(f"{server.address}/endless", QUICK) == http_client.Status(None, None, None)
    assert http_client.status(f"{server.address}/vast", QUICK) == http_client.Status(None, None, None)
    assert http_client.status(f"{server.address}/404", QUICK) is None
    assert http_client.status("http://[nowhere", QUICK) is None
    assert {method for method, _ in server.asked} == {"HEAD"}


def test_who_asks_says_so(server: misbehaving.Misbehaving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    http_client.get(f"{server.address}/good.png", MAX_BYTES, QUICK, etag='"x"')
    told = server.headers["/good.png"]
    assert told["User-Agent"] == f"image-similarity/{__version__}" and told["If-None-Match"] == '"x"'
    assert http_client.get(
        f"{server.address}/good.png", MAX_BYTES, QUICK.model_copy(update={"user_agent": "me (me@example.org)"})
    )
    assert server.headers["/good.png"]["User-Agent"] == "me (me@example.org)"


def test_a_host_is_asked_by_few_at_a_time(server: misbehaving.Misbehaving) -> None:
    server.pause, server.most_at_once = 0.05, 0
    try:
        few = QUICK.model_copy(update={"connections_per_host": 2})
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: http_client.get(f"{server.address}/good.png", MAX_BYTES, few), range(16)))
    finally:
        server.pause = 0.0
    assert server.most_at_once == 2 and server.gets("/good.png") == 16


def _fetch_in_child(address: str, answers: Any) -> None:
    answers.put(http_client.get(address, MAX_BYTES, QUICK).content)


def test_a_forked_child_has_connections_of_its_own(server: misbehaving.Misbehaving) -> None:
    address = f"{server.address}/good.png"
    http_client.get(address, MAX_BYTES, QUICK)
    before = http_connections._manager.cache_info().misses
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    children = [fork.Process(target=_fetch_in_child, args=(address, answers)) for _ in range(3)]
    for child in children:
        child.start()
    assert [answers.get(timeout=30) for _ in children] == [misbehaving.picture()] * 3
    for child in children:
        child.join()
    http_client.get(address, MAX_BYTES, QUICK)
    assert http_connections._manager.cache_info().misses == before, "and the parent goes on with those it had"


def test_nobody_listens_or_is_known() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert reason(f"http://127.0.0.1:{unused.getsockname()[1]}/a.png") == "io_error"
    assert reason("http://no-such-host.invalid/a.png", HttpSettings(backoff_seconds=0.01)) == "io_error"
    for address in ("http://[nowhere/a.png", "http:///a.png", "ftp://host/a.png", "a.png", "", "file:///etc/passwd"):
        assert reason(address) == "unsupported_scheme", address


# -- what is not on the public internet --------------------------------------------------------------------------------

NOT_PUBLIC = [
    "127.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fd00::1]",
    "[fe80::1]",
    "[ff02::1]",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "[::ffff:192.0.0.192]",
    "[64:ff9b:1::a00:1]",
    "10.0.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "localhost",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "user:password@127.0.0.1",
]


@pytest.mark.parametrize("host", NOT_PUBLIC)
def test_private_addresses_are_refused(server: misbehaving.Misbehaving, host: str) -> None:
    for scheme in ("http", "https"):
        assert reason(f"{scheme}://{host}:{server.server_port}/good.png", HttpSettings()) == "private_address"
    assert not server.asked


@pytest.mark.parametrize("address", ["http://nobody.invalid/a.png", "https://nobody.invalid/", "http://127.0.0.1:9/a"])
def test_details_name_no_objects_of_a_library(address: str) -> None:
    with pytest.raises(Unreadable) as raised:
        http_client.get(address, 10, QUICK.model_copy(update={"retries": 0}))
    assert raised.value.reason == "io_error"
    assert re.match("Failed to ", raised.value.detail) and not re.search("host=|Errno", raised.value.detail)


@pytest.mark.parametrize("ip", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_public_ones_are_not(ip: str) -> None:
    assert http_connections.is_public(ip)


GUARDED = HttpSettings(backoff_seconds=0.01, retries=0, connect_seconds=2)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """127.0.0.1 passes for a public address; host names resolve to what this says, the last of several for ever."""
    known: dict[str, list[str]] = {}
    is_public, getaddrinfo = http_connections.is_public, socket.getaddrinfo

    def resolve(host: str, port: Any, *arguments: Any, **options: Any) -> Any:
        if host in known:
            host = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        return getaddrinfo(host, port, *arguments, **options)

    monkeypatch.setattr(http_connections, "is_public", lambda ip: ip == "127.0.0.1" or is_public(ip))
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


@pytest.mark.parametrize("path", ["/to-private", "/to-loopback", "/to-name"])
def test_nobody_is_led_inside_by_a_redirect(
    server: misbehaving.Misbehaving, names: dict[str, list[str]], path: str
) -> None:
    names["inside.example"] = ["10.0.0.1"]
    assert http_client.get(f"{server.address}/moved", MAX_BYTES, GUARDED).content == misbehaving.picture()
    assert reason(server.address + path, GUARDED) == "private_address"


def test_the_address_that_was_checked_is_the_one_connected_to(
    server: misbehaving.Misbehaving, names: dict[str, list[str]]
) -> None:
    names["rebinding.example"] = ["127.0.0.1", "127.0.0.2"]
    address = f"http://rebinding.example:{server.server_port}/good.png"
    assert http_client.get(address, MAX_BYTES, GUARDED).content == misbehaving.picture()
    assert names["rebinding.example"] == ["127.0.0.2"], "resolved once"
    assert server.headers["/good.png"]["Host"] == f"rebinding.example:{server.server_port}"
    http_connections._manager.cache_clear()  # or the connection is still open
    assert reason(address, GUARDED) == "private_address"
