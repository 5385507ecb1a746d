"""What a hostile client, or a hostile page in another tab, can do to the server: nothing."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

import misbehaving
import serving
from image_similarity.serve import app, guard, server, uploads
from image_similarity.storage import http_connections
from serving import ODD_IDS, TOKEN, Reply, Served, StandIn, form, picture

MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside") / "gallery"
    folder.mkdir()
    (folder / "gallery.json").write_text('{"kind": "image-similarity gallery", "renderings": []}')
    (folder / "index.html").write_text("<title>The gallery</title>")
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    return folder


@pytest.fixture(scope="module")
def served(collection: StandIn, gallery: Path) -> Iterator[Served]:
    with serving.serving(collection, str(gallery), max_bytes=MAX_BYTES) as running:
        yield running


@pytest.fixture(autouse=True)
def _lives(served: Served, collection: StandIn) -> Iterator[None]:
    """Whatever a test did, the server answers the next one."""
    yield
    collection.pause = 0
    assert served.get("/similar", id="plain.png").status == 200


def refused(reply: Reply, status: int | None = None) -> str:
    """The line of a refusal in JSON."""
    assert 400 <= reply.status < 500 if status is None else reply.status == status, (reply.status, reply.body)
    line = reply.json["error"]
    assert set(reply.json) == {"error", "reason"} and line and "\n" not in line and "Traceback" not in line
    assert len(line) < 500
    return str(line)


# -- who may ask -------------------------------------------------------------------------------------------------------

ADDRESSES = [("GET", "/"), ("POST", "/"), ("GET", "/similar?id=plain.png"), ("POST", "/similar"), ("GET", "/state")]
ADDRESSES += [("GET", "/api"), ("GET", "/picture?id=plain.png"), ("GET", "/static"), ("GET", "/none")]
ADDRESSES += [("GET", "/gallery/index.html")]


@pytest.mark.parametrize("method, path", ADDRESSES)
@pytest.mark.parametrize(
    "given", [None, "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"]
)
def test_without_the_token_nothing_is_answered(
    served: Served, collection: StandIn, method: str, path: str, given: str | None
) -> None:
    before = collection.searches
    assert "token" in refused(served.send(method, path, picture(), {"Authorization": given}), 403)
    assert collection.searches == before


@pytest.mark.parametrize("method, path", ADDRESSES)
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8777", "127.0.0.1.evil.example", "", "127.0.0.2", "[::1]", "10.0.0.1", "a:b:c"],
)
def test_another_host_is_refused(served: Served, method: str, path: str, host: str) -> None:
    """DNS rebinding: a page of evil.example, whose name leads to 127.0.0.1 by now."""
    refused(served.send(method, path, None, {"Host": host}), 421)


def test_a_request_has_one_host(served: Served) -> None:
    head = f"Authorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    for hosts in ("", "Host: 127.0.0.1\r\nHost: evil.example\r\n"):
        assert re.match(rb"HTTP/1.1 4\d\d ", served.raw(f"GET /state HTTP/1.1\r\n{hosts}{head}".encode()))
    assert b" 421 " in served.raw(f"GET /state HTTP/1.0\r\n{head}".encode())


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://127.0.0.1:1", "https://127.0.0.1", "file://"]
)
@pytest.mark.parametrize("path", ["/", "/similar"])
def test_a_page_from_elsewhere_cannot_post(served: Served, collection: StandIn, path: str, origin: str) -> None:
    before, browser = collection.searches, served.browser()
    for client in (browser, served):
        refused(client.post(path, picture(), {"Origin": origin}), 403)
    assert collection.searches == before


def test_the_page_itself_can_post(served: Served) -> None:
    browser = served.browser()
    assert browser.post("/similar", picture(), {"Origin": f"http://{served.host}"}).status == 200
    assert "Bearer" in refused(browser.post("/similar", picture()), 403)  # no browser sends a POST without Origin


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/", "/similar?id=plain.png", "/picture?id=plain.png"])
def test_a_page_from_elsewhere_cannot_embed_or_link(served: Served, path: str, site: str) -> None:
    """Another port of this machine is the same site: its pages send the cookie along."""
    browser = served.browser()
    refused(browser.get(path, {"Sec-Fetch-Site": site}), 403)
    assert browser.get(path, {"Sec-Fetch-Site": "same-origin"}).status == 200


def test_a_cookie_is_of_no_use_elsewhere(served: Served) -> None:
    """Browsers send cookies to every port of a machine, below the cookie's path."""
    browser = served.browser()
    assert browser.get("/state").status == 200
    assert re.fullmatch(r"/[\w-]{16,}/", browser.path), "another port's page cannot guess it"
    assert TOKEN not in browser.cookie + browser.path
    name, _, value = browser.cookie.partition("=")
    for path in ("/", "/state", "/similar?id=plain.png", "/picture?id=plain.png", browser.path.removesuffix("/")):
        refused(served.get(path, browser.headers()), 403)
    for headers in ({"Authorization": f"Bearer {value}"}, {"Authorization": f"Bearer {browser.path[1:-1]}"}):
        refused(served.get("/state", headers), 403)
    for cookie in (f"{name}={TOKEN}", f"{name}=", "a=b", None):
        refused(browser.get("/state", {"Cookie": cookie}), 403)


