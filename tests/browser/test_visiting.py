"""The watch that the other tests keep over pages sees what it should, and no more."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from visiting import watched

OTHER_PLACE = "http://192.0.2.1/x.png"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


def opened(page: Page, folder: Path, body: str) -> list[str]:
    """The complaints about a page of ``body`` that was opened from ``folder``."""
    (folder / "page.html").write_text(f"<!doctype html><link rel=icon href=data:,>{body}")
    complaints = watched(page, folder.as_uri())
    page.goto((folder / "page.html").as_uri())
    return complaints


def test_a_page_that_is_in_order(page: Page, tmp_path: Path) -> None:
    assert opened(page, tmp_path, "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>") == []


def test_a_missing_file(page: Page, tmp_path: Path) -> None:
    complaints = opened(page, tmp_path, "<img src=gone.png>")
    assert f"failed: {tmp_path.as_uri()}/gone.png net::ERR_FILE_NOT_FOUND" in complaints


def test_what_is_asked_of_another_place_though_the_page_is_left_at_once(page: Page, tmp_path: Path) -> None:
    page.route(OTHER_PLACE, lambda route: route.abort("aborted"))
    complaints = opened(page, tmp_path, f"<img src={OTHER_PLACE}>")
    assert f"asked of another place: {OTHER_PLACE}" in complaints


def test_errors_and_the_console(page: Page, tmp_path: Path) -> None:
    complaints = opened(page, tmp_path, "<script>console.log('said'); throw new Error('thrown')</script>")
    assert complaints == ["console: said", "error: thrown"]


class _Slow(BaseHTTPRequestHandler):
    """A page whose picture never comes."""

    over = threading.Event()

    def do_GET(self) -> None:
        if self.path != "/":
            self.over.wait(30)
            return
        body = b"<!doctype html><link rel=icon href=data:,><img src=slow.png>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_request_that_was_cancelled_because_its_page_was_left(page: Page) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        complaints = watched(page, address)
        with page.expect_request("**/slow.png"):
            page.goto(address, wait_until="commit")
        with page.expect_event("requestfailed", lambda request: request.url.endswith("slow.png")):
            page.goto(address, wait_until="commit")
        _Slow.over.set()
        server.shutdown()
    assert complaints == []
