"""The gallery as a person sees it: in Chromium, from disk and from a static server. Skipped where there is no
Chromium.
"""

import functools
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, FloatRect, Locator, Page, Route

import hanging
from conftest import Rendered
from crawler import pages_in
from image_similarity.pages.paths import page_name
from image_similarity.stages.gallery import addresses, maps, pages, ranked
from image_similarity.stages.gallery.listings import Facet, FacetValue
from image_similarity.stages.gallery.pages import Book, Tab
from visiting import watched


@pytest.fixture(scope="module", params=["disk", "server"])
def address(request: pytest.FixtureRequest, gallery: Rendered) -> Iterator[str]:
    """Where the gallery is opened: a file:// address, or that of a static server."""
    if request.param == "disk":
        yield gallery.folder.as_uri()
        return
    handler = functools.partial(_Quiet, directory=str(gallery.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Visit:
    """A page, and everything that must not happen on it."""

    page: Page
    address: str
    complaints: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.complaints = watched(self.page, self.address)
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.address}/{path}")
        return self.page


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    with browser.new_context() as context:
        made = Visit(context.new_page(), address)
        yield made
        assert made.complaints == []
        assert made.page.evaluate("window.hacked") is None


def shown(gallery: Rendered) -> list[str]:
    """All pages that the gallery shows, below it."""
    return sorted(str(path.relative_to(gallery.folder)) for path in pages_in(gallery.folder))


def page_like(gallery: Rendered, pattern: str) -> str:
    return next(path for path in shown(gallery) if re.match(pattern, path))


def test_no_page_complains_or_runs_what_it_shows(visit: Visit, gallery: Rendered) -> None:
    for path in shown(gallery):
        page = visit.open(path)
        page.evaluate("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
        page.wait_for_function("() => [...document.images].every((image) => image.complete)")
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)"), path
        assert page.evaluate("window.hacked") is None, path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than the window"


def test_search_finds_by_title_and_by_file_name(visit: Visit) -> None:
    page = visit.open("index.html")
    page.fill("#find", "COPY")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results li")
    assert page.locator("#results li").count() == 2 and "2 images for “COPY”" in page.inner_text("#found")
    page.fill("#query", "pictúre fine")  # the file name has a ligature, and no accent on the second word
    page.keyboard.press("Enter")
    page.wait_for_selector("#results li")
    assert page.locator("#results li").count() == 1
    page.locator("#results a").click()
    assert "images/" in page.url and page.locator("h1").count() == 1
    page.fill("#find", "<img src=x onerror=window.hacked=1>")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('found').textContent")
    assert page.inner_text("#found").startswith(("Nothing found for “<img", "1 image for “<img"))


def test_search_looks_inside_of_words_where_nothing_begins_so(visit: Visit) -> None:
    def found(query: str) -> str:
        page = visit.open(f"search.html?q={query}")
        page.wait_for_function("() => document.getElementById('found').textContent")
        return page.inner_text("#found")

    assert found("copy").endswith(" for “copy”")
    assert found("opy").endswith("2 images for “opy”, inside of words")
    assert found("copz").startswith("Nothing found for “copz”. Did you mean copy?")
    visit.page.click("#found a")
    visit.page.wait_for_selector("#results li")
    assert visit.page.locator("#results li").count() == 2
    assert "No word has it, at its beginning or inside" in found("qqqqqqqqqqqqqq")
    assert "No word has 999999" in found("copy+999999"), "numbers are not corrected"


def test_shuffle_shows_others(visit: Visit) -> None:
    visit.page.add_init_script("Math.random = () => 0.4")
    page = visit.open("index.html")
    before = page.locator("#selection a").evaluate_all("links => links.map((link) => link.href)")
    page.click("#shuffle")
    page.wait_for_function("() => document.getElementById('shuffled').textContent")
    after = page.locator("#selection a").evaluate_all("links => links.map((link) => link.href)")
    assert len(after) == len(set(after)) == len(before) and after != before
    page.locator("#selection a").first.click()
    assert page.locator("article.work").count() == 1


def test_the_switch_shows_one_fingerprint_and_stays(visit: Visit, gallery: Rendered) -> None:
    page = visit.open(page_like(gallery, "images/"))
    assert page.locator(".slot:visible").count() == 4
    page.get_by_role("radio", name="second").check(force=True)
    assert page.locator(".slot:visible").count() == 2 and page.locator(".s1:visible").count() == 2
    page.locator(".s1 .card a").first.click()
    assert page.locator(".slot:visible").count() == 2, "on the next page, too"
    assert page.locator(".both").count() > 0 and page.locator(".both:visible").count() == 0, "one list is shown"


@pytest.mark.parametrize("script", [True, False])
def test_on_a_phone_the_first_neighbours_are_on_the_first_screen(
    browser: Browser, gallery: Rendered, script: bool
) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}, java_script_enabled=script) as context:
        page = context.new_page()
        page.goto(f"{gallery.folder.as_uri()}/{first_image(gallery)}")
        assert page.locator(".slot:visible").count() == page.locator(".s0:visible").count() == 2, "one list"
        assert page.get_by_role("radio", name="tiny").is_checked() == script
        assert page.locator(".work img").bounding_box()["height"] <= 0.45 * 844  # type: ignore[index]
        assert boxes(page, ".similar .card")[0]["y"] < 844
        assert page.locator(".facts:visible").count() == page.locator(".legend p:visible").count() == 0
        page.get_by_text("About this image").click()
        assert page.locator(".facts:visible").count() == 1
        page.goto(f"{gallery.folder.as_uri()}/index.html")
        assert boxes(page, ".example .own img")[0]["height"] <= 0.45 * 844
        assert boxes(page, ".example .others .card")[0]["y"] < 844


