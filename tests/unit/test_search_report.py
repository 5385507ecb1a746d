"""The report of a search, made from tables alone; what queries are called; and what needs no Spark."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hostile
from crawler import crawl
from image_similarity.errors import WrongInput
from image_similarity.stages.search import queries, report
from image_similarity.stages.search.report import About, Place
from searching import written


def test_every_page_is_there_once_and_says_its_verdict(tmp_path: Path) -> None:
    folder = written(tmp_path)
    found = crawl(folder)
    assert found.dead == [] and found.outside == []
    pages = {path.name: page for path, page in found.pages.items()}
    per_verdict = -(-len(hostile.NAMES) // 3)
    assert {name for name in pages if not name.startswith("all")} == {
        *("index.html", "yes-1.html", "yes-2.html", "near-1.html", "near-2.html", "no-1.html", "no-2.html"),
        "failed-1.html",
    }
    front = " ".join(pages["index.html"].text.split())
    assert f"Already there {per_verdict}" in front
    failed = int(re.search(r"Failed (\d+)", front)[1])  # type: ignore[index]
    answered = len(hostile.NAMES)
    assert f"Answered {answered} " in front and f"{answered + failed} queries in a collection" in front
    assert f"{failed} failed: they have no answer." in front
    assert sum(len(pages[f"near-{number}.html"].images) for number in (1, 2)) == 4 * per_verdict
    assert "<i>gone</i>" in "".join(pages["failed-1.html"].text.split("\u200b"))
    assert all(page.handlers == [] for page in pages.values())


def test_the_answer_with_the_best_verdict_is_shown_though_others_are_nearer() -> None:
    answers: list[dict[str, Any]] = [{"image_id": str(rank), "verdict": "no"} for rank in range(12)]
    assert report._shown(answers) == answers[: report.SHOWN]
    answers[9]["verdict"], answers[10]["verdict"] = "near", "near"
    assert report._shown(answers) == [*answers[: report.SHOWN - 1], answers[9]]
    answers[11]["verdict"] = "yes"
    assert report._shown(answers) == [*answers[: report.SHOWN - 1], answers[11]]


def test_without_limits_only_the_same_files_are_told(tmp_path: Path) -> None:
    folder = written(tmp_path, About("inbox", "tiny", "cosine", 3, False, True, "r1"))
    text = crawl(folder).pages[(folder / "index.html").resolve()].text
    assert "No near-duplicates of the collection as it is now are published" in text and "Untrained weights." in text


@pytest.mark.parametrize(
    ("gallery", "site", "link"),
    [
        ("/data/my gallery", "/data/r", "../../my%20gallery/"),
        ("https://example.org/g/", "/data/r", "https://example.org/g/"),
        ("s3://bucket/g", "s3a://bucket/pages/r", "../../../g/"),
        ("s3://bucket/g", "s3a://other/r", None),
        ("s3://bucket/g", "/data/r", None),
        (None, "/data/r", None),
    ],
)
def test_answers_lead_to_their_pages_in_a_gallery(gallery: str | None, site: str, link: str | None) -> None:
    address = Place(site, "r1", gallery).link("a.jpg")
    if link is None:
        assert address is None
    else:
        assert address is not None and address.startswith(f"{link}images/") and address.endswith(".html")


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/data/In coming!", "in-coming"),
        ("/data/list of 3.csv", "list-of-3"),
        ("s3://bucket/inbox/*/2*.jpg", "inbox"),
        ("/data/inbox/", "inbox"),
    ],
)
def test_queries_are_called_like_their_folder(location: str, name: str) -> None:
    assert queries.name_of(location) == name
    assert queries.check_name(name) == name


@pytest.mark.parametrize("location", ["/データ", "/", "/*.jpg"])
def test_what_makes_no_name_asks_for_one(location: str) -> None:
    """Two such folders would have the same name, and the answers to one would replace those to the other."""
    with pytest.raises(WrongInput, match="give one by --queries"):
        queries.name_of(location)


@pytest.mark.parametrize("name", ["", "a b", "A", "a/b", "-a", "a--b", "ä"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(WrongInput, match="a name has lower-case letters"):
        queries.check_name(name)


def test_what_judges_needs_no_spark() -> None:
    program = "import sys; import image_similarity.stages.search.judging; sys.exit('pyspark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