def test_a_browser_stays_where_its_cookie_is_sent(served: Served) -> None:
    browser = served.browser()
    text = browser.get("/?id=plain.png", {"Accept": "text/html"}).text
    links = re.findall(r'(?:href|src|action)="([^"#]*)"', text)
    assert len(links) > 16
    for link in links:
        place = urljoin(browser.path, link.replace("&amp;", "&"))
        assert place.startswith((browser.path, "/static/")), link
        assert served.get(place, browser.headers({"Accept": "text/html"})).status == 200, link


def test_no_answer_is_for_other_origins(served: Served) -> None:
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert refused(served.send("OPTIONS", "/similar", None, preflight), 405)
    for method, path in ADDRESSES:
        headers = served.send(method, path).headers
        assert not [name for name in headers if name.startswith("access-control-")]
        assert (
            headers["cross-origin-resource-policy"] == "same-origin" and headers["x-content-type-options"] == "nosniff"
        )


def test_the_printed_address_leaves_a_cookie_and_no_token(served: Served) -> None:
    reply = served.get("/", {"Authorization": None, "Sec-Fetch-Site": "cross-site"}, token=TOKEN, id="a&b\"'<c>")
    assert reply.status == 200 and "location" not in reply.headers and TOKEN not in reply.text
    name, *flags = re.split("; ?", reply.headers["set-cookie"])
    path = served.browser().path
    assert name.startswith(f"image-similarity-{served.port}=") and TOKEN not in name
    assert {"httponly", "samesite=strict", f"path={path.lower()}"} <= {flag.lower() for flag in flags}
    assert f'content="0; url={path}?id=a%26b%22%27%3Cc%3E"' in reply.text
    assert "set-cookie" not in served.get("/").headers
    refused(served.get("/", {"Authorization": None}, token="wrong"), 403)
    refused(served.get("/", {}, token=""), 403)


@pytest.mark.parametrize("method, path", ADDRESSES)
def test_pages_run_nothing_that_is_not_ours(served: Served, method: str, path: str) -> None:
    reply = served.send(method, path, None, {"Accept": "text/html"})
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    if "json" not in reply.headers["content-type"]:
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", reply.body.decode("utf-8", "replace"))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "X" * 300])
def test_other_methods_do_nothing(served: Served, method: str) -> None:
    target = served.host if method == "CONNECT" else "/similar"
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(served.head(method, target))
        assert re.match(rb"HTTP/1.1 40\d ", connection.recv(1 << 16))


@pytest.mark.parametrize(
    "bound, host, is_served",
    [
        ("127.0.0.1", "localhost:9000", True),  # a tunnel
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "192.168.0.7:8777", False),
        ("0.0.0.0", "192.168.0.7:8777", True),
        ("0.0.0.0", "[fe80::1]:8777", True),
        ("0.0.0.0", "evil.example", False),
        ("::1", "[::1]:8777", True),
        ("box.example", "box.example:8777", True),
        ("box.example", "evil.example:8777", False),
        ("127.0.0.1", "127.0.0.1 ", False),
        ("127.0.0.1", "①27.0.0.1", False),
    ],
)
def test_the_names_of_a_server(bound: str, host: str, is_served: bool) -> None:
    assert guard.is_served(host, bound) is is_served


# -- how much, and how long --------------------------------------------------------------------------------------------


class Counted:
    """500 MB that are sent as long as they are taken. ``beginning``: of a form."""

    def __init__(self, beginning: bytes = b"") -> None:
        self.sent, self.beginning = 0, beginning

    def __iter__(self) -> Iterator[bytes]:
        yield self.beginning
        for _ in range(500):
            self.sent += 1 << 20
            yield b"\xff" * (1 << 20)