def test_on_a_phone_tags_are_not_cut_off_and_take_little_of_the_screen(browser: Browser, gallery: Rendered) -> None:
    """Of many, the first part of a third line says that there are more."""
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page, lines = context.new_page(), set()
        for path in (path for path in shown(gallery) if path.startswith("images/")):
            page.goto(f"{gallery.folder.as_uri()}/{path}")
            for tags in page.locator(".tags").all():
                assert tags.evaluate("tags => tags.scrollWidth <= tags.clientWidth"), path
                line = tags.evaluate("tags => parseFloat(getComputedStyle(tags).lineHeight)")
                hidden = tags.evaluate("tags => tags.scrollHeight - tags.clientHeight")
                lines.add(round((tags.evaluate("tags => tags.clientHeight") - 8) / line, 1))
                assert max(lines) <= 2.6 and (not hidden or max(lines) == 2.6), path
        assert lines


def test_tags_are_above_a_random_selection_and_in_the_words_of_the_search(visit: Visit) -> None:
    page = visit.open("index.html")
    headings = [page.locator(f"#{name}").bounding_box() for name in ("tags", "groups", "chance")]
    tops = [box["y"] for box in headings if box]
    assert len(tops) == 3 and tops == sorted(tops)
    field = page.locator("#find")
    assert field.get_attribute("placeholder") == "Title, tag, attribute"
    assert field.evaluate(
        "field => { const text = document.createElement('canvas').getContext('2d'), style = getComputedStyle(field);"
        " text.font = style.font; const room = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);"
        " return text.measureText(field.placeholder).width <= field.clientWidth - room; }"
    ), "all of it is seen"


def test_an_enlarged_picture_has_its_name_and_is_no_larger_than_it_can_be(visit: Visit, gallery: Rendered) -> None:
    page = visit.open(first_image(gallery))
    title, place = page.inner_text("h1"), page.inner_text(".turning .number")
    page.locator(".enlarge").click()
    assert page.inner_text("dialog .title") == f"{title} {place}"
    size = page.get_by_role("button", name="Full size")
    page.wait_for_function("() => document.querySelector('dialog img').complete")
    page.set_viewport_size({"width": 3000, "height": 3000})
    page.wait_for_function("() => document.querySelector('dialog.fits')")
    assert size.is_disabled(), "it is at its full size"
    page.locator("dialog img").click()
    assert page.locator("dialog.whole").count() == 0
    page.set_viewport_size({"width": 200, "height": 300})
    page.wait_for_function("() => !document.querySelector('dialog.fits')")
    assert size.is_enabled()


