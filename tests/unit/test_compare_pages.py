"""The pages that compare two images, the files of their difference pictures, and the rows of what is marked."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import comparing
from comparing import EDITS, HOSTILE
from crawler import Page
from image_similarity.imaging import thumbnails
from image_similarity.imaging.differences import Differences, Sides
from image_similarity.pages import paths
from image_similarity.pages.site import Site, open_site
from image_similarity.stages.gallery import compare, pages, selection
from image_similarity.storage import blobs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared <b>&'")


@pytest.fixture(scope="module")
def group(folder: Path) -> dict[str, Any]:
    return comparing.group(folder)


@pytest.fixture(scope="module")
def written(folder: Path, group: dict[str, Any]) -> list[Page]:
    return [Page(folder / path) for path in comparing.write(folder, [group])]


def test_an_address_is_that_of_both_images_in_any_order() -> None:
    one, other = "a" * 32, "b" * 32
    assert compare.compare_path(one, other) == compare.compare_path(other, one) != compare.compare_path(one, one)
    first, shelf, name = compare.compare_path(one, other).split("/")
    assert first == compare.FOLDER and name.startswith(shelf) and len(name) == len("0" * 32 + ".html")


def test_pairs_lead_from_one_to_the_next_and_leave_out_what_cannot_be_compared() -> None:
    def member(name: str, **more: Any) -> dict[str, Any]:
        return {"image_id": name, "page": name * 32, "picture": name, "width": 3, "height": 2, **more}

    members = [member("a"), member("b"), member("c", picture="a"), member("d", width=None), member("e")]
    group = {"group_id": "1", "kind": "near-duplicates", "path": "near-duplicates/1-1.html", "members": members}
    rows = list(compare.pairs(group))
    assert [row["other"]["image_id"] for row in rows] == ["b", "e"], "no copy of the kept one, none without a picture"
    assert [(row["number"], row["last"]) for row in rows] == [(1, 2), (2, 2)]
    assert (rows[0]["previous"], rows[0]["next"]) == (None, rows[1]["path"])
    assert (rows[1]["previous"], rows[1]["next"]) == (rows[0]["path"], None)
    assert [field.name for field in compare.PAIR] == list(rows[0])
    assert list(compare.pairs({**group, "members": [member("a", width=None), member("b")]})) == []


def said(written: list[Page], name: str) -> str:
    return " ".join(written[list(EDITS).index(name)].text.split())


def test_each_edit_is_said_in_words(written: list[Page]) -> None:
    expected = {
        "half.png": "The kept one has more pixels: 400 × 300, against 200 × 150, 4.0 times as many.",
        "anew.png": "The other one is only saved anew: the pictures here differ by",
        "crop.png": "The other one is a part of the kept one: about 19 % of it is cut off, at the top and right.",
        "grey.png": "The other one is grey, the kept one has colours.",
        "mirror.png": "The other one is mirrored.",
        "bright.png": "The other one is brighter: by",
        "border.png": "The other one has a border, or plain ground, on all sides: 20 % of it.",
        "turned.png": "The other one is turned to the right by about 5°.",
        "caption.png": "They differ in one place only: at the bottom.",
        HOSTILE: "The other one is stretched: for its height it is about 14 % wider.",
        "another.png": "They may be two pictures of one thing: it is not sure that one is an edit of the other.",
    }
    assert list(expected) == list(EDITS)
    for name, sentence in expected.items():
        assert sentence in said(written, name)
        for other, wrong in expected.items():
            if other not in (name, "half.png"):
                assert wrong not in said(written, name), f"{name}: {wrong}"


def test_the_caption_says_the_factor_and_how_the_two_were_aligned(written: list[Page]) -> None:
    assert "times amplified: grey where the two are equal, lighter where the other one is lighter" in said(
        written, "anew.png"
    )
    assert "the other one was mirrored, so that both show one place" in said(written, "mirror.png")
    assert "the other one was" not in said(written, "half.png")
    assert "need not be the same place" in said(written, "another.png")


def test_pages_have_no_script_or_style_of_their_own_and_lead_to_both_images(
    folder: Path, group: dict[str, Any], written: list[Page]
) -> None:
    kept, *others = group["members"]
    for page, other in zip(written, others):
        assert page.handlers == []
        targets = {value.removeprefix("../../") for _, name, value in page.references if name == "href"}
        assert {paths.image_path(kept["page"]), paths.image_path(other["page"]), group["path"]} <= targets
        shown = {value for tag, _, value in page.references if tag in ("img", "image")}
        assert len(shown) == 3 and all((page.path.parent / value).is_file() for value in shown)
        assert all(image.get("alt") is not None and image.get("width") for image in page.images)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site("gallery", str(tmp_path), open_site(None, "gallery", str(tmp_path / "new")).files)


def files(folder: Path) -> dict[str, int]:
    found = (folder / compare.DIFFERENCES).rglob("*")
    return {path.name: path.stat().st_mtime_ns for path in found if path.is_file()}


def test_a_difference_picture_is_kept_while_nothing_changes(tmp_path: Path) -> None:
    group = comparing.group(tmp_path, names=["half.png", "crop.png"])
    first = comparing.write(tmp_path, [group])
    before, texts = files(tmp_path), [(tmp_path / path).read_text() for path in first]
    assert len(before) == 4
    comparing.write(tmp_path, [group])
    assert files(tmp_path) == before
    assert [(tmp_path / path).read_text() for path in first] == texts, "what was measured is read again, to the digit"


@pytest.mark.parametrize("damage", ["cut", "gone", "no json", "other json", "null json"])
def test_a_damaged_difference_picture_is_made_again(tmp_path: Path, damage: str) -> None:
    group = comparing.group(tmp_path, names=["half.png"])
    comparing.write(tmp_path, [group])
    picture = next((tmp_path / compare.DIFFERENCES).rglob("*.webp"))
    about = picture.with_suffix(".json")
    content, measured = picture.read_bytes(), about.read_bytes()
    if damage == "cut":
        picture.write_bytes(content[:-10])
    elif damage == "gone":
        picture.unlink()
    else:
        about.write_text({"no json": "{", "other json": '{"bytes": 1, "found": {"x": 1}}', "null json": "null"}[damage])
    comparing.write(tmp_path, [group])
    assert (picture.read_bytes(), about.read_bytes()) == (content, measured)


def test_a_picture_that_has_gone_from_the_gallery_is_said(tmp_path: Path) -> None:
    group = comparing.group(tmp_path, seed=5, names=["half.png"])
    (tmp_path / compare._largest(group["members"][1])).unlink()
    page = Page(tmp_path / comparing.write(tmp_path, [group])[0])
    assert "could not be read, so nothing is said" in page.text and "What differs, " not in page.text
    assert not (tmp_path / compare.DIFFERENCES).exists()


def test_the_larger_file_of_each_picture_is_compared(tmp_path: Path) -> None:
    large = comparing.member(tmp_path, "a", comparing.drawn(700, 500), None)
    assert thumbnails.has_large(large["width"], large["height"]) and compare._largest(large).endswith("-large.webp")


def test_difference_pictures_leave_with_their_pairs(tmp_path: Path, site: Site) -> None:
    group = comparing.group(tmp_path, names=["half.png", "crop.png", "grey.png"])
    comparing.write(tmp_path, [group])
    rows = list(compare.pairs(group))
    names = [compare.difference_name(row["kept"], row["other"]) for row in rows]
    now, before = "r20260102T000000-00000000", "r20260101T000000-00000000"
    compare.write_list_here(rows[:1], site, now)
    compare.write_list_here(rows[1:2], site, before)
    assert compare.remove_unused_here(site, [now, before]) == 1
    assert {name.partition("-")[0] for name in files(tmp_path)} == set(names[:2]), "picture and measurements"
    damaged = tmp_path / before / compare.LIST / "part-00000.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert compare.remove_unused_here(site, [now, before]) == 1, "a damaged list of an earlier rendering lists nothing"
    assert {name.partition("-")[0] for name in files(tmp_path)} == {names[0]}
    assert compare.remove_unused_here(site, ["r20260103T000000-00000000", "r1"]) == 1, "no pairs, no pictures"
    assert files(tmp_path) == {}


def test_the_list_of_this_rendering_is_not_damaged_or_nothing_is_removed(tmp_path: Path, site: Site) -> None:
    group = comparing.group(tmp_path, names=["half.png"])
    comparing.write(tmp_path, [group])
    compare.write_list_here(list(compare.pairs(group)), site, "r1")
    own = tmp_path / "r1" / compare.LIST / "part-00000.parquet"
    assert pq.read_table(own)["picture"].to_pylist()
    own.write_bytes(own.read_bytes()[:-9])
    before = files(tmp_path)
    with pytest.raises((OSError, ValueError)):
        compare.remove_unused_here(site, ["r1", "r0"])
    assert files(tmp_path) == before


# -- words -------------------------------------------------------------------------------------------------------------

KEPT = {"pixel_width": 400, "pixel_height": 300, "size_bytes": 1000, "format": "JPEG"}


def sentences(found: Differences, **other: Any) -> list[str]:
    return compare.sentences(KEPT, {**KEPT, **other}, found)


def test_files_are_compared_in_words() -> None:
    plain = Differences(is_edit=True)
    assert "Both have 400 × 300 pixels." in sentences(plain) and "Both files have 1,000 bytes." in sentences(plain)
    assert "The other one has more pixels: 401 × 300, against 400 × 300." in sentences(plain, pixel_width=401)
    assert "Both have as many pixels: 400 × 300 and 300 × 400." in sentences(plain, pixel_width=300, pixel_height=400)
    assert "The kept one is JPEG, the other one WebP." in sentences(plain, format="WEBP")
    assert "The file of the other one is larger: 1,001 against 1,000 bytes." in sentences(plain, size_bytes=1001)
    unknown = sentences(plain, pixel_width=None, pixel_height=None, size_bytes=None, format=None)
    assert unknown == ["Neither is cropped."], "nothing is said of what is not known"


def test_sides_turns_and_tones_are_said_in_words() -> None:
    def last(**found: Any) -> str:
        return sentences(Differences(is_edit=True, **found))[-1]

    assert last(turned=2, mirrored=True) == "The other one is mirrored and turned upside down."
    assert last(turned=1) == "The other one is turned to the right by 90°."
    assert last(angle=-0.6) == "The other one is turned to the left by less than a degree."
    added = Sides(0.1, 0, 0.1, 0)
    assert last(added=added) == (
        "The kept one is a part of the other one: about 20\u00a0% of it is cut off, at the left and right."
    )
    assert last(added=added, added_is_plain=True) == (
        "The other one has a border, or plain ground, at the left and right: 20\u00a0% of it."
    )
    assert last(brightness=-12.4) == "The other one is darker: by 12 of 255 on average."
    assert last(brightness=11.9) == "Neither is cropped.", "nobody sees it"
    assert last(contrast=0.7) == "The other one has less contrast."
    assert last(sharpness=0.4) == "The other one is less sharp."
    assert "only resized" in sentences(Differences(is_edit=True, is_even=True, mean=2, largest=9), pixel_width=200)[-1]


# -- what is marked ----------------------------------------------------------------------------------------------------


def test_the_row_of_a_box_has_the_columns_of_an_export(folder: Path, group: dict[str, Any]) -> None:
    kept, other = group["members"][0], next(each for each in group["members"] if each["image_id"] == HOSTILE)
    row = selection.row(other, group, show_locations=True)
    assert tuple(row) == selection.COLUMNS
    assert (row["image_id"], row["uri"], row["kept_id"]) == (HOSTILE, f"/images/{HOSTILE}", "0/kept.png")
    assert (row["kept_uri"], row["distance"], row["kind"]) == ("/images/0/kept.png", other["distance"], group["kind"])
    assert (row["width"], row["height"], row["kept_width"], row["kept_height"]) == (320, 210, 400, 300)
    assert selection.row({**other, "picture": kept["picture"]}, group, True)["kind"] == "identical"


def test_the_kept_one_has_a_row_that_names_no_other(group: dict[str, Any]) -> None:
    row = selection.row(group["members"][0], group, True)
    assert [name for name, value in row.items() if value is None] == [
        *("kept_id", "kept_uri", "distance", "kept_width", "kept_height", "kept_size_bytes")
    ]


def test_no_place_is_on_pages_that_may_not_show_any(tmp_path: Path) -> None:
    group = comparing.group(tmp_path, names=["half.png"])
    path = comparing.write(tmp_path, [group], comparing.book(tmp_path, show_locations=False))[0]
    for page in (path, group["path"]):
        assert "/images/0/" not in (tmp_path / page).read_text()
    secret = {**group["members"][1], "uri": "https://example.org/a.png?signature=1"}
    assert selection.row(secret, group, True)["uri"] is None, "an address without its signature leads elsewhere"


def test_boxes_carry_their_rows_as_data(folder: Path, group: dict[str, Any], written: list[Page]) -> None:
    text = (folder / group["path"]).read_text()
    assert text.count('name="remove"') == len(group["members"])
    carried = [json.loads(html.unescape(row)) for row in re.findall(r'data-row="([^"]*)"', text)]
    assert carried == [selection.row(member, group, True) for member in group["members"]]
    assert "checked" not in text and text.count('class="mark"') == len(group["members"]) + 1
    assert blobs.exists(str(folder / pages.static_file("selection.js", comparing.book(folder))[0]))
