"""The map as a person sees it: in Chromium, from disk. Skipped where there is no Chromium."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page

import crawler
import mapped
from conftest import Rendered
from visiting import watched

COLUMNS = 5
HOSTILE = "<img src=x onerror=window.hacked=1>"


@dataclass
class Map:
    """A gallery with a map of the images that have a picture, five in a row; some of them have a name."""

    folder: Path
    cards: list[dict[str, Any]]

    @property
    def address(self) -> str:
        return f"{self.folder.as_uri()}/map.html"

    def place(self, number: int) -> tuple[int, int]:
        return number % COLUMNS, number // COLUMNS


@pytest.fixture(scope="module")
def shown(gallery: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Map:
    folder = tmp_path_factory.mktemp("map") / "gallery"
    shutil.copytree(gallery.folder, folder)
    made = Map(folder, mapped.cards(folder))
    cells = {card["page"]: made.place(number) for number, card in enumerate(made.cards)}
    mapped.write(folder, cells, [(0, 1.0, 1.5, "of another zoom", 12), (1, 2.5, 1.5, HOSTILE, 9)], digits=1)
    return made


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1024, "height": 768}, reduced_motion="reduce") as context:
        yield context


@pytest.fixture
def page(context: BrowserContext, shown: Map) -> Iterator[Page]:
    """The map, opened. Nothing may be said to the console, fail, or be asked of another place, nor run."""
    page = context.new_page()
    complaints = watched(page, shown.folder.as_uri())
    page.goto(shown.address)
    drawn(page)
    yield page
    assert complaints == []
    assert page.evaluate("window.hacked") is None


def drawn(page: Page) -> None:
    """Waits until all tiles and pictures are there."""
    waiting = "document.querySelector('.leaflet-tile:not(.leaflet-tile-loaded)')"
    page.wait_for_function(f"() => document.querySelector('.leaflet-tile') && !{waiting}")


def middle(page: Page, shown: Map, number: int) -> tuple[float, float]:
    """Where the image is in the window. All four tiles of the deepest level are seen, and have 4 x 4 cells."""
    left, top, cell = page.locator("img.leaflet-tile[src]").evaluate_all("""(all) => {
        const boxes = all.map((one) => one.getBoundingClientRect());
        return [Math.min(...boxes.map(({ x }) => x)), Math.min(...boxes.map(({ y }) => y)), boxes[0].width / 4];
    }""")
    column, row = shown.place(number)
    return left + (column + 0.5) * cell, top + (row + 0.5) * cell


def click(page: Page, shown: Map, number: int) -> None:
    """Clicks the image, on a wall that is shown whole."""
    page.mouse.click(*middle(page, shown, number))


def test_the_whole_wall_is_seen_at_first_and_its_pictures_whole(page: Page, shown: Map) -> None:
    inside = page.locator(".hung img").evaluate_all("""(all) => {
        const map = document.getElementById("map").getBoundingClientRect();
        const isInside = ({ left, right, top, bottom }) =>
            left >= map.left && right <= map.right && top >= map.top && bottom <= map.bottom;
        return all.map((one) => one.getBoundingClientRect()).filter((box) => box.width > 60 && isInside(box)).length;
    }""")
    assert inside == len(shown.cards)
    assert page.locator(".hung img").first.evaluate("one => getComputedStyle(one).objectFit") == "contain"
    assert page.locator("img.leaflet-tile[src*='map/tiles/']").count() > 0
    assert page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight"
    )


def test_a_click_shows_the_image_marks_it_and_leads_to_its_page(page: Page, shown: Map) -> None:
    click(page, shown, 7)
    card = shown.cards[7]
    page.wait_for_selector("#panel:visible")
    assert page.inner_text("#name") == " ".join(card["title"].split())
    assert page.url.endswith(f"map.html#{card['page']}")
    ring = page.locator(".ring:visible").bounding_box()
    assert ring is not None and ring["width"] > 60
    page.locator("#copy").click()
    page.wait_for_function("() => document.getElementById('copy').textContent !== 'Copy link'")
    page.keyboard.press("Escape")
    assert page.locator("#panel:visible").count() == page.locator(".ring").count() == 0
    assert page.url == shown.address
    click(page, shown, 7)
    page.locator("#page").click()
    page.wait_for_url(f"**/images/{card['page'][:2]}/{card['page']}.html")


@pytest.mark.parametrize("number", [14, 18], ids=["right", "below"])
@pytest.mark.parametrize("size", [(1024, 768), (390, 844), (390, 640), (844, 390), (640, 400)])
def test_the_panel_does_not_lie_on_the_image(page: Page, shown: Map, size: tuple[int, int], number: int) -> None:
    """Not even on one of the last row, where the wall must be moved beyond its edges."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.locator("#fit").click()
    page.wait_for_timeout(300)
    drawn(page)
    before = page.evaluate(PICTURES)
    click(page, shown, number)
    page.wait_for_selector(".ring:visible")
    page.wait_for_timeout(100)
    ring, panel = (page.locator(name).bounding_box() for name in (".ring", "#panel"))
    assert ring is not None and panel is not None
    assert ring["x"] + ring["width"] < panel["x"] or ring["y"] + ring["height"] < panel["y"]
    page.keyboard.press("Escape")
    page.locator("#fit").click()
    assert page.evaluate(PICTURES) == before