def test_arrows_turn_pages_from_the_switch_too(visit: Visit, gallery: Rendered) -> None:
    page = visit.open(first_image(gallery))
    page.get_by_role("radio", name="second").check(force=True)
    page.keyboard.press("ArrowUp")
    assert page.get_by_role("radio", name="tiny").is_checked(), "arrows up and down choose"
    first = page.url
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: url != first)
    page.get_by_role("radio", name="side by side").check(force=True)
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(first)


@pytest.mark.parametrize("width", [390, 800, 1024, 1920])
def test_equal_ranks_stand_in_one_row_side_by_side(browser: Browser, gallery: Rendered, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.goto(f"{gallery.folder.as_uri()}/{page_like(gallery, 'images/')}")
        if width == 390:
            page.get_by_role("radio", name="side by side").check(force=True)
        first, second = (boxes(page, f".similar .s{slot} .card") for slot in (0, 1))
        assert len(first) == len(second) == 5
        for one, other in zip(first, second):
            assert abs(one["y"] + one["height"] - other["y"] - other["height"]) < 1 and one["x"] < other["x"]
            assert abs(one["y"] - other["y"]) < 1, "pictures begin at one height, however long their titles are"
        if width == 390:
            assert all(above["y"] + above["height"] <= below["y"] for above, below in zip(first, first[1:]))


@pytest.mark.parametrize("width", [390, 1024])
def test_next_stands_beside_previous(browser: Browser, gallery: Rendered, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        for kind in ("images/", "browse/2"):
            page.goto(f"{gallery.folder.as_uri()}/{page_like(gallery, kind)}")
            previous, _, following = boxes(page, "main .turning > *")
            assert previous["x"] + previous["width"] < following["x"], kind
            assert previous["y"] < following["y"] + following["height"] / 2 < previous["y"] + previous["height"], kind


def boxes(page: Page, selector: str) -> list[FloatRect]:
    return [box for element in page.locator(selector).all() if (box := element.bounding_box()) is not None]


def test_a_picture_is_enlarged_and_keys_lead_on(visit: Visit, gallery: Rendered) -> None:
    page = visit.open(first_image(gallery))
    page.locator(".enlarge").click()
    assert page.locator("dialog[open] img").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0 and page.evaluate("document.activeElement.className") == "enlarge"
    page.set_viewport_size({"width": 200, "height": 300})
    page.keyboard.press("Enter")
    size = page.get_by_role("button", name="Full size")
    size.click()
    assert size.get_attribute("aria-pressed") == "true" and page.locator("dialog.whole").count() == 1
    size.click()
    before = page.url
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: url.partition("#")[0] != before)
    assert page.locator("dialog[open] img").count() == 1, "the next picture is enlarged, too"
    page.keyboard.press("Escape")
    page.wait_for_function("() => location.hash === ''")


def test_the_focus_stays_where_the_keyboard_goes_on(visit: Visit, gallery: Rendered) -> None:
    page = visit.open(first_image(gallery))
    page.locator(".enlarge").press("Enter")
    page.get_by_role("button", name="Next").press("Enter")
    page.wait_for_url("**#enlarged-next")
    second = page.url
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url != second)
    assert page.evaluate("document.activeElement.textContent") == "Next", "pressing it again goes on"
    page.keyboard.press("Escape")
    page.wait_for_function("() => location.hash === ''")
    assert page.evaluate("document.activeElement.className") == "enlarge", "and not the top of the page"
    page.fill("#find", "copy")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results li")
    page.wait_for_function("() => document.activeElement.id === 'found'")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#results') !== null"), "the first result"