@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize("path", ["/similar", "/"])
@pytest.mark.parametrize("token", [f"Bearer {TOKEN}", "Bearer wrong"])
def test_a_large_file_is_cut(served: Served, path: str, is_announced: bool, token: str) -> None:
    body = Counted(b'--edge\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n')
    headers = {"Content-Length": str(500 << 20)} if is_announced else {}
    if path == "/":
        headers |= {"Content-Type": "multipart/form-data; boundary=edge"}
    started = time.monotonic()
    reply = served.send("POST", path, body, {**headers, "Authorization": token})
    assert reply.status == (413 if token.endswith(TOKEN) else 403)
    assert body.sent < 60 << 20 and time.monotonic() - started < 10
    assert reply.headers["connection"] == "close"


def test_a_form_is_as_large_as_its_picture(served: Served) -> None:
    body, headers = form({"k": "3"}, b"\xff" * (MAX_BYTES + 1))
    assert served.post("/", body, headers).status == 413
    assert refused(served.post("/similar", b" " * (MAX_BYTES + 1)), 413).startswith(
        "the file is too large: 200,000 bytes"
    )
    large = b'{"vector": [' + b"1," * (3 << 20) + b"1]}"
    assert served.post("/similar", large, {"Content-Type": "application/json"}).status == 413


def test_a_client_that_sends_its_head_slowly_is_hung_up_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(b"GET /state HTTP/1.1\r\n")
        try:
            while time.monotonic() < started + 10:
                connection.sendall(b"X: a\r\n")
                time.sleep(0.05)
        except OSError:
            pass
    assert time.monotonic() - started < 5


def test_a_client_that_sends_its_body_slowly_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "SECONDS", 0.3)
    assert b" 408 " in served.raw(served.head("POST", "/similar", 5000) + b"some")


