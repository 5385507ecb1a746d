"""The page of the map, filled without a gallery."""

import re
from dataclasses import replace

import pytest

from image_similarity.pages.maps import HEAD, MAIN
from image_similarity.stages.map import page
from image_similarity.stages.map.page import MapFacts

SHELL = f"<head>\n{HEAD}\n</head><main>\n{MAIN}\n</main>"
FACTS = MapFacts(
    "r1", "<b>Title", 47, 36, 4, 1460, 0, "<i>net", "cosine", 10, 0.47, 0.0131, "map/r1/wall.webp", 2048, 1568
)


def test_the_shell_gets_the_map_and_names_the_files_it_loads() -> None:
    html = page.fill(SHELL, FACTS)
    assert HEAD not in html and MAIN not in html
    assert set(re.findall(r'"(static/[^"]+)"', html)) == page.static_files().keys()
    assert 'data-columns="47" data-rows="36" data-levels="4" data-digits="0"' in html
    assert "Of the 10 that look most like an image, 4.7 are within the 24 places around it (by chance 0.1)" in html
    assert "<b>" not in html and "<i>" not in html, "texts are no markup"


@pytest.mark.parametrize(
    ("nearest", "sentence"),
    [
        (7, "Of the 7 that look most like an image, 3.3 are within the 24 places around it (by chance 0.1)"),
        (1, "Of 10 images that look most like another, 4.7 are within the 24 places around it (by chance 0.1)"),
    ],
)
def test_shorter_lists_are_not_said_to_be_ten(nearest: int, sentence: str) -> None:
    assert sentence in page.fill(SHELL, replace(FACTS, nearest=nearest))


@pytest.mark.parametrize("facts", [replace(FACTS, images=25), replace(FACTS, kept_on_grid=None)])
def test_nothing_is_said_of_neighbourhoods_where_all_are_near_or_none_was_measured(facts: MapFacts) -> None:
    assert "within the 24 places" not in page.fill(SHELL, facts)


def test_one_image_is_no_images_and_a_small_share_is_not_nought() -> None:
    assert "1 images" not in page.fill(SHELL, replace(FACTS, images=1))
    assert "(by chance less than 0.1)" in page.fill(SHELL, replace(FACTS, by_chance=0.004))


@pytest.mark.parametrize("shell", ["<main></main>", SHELL + MAIN, SHELL.replace(HEAD, "")])
def test_a_page_that_is_no_shell_is_refused(shell: str) -> None:
    with pytest.raises(ValueError, match="must have the lines"):
        page.fill(shell, FACTS)


def test_files_are_named_by_their_content_and_leaflet_goes_with_its_licence() -> None:
    files = page.static_files()
    assert files == page.static_files() and len(files) == 5
    for path, content in files.items():
        assert re.fullmatch(r"static/(map|map_data|leaflet)-[0-9a-f]{16}\.(css|js)", path)
        assert ("BSD 2-Clause License" in content) == ("leaflet" in path)