def test_a_swipe_leads_to_the_next_enlarged_picture(browser: Browser, gallery: Rendered) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context:
        page = context.new_page()
        page.goto(f"{gallery.folder.as_uri()}/{first_image(gallery)}")
        page.locator(".enlarge").tap()
        first, touch = page.url, context.new_cdp_session(page)
        for kind, points in (("Start", [{"x": 300, "y": 400}]), ("Move", [{"x": 100, "y": 400}]), ("End", [])):
            touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
        page.wait_for_url(lambda url: url.partition("#")[0] != first)
        assert page.locator("dialog[open] img").count() == 1


def test_fingers_find_what_is_pressed(browser: Browser, gallery: Rendered) -> None:
    """WCAG 2.5.8: 24 pixels each way, but for links in a sentence."""
    with browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context:
        page = context.new_page()
        tagged = "tags/1.html", page_like(gallery, "tags/[0-9a-f]{32}")
        groups = "near-duplicates/1.html", "together/level0-1.html", page_like(gallery, "together/[0-9a-f]{16}")
        others = "index.html", page_like(gallery, "browse/2"), "search.html", "run.html"
        ranked = (
            "quality/index.html",
            "quality/darkest-1.html",
            page_like(gallery, "odd/label-.*-1"),
            "odd/tiny-cosine-1.html",
        )
        for path in (first_image(gallery), *tagged, *groups, *ranked, *others):
            page.goto(f"{gallery.folder.as_uri()}/{path}")
            small = page.locator(
                "a:visible, button:visible, summary:visible, input:visible:not([type=radio])"
            ).evaluate_all(
                "all => all.filter((one) => !one.closest('.skip, .lead, .scale, footer, main p'))"
                ".map((one) => one.closest('label') ?? one).map((one) =>"
                " [one.textContent, one.getBoundingClientRect().width, one.getBoundingClientRect().height])"
                ".filter(([, width, height]) => height < 24 || width < 24)"
            )
            assert small == [], path


def test_a_tag_is_found_on_the_list_of_all(visit: Visit) -> None:
    page = visit.open("tags/1.html")
    listed = page.locator("#tags > li")
    everything = listed.count()
    page.get_by_label("Find a tag").fill("CÁRD")
    assert page.locator("#tags > li:visible .title").all_inner_texts() == ["Cardigan", "cardigan"]
    assert page.locator(".narrow [role=status]").inner_text() == f"2 of {everything}"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.querySelector('.title').textContent") == "Cardigan"
    page.keyboard.press("Enter")
    page.wait_for_url("**/tags/*-1.html")
    assert page.inner_text("h1") == "Cardigan" and page.locator(".rows .card").count() > 0
    page.go_back()
    page.get_by_label("Find a tag").fill("")
    assert page.locator("#tags > li:visible").count() == everything


def test_a_tag_is_found_by_the_search(visit: Visit) -> None:
    page = visit.open("search.html?q=crane")
    page.wait_for_selector("#results li")
    page.locator("#results a").first.click()
    assert page.locator(".tags").get_by_role("link", name=re.compile("crane.*probability")).count() == 1


def test_a_search_for_nothing_is_answered(visit: Visit) -> None:
    page = visit.open("search.html?q=%21%3F")
    page.wait_for_function("() => document.getElementById('found').textContent")
    assert page.inner_text("#found").startswith("Nothing to look for in “!?”")