def opened(page: Page) -> Any:
    """The page of the image that the panel shows; None where it is closed. Waits until late answers would be there."""
    page.wait_for_timeout(300)
    return page.evaluate("""() => document.getElementById("panel").hidden ? null
        : document.getElementById("page").getAttribute("href").match(/\\w{32}/)[0]""")


HOLD = """(part) => {
    const held = [], append = document.head.append.bind(document.head);
    document.head.append = (script) => script.src.includes(part) ? held.push(script) : append(script);
    window.release = () => { append(...held); return held.length; };
}"""
"""Scripts with `part` in their address come when ``release`` is called, which says how many there are."""


@pytest.mark.parametrize("meanwhile", ["click", "Escape", "wheel", "search"])
def test_an_answer_that_comes_late_is_dropped(page: Page, shown: Map, meanwhile: str) -> None:
    late = shown.cards[7]["page"]
    other = next(number for number, card in enumerate(shown.cards) if card["page"][0] != late[0])
    page.evaluate(HOLD, f"places/{late[0]}.js")
    page.evaluate(f"location.hash = '{late}'")
    if meanwhile == "click":
        click(page, shown, other)
    elif meanwhile == "wheel":
        page.mouse.move(500, 400)
        page.mouse.wheel(0, -300)
    elif meanwhile == "search":
        page.fill("#sought", "copy")
        page.wait_for_selector("#matches li")
    else:
        page.keyboard.press(meanwhile)
    before = opened(page)
    assert before == (shown.cards[other]["page"] if meanwhile == "click" else None)
    assert page.evaluate("release()") == 1
    assert opened(page) == before