def test_an_answer_that_nobody_takes_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "REQUEST_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        one = f"GET /static/serve.css HTTP/1.1\r\nHost: {served.host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        connection.sendall(one.encode() * 400)
        time.sleep(1.5)
        assert served.get("/state").status == 200


def test_so_many_work_so_many_wait_and_others_are_told(served: Served, collection: StandIn) -> None:
    collection.pause, collection.most_at_once = 0.4, 0
    replies: list[Reply] = []
    threads = [
        threading.Thread(target=lambda: replies.append(served.post("/similar", picture())))
        for _ in range(app.AT_WORK + app.WAITING + 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(reply.status for reply in replies)
    assert statuses == [200] * (app.AT_WORK + app.WAITING) + [503] * 5
    assert collection.most_at_once == app.AT_WORK
    busy = next(reply for reply in replies if reply.status == 503)
    assert busy.headers["retry-after"] == "1" and busy.json["reason"] == "busy"


def test_who_has_gone_is_not_worked_for(served: Served, collection: StandIn) -> None:
    collection.pause = 0.5
    before = collection.searches
    working = [threading.Thread(target=served.post, args=("/similar", picture())) for _ in range(app.AT_WORK)]
    for thread in working:
        thread.start()
    time.sleep(0.2)
    content = picture()
    for _ in range(app.WAITING):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(served.head("POST", "/similar", len(content)) + content)
            time.sleep(0.02)
    for thread in working:
        thread.join()
    assert served.post("/similar", picture()).status == 200
    assert collection.searches == before + app.AT_WORK + 1


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_clients_that_break_off_leave_their_place(served: Served, cut: int) -> None:
    for _ in range(app.AT_WORK + app.WAITING + 3):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(served.head("POST", "/similar", 50_000) + picture()[:cut])
    time.sleep(0.2)
    assert served.post("/similar", picture()).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\xff\xfe garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /similar HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /similar HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /similar HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /similar HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: close, Upgrade\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_request_is_refused(served: Served, raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    try:
        reply = served.raw(raw)
    except ConnectionResetError:
        return
    assert reply == b"" or re.match(rb"HTTP/1.1 (4\d\d|501) ", reply), reply


# -- what is asked -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_id", ODD_IDS, ids=range(len(ODD_IDS)))
def test_images_with_odd_ids_are_asked_for(served: Served, image_id: str) -> None:
    reply = served.get("/similar", id=image_id, k=3)
    assert reply.status == 200 and len(reply.json["similar"]) == 3
    assert image_id not in [each["image_id"] for each in reply.json["similar"]]
    shown = served.get("/picture", id=image_id)
    assert shown.status == 200 and shown.body[:4] == b"RIFF"
    page = served.get("/", {"Accept": "text/html"}, id=image_id)
    assert page.status == 200 and "<script>window" not in page.text and "\x00" not in page.text


@pytest.mark.parametrize(
    "image_id", ["", "none", "a\x00b", "new\nline", "x" * 60_000, "../../etc/passwd", "/etc/passwd"]
)
@pytest.mark.parametrize("path", ["/similar", "/picture"])
def test_ids_of_no_image_are_refused(served: Served, path: str, image_id: str) -> None:
    refused(served.get(path, id=image_id), 404)
    page = served.get("/", {"Accept": "text/html"}, id=image_id)
    assert page.status == 404 and "No answer" in page.text


@pytest.mark.parametrize(
    "query", ["id=%ff%fe", "id=%", "id=a&id=b", "id=plain.png&size=huge", "id=a;b", "%00=%00", "id[]=a"]
)
@pytest.mark.parametrize("path", ["/similar", "/picture"])
def test_odd_queries_are_refused(served: Served, path: str, query: str) -> None:
    refused(served.get(f"{path}?{query}"))


@pytest.mark.parametrize(
    "path",
    [
        "/static/../serve/app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2fapp.py",
        "/static/base.html",
        "/static/%00",
        "/gallery/../secret.txt",
        "/gallery/..%2fsecret.txt",
        "/gallery/%2e%2e/secret.txt",
        "/gallery/..\\secret.txt",
        "/gallery//etc/passwd",
        "/gallery/%2fetc%2fpasswd",
        "/gallery/link.txt",
        "/gallery/%00",
        "/gallery/index.html%00",
        "/gallery/" + "a" * 5000,
        "/gallery/",
        "/gallery/index.html/../../secret.txt",
        "//etc/passwd",
        "/etc/passwd",
        "http://169.254.169.254/latest/",
    ],
)
def test_no_path_leads_out(served: Served, path: str) -> None:
    reply = served.get(path)
    assert "secret" not in reply.text
    refused(reply)
    assert served.get("/gallery/index.html").text == "<title>The gallery</title>"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b"\xff\xfe",
        b'{"vector": []}',
        b'{"vector": [1, "2"]}',
        b'{"vector": [true]}',
        b'{"vector": [NaN]}',
        b'{"vector": [Infinity]}',
        b'{"vector": [1e999]}',
        b'{"vector": [1e39]}',
        b'{"vector": [' + b"9" * 5000 + b"]}",
        b'{"vector": {"0": 1}}',
        b'{"vector": [[1]]}',
        b'{"vector": [1, 2, 3]}',
        b'{"vector": [1], "address": "http://example.org"}',
        b'{"vector": [1], "k": 0}',
        b'{"vector": [1], "k": 501}',
        b'{"vector": [1], "k": 2.5}',
        b'{"vector": [1], "k": true}',
        b'{"vector": [1], "k": null}',
        b'{"vector": [1], "k": [1]}',
        b'{"vector": [1], "fingerprint": ["a"]}',
        b'{"vector": [1], "fingerprint": "nowhere"}',
        b'{"vector": [1], "metric": {"a": 1}}',
        b'{"vector": [1], "metrics": "cosine"}',
        b'{"address": 5}',
        b'{"address": "\\ud800"}',
        b'{"id": "plain.png"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
    ids=range(33),
)
def test_json_that_is_wrong_is_refused_in_one_line(served: Served, body: bytes) -> None:
    refused(served.post("/similar", body, {"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize(
    "body, kind, status",
    [
        (b"", "multipart/form-data", 400),
        (b"--edge\r\n", "multipart/form-data; boundary=edge", 400),
        (b"--edge\r\n\r\n\r\n--edge--", "multipart/form-data; boundary=edge", 400),
        (b"nothing of it", "multipart/form-data; boundary=edge", 400),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"a=b", "", 415),
        (form({"k": "-1"}, picture())[0], "multipart/form-data; boundary=edge", 400),
        (form({"k": "1", "l": "2"}, picture())[0], "multipart/form-data; boundary=edge", 400),
        (form({}, picture(), "another")[0], "multipart/form-data; boundary=edge", 400),
        (form({f"a{n}": "" for n in range(50)})[0], "multipart/form-data; boundary=edge", 400),
        (form({"address": "x" * 20_000})[0], "multipart/form-data; boundary=edge", 400),
        (form({"address": "/etc/passwd"})[0], "multipart/form-data; boundary=edge", 404),  # no image has this id
        (form({}, b"")[0], "multipart/form-data; boundary=edge", 400),
    ],
    ids=range(13),
)
def test_forms_that_are_wrong_get_a_page_that_says_so(served: Served, body: bytes, kind: str, status: int) -> None:
    reply = served.post("/", body, {"Content-Type": kind, "Accept": "text/html"})
    assert reply.status == status and 'role="alert"' in reply.text and "Traceback" not in reply.text


@pytest.mark.timeout(300)
def test_every_broken_file_gets_a_line(collection: StandIn, data: Path) -> None:
    """Bombs, truncated and corrupt files, formats that nobody knows."""
    files = sorted(file for file in (data / "awkward").rglob("*") if file.is_file())
    with serving.serving(collection) as whole:
        statuses = {}
        for file in files:
            reply = whole.post("/similar?k=1", file.read_bytes())
            statuses[file.name] = reply.status
            if reply.status != 200:
                assert refused(reply, 422).startswith("the picture cannot be used: "), file
                assert reply.json["reason"]
        assert len(files) > 200 and 20 < list(statuses.values()).count(422) < len(files) - 100
        assert whole.get("/similar", id="plain.png").status == 200


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:{port}/state",
        "http://localhost:{port}/state",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]/",
        "http://0.0.0.0:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f.1/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://100.100.100.200/",
        "http://user:password@127.0.0.1:{port}/",
    ],
)
def test_no_address_of_this_machine_or_network_is_fetched(served: Served, collection: StandIn, address: str) -> None:
    before = collection.searches
    reply = served.ask({"address": address.format(port=served.port)})
    line = refused(reply, 422)
    assert reply.json["reason"] in ("private_address", "io_error"), "a strict resolver does not know all of these"
    assert "password" not in line and "http." not in line and collection.searches == before
    body, headers = form({"address": address.format(port=served.port)})
    assert served.post("/", body, headers).status == 422


@pytest.mark.parametrize(
    "address",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "s3://bucket/a",
        "ftp://example.org/a",
        "gopher://a",
        "data:image/png;base64,AAAA",
    ]
    + ["", " ", "http:/a", "http://a\nb", "http://" + "a" * 9000],
)
def test_what_is_no_web_address_is_refused(served: Served, address: str) -> None:
    assert "http://" in refused(served.ask({"address": address}), 400)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[misbehaving.Misbehaving]:
    """A server that is taken to be on the public internet."""
    is_public = http_connections.is_public
    monkeypatch.setattr(http_connections, "is_public", lambda ip: ip == "127.0.0.1" or is_public(ip))
    http_connections._manager.cache_clear()
    with misbehaving.serving() as running:
        yield running
    http_connections._manager.cache_clear()


