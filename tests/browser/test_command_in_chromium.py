"""The page of ``image-similarity search --open`` as a person sees it: in Chromium, narrow and wide, light and dark."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from image_similarity.collection import display
from image_similarity.command import page as pages
from image_similarity.command.answers import Answer, Asked, Image, Refused
from image_similarity.errors import WrongInput
from image_similarity.pages.originals import Original
from image_similarity.settings import EmbeddingsSettings
from processes import draw
from visiting import watched

LONG = "a folder with a rather long name/IMG_20240101_123456789_with_words_that_never_end_" + "x" * 80 + ".jpg"
HOSTILE = "<img src=x onerror=alert(1)> \u202e\" '.jpg"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two questions with answers, some with pictures that are gone or were replaced, and of one without."""
    folder = tmp_path_factory.mktemp("hostile <b>&'")
    draw(folder / "images", range(6))
    facts = {"fingerprint": "f", "metric": "cosine", "vectors": 6, "exact": True, "query_vector": "embedded"}

    places = {f"{number}.jpg": str(folder / "images" / f"{number}.jpg") for number in range(6)}
    replaced = Original.of(places["3.jpg"], "0" * 64)

    def known(ids: Sequence[str]) -> Mapping[str, display.Image]:
        of = {**{name: Original(uri) for name, uri in places.items()}, "3.jpg": replaced, LONG: Original("/none.jpg")}
        return {name: display.Image(of[name]) for name in ids if name in of}

    def an_image(number: int, relation: str = "similar", image_id: str = "") -> Image:
        uri = str(folder / "images" / f"{number}.jpg")
        verdict = "yes" if number == 0 else "near" if number == 1 else "no"
        return Image(relation, number + 1, image_id or f"{number}.jpg", 0.1 * number, verdict, uri, 400, 300, {})

    similar = [*map(an_image, range(5)), an_image(7, image_id=LONG), an_image(8, image_id=HOSTILE)]
    content = (folder / "images" / "5.jpg").read_bytes()
    first = Answer(
        Asked(LONG, uri="/x"), LONG.rpartition("/")[2], content, (*similar, an_image(4, "dissimilar")), facts, 1.0
    )
    second = Answer(Asked(LONG, image_id=LONG), HOSTILE, None, (an_image(1),), facts, 0.1)
    path = folder / "page.html"
    with pages.opened(pages.Wanted(str(path), False, None), str(folder / "w"), known, EmbeddingsSettings()) as sheet:
        assert sheet is not None
        for outcome in (first, second, Refused(Asked(HOSTILE), WrongInput(f"no such file: {LONG}"))):
            sheet.add(outcome)
        assert sheet.write() == str(path)
    return path


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Browser, made: Path) -> Iterator[Page]:
    width, scheme = request.param
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        page = context.new_page()
        complaints = watched(page, made.as_uri())
        page.goto(made.as_uri())
        yield page
    assert complaints == []


def test_the_page_shows_everything_and_hinders_nobody(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("img").count() == 1 + 4 + 1 + 1  # the first question, its answers, that of the second
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.locator(".absent").all_inner_texts() == [
        "no picture: the file was replaced since it was embedded",
        "no picture: there is no such file",
        "no picture: the manifest has no image of this id",
        "no picture: there is no such file",
    ]
    assert page.get_by_text("0.0000 · the same picture").count() == 1
    assert page.get_by_text("perhaps the same picture").count() == 2
    assert page.get_by_role("heading", name="Not answered").count() == 1
    assert Axe().run(page).response["violations"] == []


def test_the_question_stands_beside_its_answers_or_above_them(page: Page) -> None:
    question, answers = page.locator(".question").first.bounding_box(), page.locator(".cells").first.bounding_box()
    assert question and answers and page.viewport_size
    if page.viewport_size["width"] > 960:
        assert question["x"] + question["width"] <= answers["x"]
    else:
        assert question["y"] + question["height"] <= answers["y"] and question["height"] < 400


def test_a_keyboard_goes_to_the_answers_and_along_them(page: Page, made: Path) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    link = page.evaluate("document.activeElement.href")
    assert link == (made.parent / "images" / "0.jpg").as_uri()


def test_all_answers_are_in_one_grid(page: Page) -> None:
    widths = page.evaluate("[...document.querySelectorAll('.card')].map(card => Math.round(card.clientWidth))")
    assert len(widths) == 9 and len(set(widths)) == 1