def test_the_middle_is_that_of_now(context: BrowserContext, shown: Map, tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    shutil.copytree(shown.folder, folder)
    cells = {card["page"]: (4 * number, 4 if number else 0) for number, card in enumerate(shown.cards)}
    mapped.write(folder, cells, run="m4")
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{folder.as_uri()}/map.html")
    drawn(page)
    page.locator("#fit").click()
    page.evaluate(HOLD, "blocks/")
    page.locator("#map").focus()
    for key in ("+", "+", "+", "-", "-", "-", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
        page.wait_for_timeout(100)
    now = page.text_content("#middle")
    assert page.evaluate("release()") > 0
    page.wait_for_timeout(300)
    assert page.text_content("#middle") == now


def test_back_closes_what_the_address_no_longer_names(page: Page, shown: Map) -> None:
    page.evaluate(f"location.hash = '{shown.cards[3]['page']}'")
    page.wait_for_selector("#panel:visible")
    page.go_back()
    assert opened(page) is None
    page.evaluate(f"location.hash = '{'f' * 32}'")
    page.wait_for_function("() => document.getElementById('matched').textContent")
    assert page.locator("#matched a").count() == 0, "nobody knows that there is such a page"
    page.evaluate(f"location.hash = '{shown.cards[3]['page']}'")
    page.wait_for_selector("#panel:visible")
    assert page.inner_text("#matched") == ""
    page.go_back()
    assert opened(page) is None
    page.go_back()
    assert opened(page) is None and page.url.split("#")[0] == shown.address
    page.locator("#fit").click()
    drawn(page)
    click(page, shown, 7)
    page.locator("#page").click()
    page.go_back()
    page.wait_for_selector("#panel:visible")
    assert page.evaluate("document.activeElement.id") == "map"


def test_an_address_marks_its_image(page: Page, shown: Map) -> None:
    card = shown.cards[3]
    page.goto(f"{shown.address}#{card['page']}")  # the page is there already
    page.wait_for_selector("#panel:visible")
    page.reload()
    page.wait_for_selector("#panel:visible")
    assert page.locator("#page").get_attribute("href") == f"images/{card['page'][:2]}/{card['page']}.html"
    page.wait_for_selector(".ring:visible")
    page.evaluate(f"location.hash = '{'0' * 32}'")
    page.wait_for_function(
        "() => document.getElementById('matched').textContent.startsWith('This image is not on the map')"
    )


def test_search_lists_images_and_flies_there(page: Page, shown: Map) -> None:
    page.fill("#sought", "copy")
    page.wait_for_selector("#matches li")
    assert page.locator("#matches li").count() == 2 and page.inner_text("#matched") == "2 images"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('#matches') !== null")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel:visible")
    assert page.evaluate("document.activeElement.id") == "panel" and page.locator("#matches li").count() == 0
    page.fill("#sought", HOSTILE)
    page.wait_for_function("() => document.getElementById('matched').textContent")
    page.keyboard.press("Escape")
    assert page.inner_text("#matched") == "" and page.locator("#panel:visible").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#panel:visible").count() == 0


def test_the_keyboard_alone(page: Page, shown: Map) -> None:
    page.locator("a.skip").focus()
    page.keyboard.press("Enter")
    stops = []
    for _ in range(6):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.localName"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert stops == ["sought", "map", "in", "out", "fit", "summary"]
    page.locator("#map").focus()
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#middle:visible")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel:visible")
    assert page.evaluate("document.activeElement.id") == "panel"
    assert page.text_content("#middle") == page.text_content("#name")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "close"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "map"


def test_the_wheel_and_the_buttons_zoom_between_the_whole_wall_and_one_image(page: Page) -> None:
    width = "document.querySelector('.hung')?.getBoundingClientRect().width"

    def size() -> float:
        return float(page.evaluate(width))

    first = size()
    page.locator("#out").click()
    assert size() == pytest.approx(first), "no farther than the whole wall"
    page.locator("#in").click()
    page.wait_for_function(f"(least) => {width} > least", arg=first * 1.5)
    page.locator("#fit").click()
    page.wait_for_function(f"(most) => {width} < most", arg=first * 1.01)
    page.mouse.move(500, 400)
    page.mouse.wheel(0, -3000)
    page.wait_for_function(f"() => {width} > 500")


PICTURES = "[...document.querySelectorAll('.hung')].map((one) => one.getBoundingClientRect())"


def test_pictures_hang_as_soon_as_tiles_would_be_blurred(page: Page, shown: Map) -> None:
    page.set_viewport_size({"width": 568, "height": 768})
    page.wait_for_timeout(300)
    drawn(page)
    boxes = page.evaluate(PICTURES)
    assert len(boxes) == len(shown.cards) and 64 * 2**0.5 < boxes[0]["width"] < 128


@pytest.mark.parametrize("button", ["fit", "out"])
def test_a_button_pressed_while_the_wheel_zooms_is_not_lost(browser: Browser, shown: Map, button: str) -> None:
    with browser.new_context(viewport={"width": 1024, "height": 768}) as context:
        page = context.new_page()
        page.goto(shown.address)
        drawn(page)
        [first, *_] = page.evaluate(PICTURES)
        page.mouse.move(500, 400)
        page.evaluate(f"""document.getElementById("map").addEventListener("wheel", () => {{
            setTimeout(() => document.getElementById("{button}").click(), 60);
        }})""")
        page.mouse.wheel(0, -200)
        page.wait_for_timeout(1200)
        [last, *_] = page.evaluate(PICTURES)
        assert last["width"] == pytest.approx(first["width"], rel=0.01)
        assert page.locator(".zooming").count() == 0


def test_less_motion_is_asked_for_at_any_time(page: Page) -> None:
    tile = "document.querySelector('.hung').getBoundingClientRect().x"
    for motion in ("reduce", "no-preference", "reduce"):
        page.emulate_media(reduced_motion=motion)
        page.locator("#fit").click()
        page.locator("#in").click()
        page.wait_for_timeout(500)
        page.locator("#map").focus()
        before = page.evaluate(tile)
        page.keyboard.press("ArrowRight")
        at_once = page.evaluate(tile)
        page.wait_for_timeout(500)
        assert page.evaluate(tile) < before - 50
        assert (page.evaluate(tile) == at_once) == (motion == "reduce")


def test_a_double_click_opens_and_does_not_zoom(page: Page, shown: Map) -> None:
    [before, *_] = page.evaluate(PICTURES)
    page.mouse.dblclick(*middle(page, shown, 6))
    assert opened(page) == shown.cards[6]["page"]
    assert page.evaluate(PICTURES)[0]["width"] == pytest.approx(before["width"])


def test_the_wall_hangs_in_the_middle_and_not_far_under_the_search(
    context: BrowserContext, shown: Map, tmp_path: Path
) -> None:
    folder = tmp_path / "gallery"
    shutil.copytree(shown.folder, folder)
    cells = {card["page"]: (2 + number % 3, number // 3) for number, card in enumerate(shown.cards[:9])}
    mapped.write(folder, cells, run="m5")
    for path, size in ((folder, (1280, 800)), (shown.folder, (1024, 740)), (shown.folder, (900, 800))):
        page = context.new_page()
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.goto(f"{path.as_uri()}/map.html")
        page.wait_for_timeout(200)
        drawn(page)
        boxes, field = page.evaluate(PICTURES), page.locator("#seek").bounding_box()
        assert field is not None
        left, right = min(box["left"] for box in boxes), max(box["right"] for box in boxes)
        assert (left + right) / 2 == pytest.approx(size[0] / 2, abs=2)
        half = field["x"] + field["width"] / 2  # a corner may lie under it
        assert left > half or min(box["top"] for box in boxes) > field["y"] + field["height"]


@pytest.mark.parametrize("size", [(844, 390), (640, 400)])
def test_low_windows_show_the_panel_and_the_list_whole(page: Page, shown: Map, size: tuple[int, int]) -> None:
    """A phone held sideways, and a window enlarged to 200 %."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.wait_for_timeout(200)
    page.evaluate(f"location.hash = '{shown.cards[3]['page']}'")
    page.wait_for_selector("#panel:visible")
    for part in ("#name", "#page", "#near"):
        box = page.locator(part).bounding_box()
        assert box is not None and box["y"] > 0 and box["y"] + box["height"] <= size[1]
    page.fill("#sought", "copy")
    page.wait_for_selector("#matches li")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("""() => {
        const { x, y, width, height } = document.activeElement.getBoundingClientRect();
        return document.activeElement.contains(document.elementFromPoint(x + width / 2, y + height / 2));
    }""")


def test_on_paper_it_is_the_whole_wall(page: Page, shown: Map) -> None:
    click(page, shown, 7)
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_function("() => document.querySelector('.paper').naturalWidth")
    assert page.locator(".paper:visible").count() == 1 and page.locator(".plate:visible, #map:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"


def test_a_quiet_cell_opens_and_asks_for_no_picture(context: BrowserContext, shown: Map, tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    shutil.copytree(shown.folder, folder)
    card = shown.cards[7]
    for block in (folder / "map/m1/blocks").iterdir():
        block.write_text(block.read_text().replace(f'"{card["picture"]}"', '""'))
    page = context.new_page()
    failed = watched(page, folder.as_uri())
    page.goto(f"{folder.as_uri()}/map.html")
    drawn(page)
    click(page, shown, 7)
    assert opened(page) == card["page"]
    page.reload()
    assert opened(page) == card["page"]
    assert page.inner_text("#picture") == "Its picture cannot be read" and page.locator("#picture img").count() == 0
    assert failed == []


def test_a_region_has_its_name_at_its_zoom_and_no_markup(page: Page) -> None:
    page.wait_for_selector(".region span")
    assert page.locator(".region").all_inner_texts() == [HOSTILE]
    page.locator("#in").click()
    page.locator("#in").click()
    page.wait_for_function("() => !document.querySelector('.region')")


@pytest.mark.parametrize("share, size", [(1 / 40, "little"), (1 / 20, "medium"), (1 / 4, "large")])
def test_a_name_is_as_large_as_its_share_of_what_is_in_view(
    context: BrowserContext, shown: Map, tmp_path: Path, share: float, size: str
) -> None:
    """And not as large as it is beside other names: this one is alone."""
    folder = tmp_path / "gallery"
    shutil.copytree(shown.folder, folder)
    cells = {card["page"]: shown.place(number) for number, card in enumerate(shown.cards)}
    in_view = COLUMNS * (1 + max(row for _, row in cells.values()))
    mapped.write(folder, cells, [(1, 2.5, 1.5, "alone", share * in_view)], digits=1)
    page = context.new_page()
    page.goto(f"{folder.as_uri()}/map.html")
    assert size in str(page.locator(".region").get_attribute("class")).split()


def test_what_is_missing_is_a_quiet_cell(context: BrowserContext, shown: Map, tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    shutil.copytree(shown.folder, folder)
    picture = shown.cards[0]["picture"]
    (folder / f"pictures/{picture[:2]}/{picture}-small.webp").unlink()
    shutil.rmtree(folder / "map/m1/places")
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{folder.as_uri()}/map.html")
    drawn(page)
    assert page.locator(".hung").count() == len(shown.cards) - sum(card["picture"] == picture for card in shown.cards)
    click(page, shown, 7)
    page.wait_for_selector("#panel:visible")
    assert page.locator("#near:visible").count() == 0, "nobody knows where it is"
    page.evaluate(f"location.hash = '{shown.cards[3]['page']}'")
    page.wait_for_function("() => document.getElementById('matched').textContent.includes('could not be loaded')")
    assert opened(page) is None
    place = middle(page, shown, 7)
    shutil.rmtree(folder / "map/m1/blocks")
    page.reload()
    drawn(page)
    page.mouse.click(*place)
    page.wait_for_timeout(100)
    assert page.locator("#panel:visible").count() == 0 and page.locator(".hung").count() == 0
    assert errors == []


def test_only_blocks_that_are_there_are_asked_for(context: BrowserContext, shown: Map, tmp_path: Path) -> None:
    """On a wide wall with few images, most of which begin on deeper levels."""
    folder = tmp_path / "gallery"
    shutil.copytree(shown.folder, folder)
    cells = {card["page"]: (5 * number, 3 * number) for number, card in enumerate(shown.cards)}
    assert mapped.write(folder, cells, run="m3").levels == 5
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(f"{folder.as_uri()}/map.html")
    page.locator("#in").click()
    page.wait_for_timeout(300)
    drawn(page)
    for card in (shown.cards[-1], shown.cards[8]):
        page.evaluate(f"location.hash = '{card['page']}'")
        page.wait_for_selector(f".hung img[src*='{card['picture']}']")
        page.wait_for_selector(".ring:visible")
    assert complaints == []


@pytest.mark.parametrize("size", [(1024, 768), (390, 844)])
@pytest.mark.parametrize("images", [1, 2])
def test_few_images(context: BrowserContext, shown: Map, tmp_path: Path, images: int, size: tuple[int, int]) -> None:
    folder = tmp_path / "gallery"
    shutil.copytree(shown.folder, folder)
    mapped.write(folder, {card["page"]: (number, 0) for number, card in enumerate(shown.cards[:images])}, run="m2")
    page = context.new_page()
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(f"{folder.as_uri()}/map.html")
    drawn(page)
    assert page.locator(".hung img").count() == images
    boxes = page.evaluate(PICTURES)
    assert min(box["left"] for box in boxes) > 0 and max(box["right"] for box in boxes) < size[0]
    assert "within the 24 places" not in page.inner_text("#key") and "From afar" not in page.inner_text("#key")
    assert page.get_attribute("#map", "aria-label") == f"Map of {images} image{'s' if images > 1 else ''}"


@pytest.fixture
def wide(shown: Map, tmp_path: Path) -> Map:
    """A gallery with a wall of 12 x 8 cells: two columns in the middle, and two images far from them."""
    folder = tmp_path / "gallery"
    shutil.copytree(shown.folder, folder)
    places = [*((column, row) for row in range(8) for column in (5, 6)), (0, 0), (11, 7)]
    mapped.write(folder, {card["page"]: place for card, place in zip(shown.cards, places)}, run="m6")
    return Map(folder, shown.cards[: len(places)])


@pytest.fixture
def phone(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(
        viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True, is_mobile=True
    ) as context:
        yield context


def opened_on(context: BrowserContext, shown: Map) -> Page:
    page = context.new_page()
    page.goto(shown.address)
    settled(page)
    return page


def settled(page: Page) -> None:
    """Waits until nothing moves."""
    page.wait_for_timeout(600)
    drawn(page)


def extent(page: Page) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the pictures that hang, wherever they are."""
    boxes = page.evaluate(PICTURES)
    return (
        min(box["left"] for box in boxes), min(box["top"] for box in boxes),
        max(box["right"] for box in boxes), max(box["bottom"] for box in boxes),
    )  # fmt: skip


def room(page: Page) -> tuple[float, float]:
    """What search and buttons leave of the height: from, to."""
    field, buttons, key = (page.locator(name).bounding_box() for name in ("#seek", "#zoom", "#key"))
    assert field is not None and buttons is not None and key is not None
    assert key["x"] + key["width"] < buttons["x"]
    return field["y"] + field["height"], min(buttons["y"], key["y"])


@pytest.mark.parametrize("height", [844, 664])
def test_a_tall_screen_is_filled_at_first(phone: BrowserContext, wide: Map, height: int) -> None:
    """As high as search and buttons allow, and with its middle: it goes on at both sides."""
    page = phone.new_page()
    page.set_viewport_size({"width": 390, "height": height})
    page.goto(wide.address)
    settled(page)
    left, top, right, bottom = extent(page)
    above, below = room(page)
    assert above < top and bottom < below and bottom - top > 0.9 * (below - above)
    assert page.locator(".hung").count() == 16 and (left + right) / 2 == pytest.approx(195, abs=2)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_whole_wall_is_a_tap_away_and_stays(phone: BrowserContext, wide: Map) -> None:
    page = opened_on(phone, wide)
    page.locator("#fit").tap()
    settled(page)
    widths = "[...document.querySelectorAll('.leaflet-tile[src]')].map((one) => one.getBoundingClientRect().width)"
    [whole, *_] = page.evaluate(widths)
    assert whole < 140, "twelve cells in a row, of which a tile has four"
    assert page.locator(".hung").count() == 0
    for width, height in ((844, 390), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        settled(page)
    assert page.evaluate(widths)[0] == pytest.approx(whole, rel=0.01)


def test_a_turned_screen_begins_anew_until_somebody_moves_the_map(phone: BrowserContext, wide: Map) -> None:
    page = opened_on(phone, wide)
    first = extent(page)
    page.set_viewport_size({"width": 844, "height": 390})
    settled(page)
    assert page.locator(".hung").count() == 0, "the whole wall"
    page.set_viewport_size({"width": 390, "height": 844})
    settled(page)
    assert extent(page) == pytest.approx(first, abs=1)
    page.locator("#in").tap()
    settled(page)
    [before, *_] = page.evaluate(PICTURES)
    page.set_viewport_size({"width": 390, "height": 700})
    settled(page)
    assert page.evaluate(PICTURES)[0]["width"] == pytest.approx(before["width"])


def test_three_pictures_are_in_a_row_of_a_small_wall(phone: BrowserContext, shown: Map) -> None:
    page = opened_on(phone, shown)
    boxes = page.evaluate(PICTURES)
    assert {round(box["width"]) for box in boxes} == {130}
    assert 0 < sum(box["left"] >= 0 and box["right"] <= 390 for box in boxes) < len(shown.cards)


def test_an_address_goes_to_its_image_on_a_phone_too(phone: BrowserContext, wide: Map) -> None:
    page = phone.new_page()
    page.goto(f"{wide.address}#{wide.cards[-1]['page']}")
    page.wait_for_timeout(2000)
    ring, panel = (page.locator(name).bounding_box() for name in (".ring", "#panel"))
    assert ring is not None and panel is not None
    assert 0 < ring["x"] and ring["x"] + ring["width"] < 390
    assert 0 < ring["y"] and ring["y"] + ring["height"] < panel["y"]


Points = list[tuple[float, float]]


def swipe(session: CDPSession, fingers: Points, goals: Points) -> None:
    """The fingers go from their places to these, and are lifted."""

    def send(kind: str, points: Points) -> None:
        touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    send("touchStart", fingers)
    for step in range(1, 9):
        moved = [(x + (to_x - x) * step / 8, y + (to_y - y) * step / 8) for (x, y), (to_x, to_y) in zip(fingers, goals)]
        send("touchMove", moved)
    send("touchEnd", [])


def test_a_finger_moves_the_wall_and_opens_nothing(phone: BrowserContext, wide: Map) -> None:
    page = opened_on(phone, wide)
    left, top, right, _ = extent(page)
    swipe(phone.new_cdp_session(page), [(250, 400)], [(150, 430)])
    settled(page)
    moved = extent(page)
    assert moved[0] - left < -80 and moved[1] - top > 10 and moved[2] - moved[0] == pytest.approx(right - left)
    assert opened(page) is None and page.evaluate("[scrollX, scrollY]") == [0, 0]


def test_two_fingers_zoom_in_and_out_to_the_whole_wall(phone: BrowserContext, wide: Map) -> None:
    page = opened_on(phone, wide)
    session = phone.new_cdp_session(page)
    [before, *_] = page.evaluate(PICTURES)
    swipe(session, [(170, 400), (220, 400)], [(120, 400), (270, 400)])
    settled(page)
    assert page.evaluate(PICTURES)[0]["width"] > 2 * before["width"]
    for _ in range(4):
        swipe(session, [(60, 400), (330, 400)], [(180, 400), (210, 400)])
        settled(page)
    assert page.locator(".hung").count() == 0, "those that hung there are gone"
    tiles = page.locator("img.leaflet-tile[src]").evaluate_all("all => all.map((one) => one.getBoundingClientRect().x)")
    assert min(tiles) == pytest.approx(13, abs=2), "and it is not farther than the whole wall"
    assert page.evaluate("visualViewport.scale") == 1 and opened(page) is None


def test_a_tap_opens_an_image_and_one_beside_the_wall_closes_it(phone: BrowserContext, wide: Map) -> None:
    page = opened_on(phone, wide)
    last = page.evaluate(PICTURES).index(max(page.evaluate(PICTURES), key=lambda box: box["bottom"]))
    box = page.evaluate(PICTURES)[last]
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    settled(page)
    assert opened(page) in {card["page"] for card in wide.cards}
    ring, panel = (page.locator(name).bounding_box() for name in (".ring", "#panel"))
    assert ring is not None and panel is not None and ring["y"] + ring["height"] < panel["y"]
    page.touchscreen.tap(40, 300)
    assert opened(page) is None and page.url == wide.address
    assert page.locator(".ring").count() == 0


def test_the_legend_closes_where_it_would_lie_on_the_wall(page: Page) -> None:
    def is_open(width: int, height: int) -> bool:
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        return bool(page.evaluate("document.getElementById('key').open"))

    assert is_open(1920, 844) and not is_open(390, 844) and is_open(1920, 844)
    page.locator("#key summary").click()
    assert not is_open(390, 844) and not is_open(1920, 844), "somebody closed it"


def test_the_legend_says_what_fingers_do_or_keys(phone: BrowserContext, page: Page, shown: Map) -> None:
    touched = opened_on(phone, shown)
    touched.locator("#key summary").tap()
    assert "A finger moves it" in touched.inner_text("#key") and "Arrow keys" not in touched.inner_text("#key")
    page.evaluate("document.getElementById('key').open = true")
    assert "Arrow keys" in page.inner_text("#key") and "finger" not in page.inner_text("#key")


def test_without_javascript_the_wall_is_a_picture(browser: Browser, shown: Map) -> None:
    for width in (390, 1920):
        with browser.new_context(java_script_enabled=False, viewport={"width": width, "height": 900}) as context:
            page = context.new_page()
            page.goto(shown.address)
            box = page.locator("noscript img, figure img").first.bounding_box()
            assert box is not None and box["width"] > 200 and box["x"] >= 0 and box["x"] + box["width"] <= width
            assert "need JavaScript" in page.inner_text("figcaption")
            assert "Those that hang side by side" in page.inner_text("figcaption")
            assert page.locator("#seek:visible, #zoom:visible, #panel:visible, #key:visible").count() == 0


def test_its_files_are_there_and_nothing_is_inline(shown: Map) -> None:
    site = crawler.crawl(shown.folder, [shown.folder / "map.html"])
    page = site.pages[(shown.folder / "map.html").resolve()]
    assert site.dead == [] and page.handlers == []
    assert {path.name.split("-")[0] for path in site.files if path.parent.name == "static"} >= {"leaflet", "map"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1920])
def test_contrast_names_and_order(browser: Browser, shown: Map, scheme: str, width: int) -> None:
    """axe-core's rules (WCAG 2.2 A and AA, best practices): as it opens, and with a list and a panel."""
    with browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light", viewport={"width": width, "height": 844}
    ) as context:
        page = context.new_page()
        page.goto(shown.address)
        drawn(page)
        for number, query in enumerate(("", "copy")):
            if number:
                page.evaluate(f"location.hash = '{shown.cards[4]['page']}'")
                page.wait_for_selector("#panel:visible")
                page.fill("#sought", query)
                page.wait_for_selector("#matches li")
            result = Axe().run(page)
            assert result.violations_count == 0, result.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_dense_screens_get_tiles_of_a_deeper_level_at_half_their_size(browser: Browser, shown: Map) -> None:
    def sizes(scale: float) -> set[str]:
        with browser.new_context(device_scale_factor=scale, viewport={"width": 390, "height": 300}) as context:
            page = context.new_page()
            page.goto(shown.address)
            drawn(page)
            return set(page.locator("img.leaflet-tile").evaluate_all("all => all.map((one) => one.style.width)"))

    assert sizes(1) == {"256px"} and sizes(2) == {"128px"}