@pytest.mark.parametrize("path", ["/to-private", "/to-loopback"])
def test_no_redirect_leads_inside(served: Served, elsewhere: misbehaving.Misbehaving, path: str) -> None:
    assert served.ask({"address": f"{elsewhere.address}/moved"}).status == 200
    reply = served.ask({"address": elsewhere.address + path})
    refused(reply, 422)
    assert reply.json["reason"] == "private_address"


@pytest.mark.parametrize(
    "path, status",
    [
        ("/404", 422),
        ("/401", 422),
        ("/page.jpg", 422),
        ("/empty", 422),
        ("/to-file", 422),
        ("/loop", 422),
        ("/reset", 422),
    ]
    + [("/endless", 413), ("/bomb", 413), ("/vast", 413), ("/good.png", 200), ("/good.jpg", 200)],
)
def test_servers_that_do_wrong(served: Served, elsewhere: misbehaving.Misbehaving, path: str, status: int) -> None:
    reply = served.ask({"address": elsewhere.address + path})
    assert reply.status == status
    if status != 200:
        refused(reply)
        assert elsewhere.gets(path) == 1, "a person waits: nothing is tried again"


# -- faults of our own -------------------------------------------------------------------------------------------------


def test_a_fault_of_ours_is_one_line_and_says_nothing_more(
    served: Served, collection: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("inside /secret/path")

    with monkeypatch.context() as patched:
        patched.setattr(StandIn, "search", fail)
        reply = served.post("/similar", picture())
        page = served.get("/", {"Accept": "text/html"}, id="plain.png")
    assert reply.status == page.status == 500
    assert "fault of this program" in reply.json["error"] and "secret" not in reply.text + page.text
    assert "serve: error: RuntimeError: inside /secret/path" in capsys.readouterr().err


def test_a_picture_that_was_replaced_or_removed_is_not_shown(tmp_path: Path) -> None:
    collection = StandIn(tmp_path)
    with serving.serving(collection) as running:
        collection.files[0].write_bytes(picture((1, 2, 3)))
        collection.files[1].unlink()
        for number, reason in enumerate(("changed", "not_found")):
            reply = running.get("/picture", id=ODD_IDS[number])
            refused(reply, 404)
            assert reply.json["reason"] == reason