@pytest.mark.parametrize("width", [390, 800, 1024, 1920])
def test_no_picture_is_smaller_than_others_of_its_list(browser: Browser, gallery: Rendered, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.goto(f"{gallery.folder.as_uri()}/index.html")
        rows = {picture["y"]: picture["height"] for picture in boxes(page, "#selection img")}
        *heights, last = [rows[top] for top in sorted(rows)]
        assert last >= max(heights, default=0) / 1.3 - 1, "a row is at most 1.3 times as high as another"
        own, *others = boxes(page, ".example:first-of-type img")
        if width > 60 * 16:
            assert all(abs(one["y"] - own["y"]) < 1 and abs(one["height"] - own["height"]) < 2 for one in others)
        else:
            assert all(one["y"] > own["y"] + own["height"] for one in others)


def test_no_word_below_a_picture_is_cut_off(browser: Browser, gallery: Rendered) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        for path in ("index.html", "browse/1.html", page_like(gallery, "images/")):
            page.goto(f"{gallery.folder.as_uri()}/{path}")
            cut = page.locator(".card .title").evaluate_all(
                "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1 ||"
                " getComputedStyle(one).textOverflow !== 'clip').map((one) => one.textContent)"
            )
            assert cut == [], path


@pytest.mark.parametrize("width", [390, 705, 800, 961, 1024, 1920])
def test_words_of_labels_stay_whole_below_narrow_pictures(browser: Browser, tmp_path: Path, width: int) -> None:
    tabs = (Tab("one", "one", "cosine"),)
    book = Book(str(tmp_path), "r1", "Title", 7, tabs, (), 200)
    values = tuple(FacetValue(value, 2, value) for value in ("expressionism", "impressionism"))
    facet = Facet("style", "0" * 32, values)
    card = {"page": "0" * 32, "title": "expressionism", "subtitle": "", "alt": "", "picture": "0" * 32}
    cards = {at: {**card, "width": 1 if at % 2 else 3, "height": 2} for at in range(7)}
    near = {"neighbours": [*range(1, 7)], "labels": [0, 1, 1, 0, 1, 1]}
    row = {"ordinal": 0, "label": 0, "suggested": 1, "score": 0.5, "own_share": 0.25, **near}
    lists = ranked.Lists(suspects=[ranked.suspects(facet, 7, 1, [row], cards)])
    [(path, template, context)] = ranked.pages_of(lists, tabs, 60)
    pages.write(book.gallery, path, pages.render(template, book, path, context))
    pages.write(book.gallery, *pages.static_file("gallery.css", book))
    with browser.new_context(viewport={"width": width, "height": 900}) as opened:
        page = opened.new_page()
        page.goto(f"{tmp_path.as_uri()}/{path}")
        broken = page.locator(".suspect .card :is(.title, bdi)").evaluate_all(
            "all => all.filter((one) => one.getClientRects().length > 1 || one.offsetHeight > 30)"
            ".map((one) => one.textContent)"
        )
        assert broken == [] and page.locator(".suspect .card bdi").count() == 7
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_long_names_of_fingerprints_scroll_in_their_row_and_not_the_page(browser: Browser, gallery: Rendered) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        page.goto(f"{gallery.folder.as_uri()}/{page_like(gallery, 'images/')}")
        page.locator(".switch span").evaluate_all("all => all.forEach((one) => { one.textContent = 'x'.repeat(60); })")
        assert page.locator(".switch").evaluate("one => one.scrollWidth > one.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_place_of_the_original_is_copied(visit: Visit, gallery: Rendered) -> None:
    page = visit.open(first_image(gallery))
    page.locator(".copy").click()
    page.wait_for_function("() => document.querySelector('.copy').textContent === 'Copied'")
    place = page.locator(".location").inner_text()
    assert place.startswith(str(gallery.folder.parent)) and page.evaluate("getSelection().toString()") == place


def first_image(gallery: Rendered) -> str:
    """The page of the first image, whose picture can be enlarged. There is a next one."""
    pages = [path for path in shown(gallery) if path.startswith("images/")]
    return next(path for path in pages if ">1 of " in (gallery.folder / path).read_text(encoding="utf-8"))


EARLIER = "r20260101T000000-00000000"


@pytest.fixture
def there_and_left(gallery: Rendered) -> Iterator[tuple[str, str]]:
    """Addresses of an image that is there and of one that has left, with pages of an earlier version of both."""
    there, left = page_like(gallery, "images/"), f"images/00/{'0' * 32}.html"
    tabs = Tab("tiny", "tiny", "cosine"), Tab("second", "second", "cosine")
    book = Book(str(gallery.folder), "r1", "Title", 20, tabs, (), 200)
    pages.write(book.gallery, left, pages.render("left.html", book, left, {"is_image": True}))
    for path in (there, left):
        addresses._write_moved(book, EARLIER, path, path)
    yield there, left
    (gallery.folder / left).unlink()
    shutil.rmtree(gallery.folder / EARLIER)


def test_old_addresses_lead_to_the_page_of_their_image(visit: Visit, there_and_left: tuple[str, str]) -> None:
    there, left = there_and_left
    page = visit.open(f"{EARLIER}/{there}")
    page.wait_for_url(f"{visit.address}/{there}")
    assert page.locator("article.work").count() == 1
    page = visit.open(f"{EARLIER}/{left}")
    page.wait_for_url(f"{visit.address}/{left}")
    assert page.inner_text("h1") == "This image has left the collection"
    page.get_by_role("link", name="all images").click()
    page.wait_for_url("**/browse/1.html")


@pytest.fixture(scope="module")
def with_map(gallery: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the gallery, which has got a map since it was rendered."""
    folder = tmp_path_factory.mktemp("with a map") / "g"
    shutil.copytree(gallery.folder, folder)
    hanging.hang(folder, "m1", "#8a3324")
    return folder


@pytest.fixture
def visit_map(browser: Browser, with_map: Path) -> Iterator[Visit]:
    with browser.new_context() as context:
        visit = Visit(context.new_page(), with_map.as_uri())
        yield visit
        assert visit.complaints == []


def map_links(page: Page) -> Locator:
    return page.get_by_role("navigation", name="The collection").get_by_role("link", name="Map", exact=True)


def test_a_map_is_reached_from_every_page_and_from_the_page_of_an_image(visit_map: Visit, gallery: Rendered) -> None:
    for path in ("index.html", "browse/1.html", "search.html", page_like(gallery, "tags/[0-9a-f]{32}")):
        page = visit_map.open(path)
        assert map_links(page).evaluate("link => link.href") == f"{visit_map.address}/map.html", path
        assert page.get_by_role("link", name="On the map").count() == 0
    map_links(page).click()
    page.wait_for_url("**/map.html")
    assert map_links(page).get_attribute("aria-current") == "page", "the only one"
    page = visit_map.open(first_image(gallery))
    place = page.inner_text(".turning .number")
    page.get_by_role("link", name="On the map").click()
    assert page.url == f"{visit_map.address}/map.html#{Path(first_image(gallery)).stem}"
    page.go_back()
    page.locator(".enlarge").click()
    assert page.inner_text("dialog .title").endswith(place), "the link is no part of it"


def test_an_image_without_a_picture_has_no_place_on_the_map(visit_map: Visit, gallery: Rendered) -> None:
    name = page_name(gallery.absent)
    page = visit_map.open(f"images/{name[:2]}/{name}.html")
    assert map_links(page).count() == 1 and page.get_by_role("link", name="On the map").count() == 0


@pytest.mark.parametrize("width", [390, 1920])
def test_the_front_page_shows_the_wall_of_now(browser: Browser, with_map: Path, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 844}, color_scheme="dark") as context:
        visit = Visit(context.new_page(), with_map.as_uri())
        page = visit.open("index.html")
        wall = page.locator(".mapped img")
        assert wall.get_attribute("alt") == "The map of 1,234 images"
        page.wait_for_function("() => document.querySelector('.mapped img').complete")
        assert wall.evaluate("wall => wall.naturalWidth") == 640
        [box], [picture] = boxes(page, ".mapped a"), boxes(page, ".mapped img")
        assert box["width"] == min(640, width - 32) and box["height"] <= 0.56 * 844, "the pictures below begin near it"
        assert picture["width"] == 640 and picture["height"] == 480, "not enlarged"
        assert boxes(page, ".example")[0]["y"] > box["y"] + box["height"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert visit.complaints == []
        told = Axe().run(page)  # which asks for the style sheet, and is refused
        assert told.violations_count == 0, told.generate_report()


def test_the_wall_of_the_rendering_is_replaced_by_that_of_a_newer_map(
    browser: Browser, gallery: Rendered, tmp_path: Path
) -> None:
    folder = tmp_path / "g"
    shutil.copytree(gallery.folder, folder)
    hanging.hang(folder, "m1", "#8a3324")
    book = Book(str(folder), "r1", "Title", 20, (), (), 200)
    map_of_then = maps.front(book)
    facts: dict[str, Any] = {"examples": [], "faces": {}, "facets": [], "selection": [], "tags": (), "map": map_of_then}
    pages.write(book.gallery, "index.html", pages.render("index.html", book, "index.html", facts))
    pages.write(book.gallery, *pages.static_file("gallery.css", book))
    for script, run, source in ((False, "m1", "r1"), (True, "m1", "r1"), (True, "m2", "map/m2"), (False, "m2", "r1")):
        if run == "m2":
            shutil.rmtree(folder / "map" / "m1", ignore_errors=True)
            hanging.hang(folder, run, "#222222")
        with browser.new_context(java_script_enabled=script) as context:
            visit = Visit(context.new_page(), folder.as_uri())
            page = visit.open("index.html")
            assert page.locator(".mapped").is_visible() and page.locator(".mapped img").count() == 1
            address = page.locator(".mapped img").evaluate("wall => wall.src")
            assert address == f"{folder.as_uri()}/{source}/wall.webp", (script, run)
            page.locator(".mapped a").click()
            page.wait_for_url("**/map.html")
            assert visit.complaints == []


def test_without_a_map_nothing_is_said_of_it(visit: Visit, gallery: Rendered) -> None:
    for path in ("index.html", first_image(gallery)):
        page = visit.open(path)
        assert page.locator(".mapped:visible").count() == 0
        assert page.get_by_role("link", name=re.compile(r"\bmap\b", re.IGNORECASE)).count() == 0


def test_arrows_turn_pages(visit: Visit, gallery: Rendered) -> None:
    page = visit.open(page_like(gallery, "browse/1.html"))
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/browse/2.html")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/browse/1.html")


def test_it_works_without_javascript(browser: Browser, address: str, gallery: Rendered) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{address}/index.html")
        assert page.locator("#shuffle:visible").count() == 0
        page.locator("#selection a").first.click()
        assert page.locator(".similar .card").count() == 10
        page.get_by_text("second", exact=True).first.click()
        assert page.locator(".slot:visible").count() == 2
        large = page.locator(".enlarge").get_attribute("href")
        assert large is not None and large.endswith(".webp") and page.locator(".copy").count() == 0
        page.fill("#find", "copy")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=copy")
        assert page.locator("noscript").inner_text().startswith("Searching needs JavaScript")
        assert "names of files and folders" in page.inner_text("#searched")


KINDS = [
    "index.html",
    "images/[^0]",
    "browse/1",
    "groups/[^/]*$",
    "groups/.*/",
    "duplicates",
    "near-duplicates/1",
    "near-duplicates/[0-9a-f]{16}",
    "together/level0",
    "together/[0-9a-f]{16}",
    "tags/1",
    "tags/[0-9a-f]{32}",
    "tags/none",
    "quality/index",
    "quality/darkest-1",
    "quality/flag-",
    "odd/tiny",
    "odd/label-",
    "failures/index",
    "failures/trunc",
]
KINDS += ["run.html", "distances.html", "search.html"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_names_and_order(
    browser: Browser, gallery: Rendered, there_and_left: tuple[str, str], scheme: str
) -> None:
    """axe-core's rules (WCAG 2.2 A and AA, best practices) on one page of each kind."""
    with browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light", viewport={"width": 390, "height": 844}
    ) as context:
        page = context.new_page()
        for kind in [*KINDS, there_and_left[1]]:
            page.goto(f"{gallery.folder.as_uri()}/{page_like(gallery, kind)}")
            told = Axe().run(page)
            assert told.violations_count == 0, f"{kind}: {told.generate_report()}"


def test_the_keyboard_reaches_everything_in_order(visit: Visit) -> None:
    page = visit.open("index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null"), "past the navigation"
    in_order = page.locator("main :is(a:visible, button:visible, input, summary)").evaluate_all(
        "all => all.map((one) => one.href ?? one.id)"
    )
    reached = []
    for _ in in_order:
        reached.append(page.evaluate("document.activeElement.href ?? document.activeElement.id"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Tab")
    assert reached == in_order


@pytest.mark.parametrize("width", [390, 1024, 1920])
def test_the_kept_one_stands_first_and_pictures_of_a_group_are_of_one_height(
    browser: Browser, gallery: Rendered, width: int
) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{gallery.folder.as_uri()}/near-duplicates/1.html")
        group = page.locator(".near").first.get_attribute("id")
        kept, *others = boxes(page, f"#{group} .member")
        assert page.locator(f"#{group} .member").first.get_by_text("Kept", exact=True).count() == 1
        assert all((one["y"], one["x"]) > (kept["y"], kept["x"]) for one in others)
        heights = {round(box["height"]) for box in boxes(page, ".near .member img, .near .member .absent")}
        assert len(heights) == 1
        page.get_by_role("link", name="Surest first").click()
        page.wait_for_url("**/near-duplicates/surest-1.html")
        assert page.locator(".near").count() == 2


def test_nothing_moves_while_pictures_arrive(browser: Browser, gallery: Rendered) -> None:
    for width in (390, 1920):
        with browser.new_context(viewport={"width": width, "height": 900}) as context:
            slowly(context)
            page = context.new_page()
            for kind in ("index.html", "images/", "browse/1", "near-duplicates/1", "together/[0-9a-f]{16}", "tags/1"):
                page.goto(f"{gallery.folder.as_uri()}/{page_like(gallery, kind)}")
                assert moved(page) == 0, f"{kind} at {width}"
            page.evaluate("document.querySelector('main').style.marginTop = '200px'")
            assert moved(page) > 0, "what moves is seen"


def moved(page: Page) -> float:
    """How far things have moved since the page was opened (cumulative layout shift)."""
    page.wait_for_timeout(100)
    shifts: float = page.evaluate("""() => new Promise((resolve) => {
            new PerformanceObserver((list) => resolve(list.getEntries().reduce((sum, entry) => sum + entry.value, 0)))
                .observe({ type: "layout-shift", buffered: true });
            setTimeout(() => resolve(0), 100);
        })""")
    return shifts


def slowly(context: BrowserContext) -> None:
    """Pictures arrive after the page has been laid out."""

    def late(route: Route) -> None:
        threading.Event().wait(0.02)
        route.continue_()

    context.route("**/*.webp", late)


@pytest.mark.parametrize("width", [800, 1024, 1280])
def test_the_search_stands_beside_the_lists_of_the_header(browser: Browser, gallery: Rendered, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 844}) as context:
        page = context.new_page()
        page.goto(f"{gallery.folder.as_uri()}/{page_like(gallery, 'images/')}")
        name, lists, find = (boxes(page, f"header {part}")[0] for part in (".name", "nav", ".search"))
        assert name["x"] + name["width"] <= lists["x"] and lists["x"] + lists["width"] <= find["x"]
        assert lists["y"] < find["y"] + find["height"] / 2 < lists["y"] + lists["height"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_lists_of_the_header_fade_where_they_go_on_and_the_last_is_clear(
    browser: Browser, gallery: Rendered
) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        page.goto(f"{gallery.folder.as_uri()}/{page_like(gallery, 'images/')}")
        lists = page.locator("header nav ul")
        assert lists.evaluate("one => one.scrollWidth > one.clientWidth")
        assert "gradient" in page.locator("header nav").evaluate("one => getComputedStyle(one).maskImage")
        lists.evaluate("one => { one.scrollLeft = one.scrollWidth; }")
        nav, last = boxes(page, "header nav")[0], boxes(page, "header nav a")[-1]
        assert last["x"] + last["width"] <= nav["x"] + nav["width"] - 3.5 * 16
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
