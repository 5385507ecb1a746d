"""What is said of one thing: neither jobs nor pages put a 1 before a plural, or before the verb of many."""

import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from crawler import pages_in
from image_similarity.jobs import run_pipeline
from processes import COMMON, draw

NO_PLURALS = "s|is|was|has|does|stays|class|pass"
"""What ends in an s, and may stand after a 1: the unit of seconds, verbs of one, and nouns."""
MANY = re.compile(
    rf"(?<![\d.,_])(?<!x )1[ \u00a0](?:(?:new|newer|more|other|different|dissimilar|nearest|usable) )?"
    rf"(?:(?!(?:{NO_PLURALS})\b)[a-z-]+s\b|(?:(?:of [\d,]+ )?[a-z-]+ )?(?:are|were|have)\b)"
)
"""In lower case. No 1 that ends another number, as of 0.1, 2,001 and 2 x 1."""


def said_of_many(text: str) -> list[str]:
    return [line for line in text.splitlines() if MANY.search(line)]


def text_of(page: Path) -> str:
    """The text of a page. A line ends where an element does that is no part of a sentence; so does a note."""
    html = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
    html = re.sub(r"</?(?:a|b|bdi|strong|wbr|span(?! class=.note))\b[^>]*>", "", html)
    return unescape(re.sub("<[^>]*>", "\n", html))


@pytest.mark.parametrize("line", ["1 images in 0.3 s", "1 vectors", "(there are 1 others)", "1 of 2 images are new"])
def test_a_plural_after_a_1_is_seen(line: str) -> None:
    assert said_of_many(line) == [line]


@pytest.mark.parametrize("line", ["1 image in 1 s", "0.1 images/s", "21 images", "1 of 2 images is new", "2 x 1 cells"])
def test_what_is_right_is_not_seen(line: str) -> None:
    assert said_of_many(line) == []


def test_of_one_image_and_of_one_that_is_new(run: Any, tmp_path: Path, capsys: Any) -> None:
    images, gallery = tmp_path / "images", tmp_path / "gallery"
    places = ["--images", images, "--warehouse", tmp_path / "w", "--gallery", gallery]
    arguments = [*places, *COMMON, "--verbose", "--log-every", 0.5, "--set", "embeddings.max_failed_fraction=0.5"]

    def check() -> None:
        assert run(run_pipeline, *arguments, "--dry-run") == 0
        assert run(run_pipeline, *arguments) == 0
        assert said_of_many("".join(capsys.readouterr())) == []
        for page in pages_in(gallery):
            assert said_of_many(text_of(page)) == [], page

    draw(images, range(1))
    check()
    draw(images, range(1, 2))
    check()
    shutil.copy(images / "1.jpg", images / "copy.jpg")
    (images / "empty.jpg").touch()
    check()
