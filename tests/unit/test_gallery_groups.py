"""Groups on pages: which are shown and in which order, and what is said of their members."""

import re
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from image_similarity.stages.gallery import addresses, groups, members, pages
from image_similarity.stages.gallery.groups import Groups, GroupTables
from image_similarity.stages.gallery.pages import Book, Grouped, Tab
from image_similarity.warehouse.schemas import ALIKE, IDENTICAL, NEAR_DUPLICATES, SCHEMAS

BOOK = Book("/gallery", "r1", "Title", 9, (Tab("one", "one", "cosine"),), (), 200)


def member(
    name: str, width: int | None = 40, height: int | None = 30, size: int | None = 900, **more: Any
) -> dict[str, Any]:
    card = {"page": name * 32, "title": f"Title {name}", "subtitle": "", "alt": name, "picture": name * 32}
    facts = {"width": 40, "height": 30, "size_bytes": size, "pixel_width": width, "pixel_height": height}
    return {"image_id": name, "uri": None, **card, **facts, "format": "JPEG", "distance": 0.25, **more}


def images(names: str) -> dict[str, dict[str, Any]]:
    return {name: {**member(name), "ordinal": ordinal} for ordinal, name in enumerate(sorted(names))}


def tables(*made: tuple[str, str, str, int, float | None]) -> GroupTables:
    """Groups: id, members (the kept one in upper case), kind, level, weakest link."""
    rows = [
        {"group_id": group_id, "kind": kind, "level": level, "image_id": name.lower(), "representative": name.isupper()}
        | {"distance_to_representative": 0.0 if name.isupper() else 0.25, "position": position}
        for group_id, names, kind, level, _ in made
        for position, name in enumerate(names)
    ]
    summary = [
        {"group_id": group_id, "kind": kind, "label": None, "weakest_link": link} for group_id, _, kind, _, link in made
    ]
    return GroupTables(
        0,
        pa.Table.from_pylist(rows, SCHEMAS["groups"]).select(groups.COLUMNS),
        pa.Table.from_pylist(summary, SCHEMAS["group_summary"]).select(groups.SUMMARY),
    )


def in_order(built: Groups) -> dict[str, list[str]]:
    return {order.path("*"): [group["group_id"] for group in built.of(order)] for order in groups.orders(built.shown)}


def test_groups_are_listed_by_size_and_by_their_weakest_link() -> None:
    built = groups.built(
        tables(
            ("1", "Ab", NEAR_DUPLICATES, 0, 0.3),
            ("2", "Cd", NEAR_DUPLICATES, 0, 0.1),
            ("3", "Efg", NEAR_DUPLICATES, 0, 0.2),
            ("4", "Hi", NEAR_DUPLICATES, 0, None),
        ),
        images("abcdefghi"),
    )
    assert in_order(built) == {
        "near-duplicates/*.html": ["3", "1", "2", "4"],
        "near-duplicates/surest-*.html": [*"2314"],
    }
    assert built.shown == Grouped(0, 4, 9) and built.gone == 0


def test_the_kept_one_is_first_wherever_it_stands_and_has_no_distance() -> None:
    built = groups.built(tables(("1", "bcA", NEAR_DUPLICATES, 0, 0.1)), images("abc"))
    [group] = built.all
    assert [(shown["image_id"], shown["distance"]) for shown in group["members"]] == [
        ("a", None),
        ("b", 0.25),
        ("c", 0.25),
    ]


def test_a_group_is_shown_with_its_kept_image_and_another_one() -> None:
    built = groups.built(
        tables(
            ("1", "Axy", NEAR_DUPLICATES, 0, 0.1),  # one is left
            ("2", "Xbc", NEAR_DUPLICATES, 0, 0.1),  # the kept one is gone
            ("3", "Dxe", NEAR_DUPLICATES, 0, 0.1),  # two are left
        ),
        images("abcde"),
    )
    assert [(group["group_id"], group["size"]) for group in built.all] == [("3", 2)] and built.gone == 7
    assert set(built.by_image) == {"d", "e"}
    assert groups.built(None, images("a")).shown == groups.built(tables(), images("a")).shown == Grouped()


def test_a_finer_group_leads_to_the_coarser_one_that_contains_it() -> None:
    built = groups.built(
        tables(
            ("1", "Ab", ALIKE, 0, 0.1),
            ("2", "Cd", ALIKE, 0, 0.1),
            ("3", "Ef", ALIKE, 0, 0.1),
            ("4", "aBcd", ALIKE, 1, 0.2),
            ("5", "Ab", NEAR_DUPLICATES, 0, 0.1),
        ),
        images("abcdef"),
    )
    parents = {group["group_id"]: group["parent"] for group in built.all}
    assert parents == {"1": "together/4-1.html", "2": "together/4-1.html", "3": None, "4": None, "5": None}
    assert built.shown.levels == ((3, 6), (1, 4))
    assert [group["group_id"] for group in built.by_image["a"]] == ["5", "1"], "the finest of each kind"


def test_a_level_that_repeats_the_one_before_is_not_shown() -> None:
    finest, coarser = (("1", "Abc", ALIKE, 0, 0.1), ("2", "De", ALIKE, 0, 0.1)), ("5", "Abcde", ALIKE, 2, 0.3)
    again = (("3", "Abc", ALIKE, 1, 0.1), ("4", "De", ALIKE, 1, 0.1))
    with_, without = (
        groups.built(tables(*finest, *more, coarser, ("6", "aX", ALIKE, 2, 0.3)), images("abcde"))
        for more in (again, ())
    )
    assert with_ == without and with_.gone == 2, "those of an image that is gone"
    assert with_.shown.levels == ((2, 5), (1, 5))
    assert {group["group_id"]: group["parent"] for group in with_.all} == {
        "1": "together/5-1.html",
        "2": "together/5-1.html",
        "5": None,
    }


def test_what_belongs_together_is_not_shown_twice() -> None:
    def repeats(*made: tuple[str, str, str, int, float | None]) -> bool:
        built = groups.built(tables(*made), images("abcd"))
        shown: bool = groups.of_image({"image_id": "b", "groups": built.by_image["b"]})[ALIKE]["repeats"]
        return shown

    near = ("1", "Abc", NEAR_DUPLICATES, 0, 0.1)
    assert repeats(near, ("2", "cBa", ALIKE, 0, 0.1)), "the same images in another order"
    assert not repeats(near, ("2", "Abcd", ALIKE, 0, 0.1)) and not repeats(near, ("2", "Abd", ALIKE, 0, 0.1))
    assert not repeats(("2", "Abc", ALIKE, 0, 0.1))


def test_the_page_of_an_image_shows_the_others_of_its_groups() -> None:
    made = tables(("1", "bAcdefghijk", NEAR_DUPLICATES, 0, 0.1), ("2", "Ab", IDENTICAL, 0, 0.0))
    built = groups.built(made, images("abcdefghijk"))

    def shown(name: str) -> dict[str, tuple[bool, str]]:
        of_image = groups.of_image({"image_id": name, "groups": built.by_image.get(name)})
        return {
            kind: (of["is_kept"], "".join(card["image_id"] for card in of["cards"])) for kind, of in of_image.items()
        }

    assert shown("a") == {NEAR_DUPLICATES: (True, "bcdefghi"), IDENTICAL: (True, "b")}
    assert shown("b")[NEAR_DUPLICATES] == (False, "acdefghi") and shown("k") == {NEAR_DUPLICATES: (False, "abcdefgh")}
    assert groups.of_image({"image_id": "z", "groups": None}) == groups.of_image({"image_id": "z"}) == {}


def test_every_page_of_groups_has_an_address_that_can_leave() -> None:
    made = tables(("ab" * 8, "Abcde", NEAR_DUPLICATES, 0, 0.1), ("cd" * 8, "Abcd", ALIKE, 0, 0.1))
    built = groups.built(made, images("abcde"))
    paths = [row["path"] for _, row in (*built.list_pages(), *built.group_pages(2))]
    assert paths == [
        "near-duplicates/1.html",
        "near-duplicates/surest-1.html",
        "together/level0-1.html",
        *(f"near-duplicates/{'ab' * 8}-{number}.html" for number in (1, 2)),
        *(f"together/{'cd' * 8}-{number}.html" for number in (1, 2)),
    ]
    assert all(addresses._ADDRESS.fullmatch(path) and path.partition("/")[0] in addresses._FOLDERS for path in paths)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0\u00a0bytes"),
        (1, "1\u00a0byte"),
        (999, "999\u00a0bytes"),
        (1000, "1.0\u00a0kB"),
        (9949, "9.9\u00a0kB"),
        (9950, "10\u00a0kB"),
        (999_499, "999\u00a0kB"),
        (999_500, "1.0\u00a0MB"),
        (3_400_000_000, "3.4\u00a0GB"),
        (10**17, "100000\u00a0TB"),
    ],
)
def test_sizes_of_files_have_a_unit_that_fits(size: int, words: str) -> None:
    assert members.file_size(size) == words


def test_what_is_known_of_an_original_is_said() -> None:
    assert members.facts(member("a", 1200, 800, 340_000)) == ["1,200 × 800", "340\u00a0kB", "JPEG"]
    assert members.facts(member("a", size=0, format="JPEG2000"))[1:] == ["0\u00a0bytes", "JPEG 2000"]
    assert members.facts(member("a", None, None, None, format=None)) == []


def test_what_is_better_than_the_kept_one_is_said_in_words() -> None:
    kept = member("a", 40, 30, 900)
    assert members.better(member("b", 41, 30, 901), kept) == ["more pixels", "larger file"]
    assert members.better(member("b", 30, 40, 900), kept) == [], "as many, upright"
    assert members.better(member("b", 40, 29, 901), kept) == ["larger file"]
    assert members.better(member("b", None, None, None), kept) == []
    assert members.better(member("b", 41, 30, 901), member("a", None, None, None)) == [], "nobody knows"
    assert members.better({**member("b", 41, 30), "picture": kept["picture"]}, kept) == [members.SAME_FILE]


def test_the_kept_one_is_the_best_where_all_others_are_less() -> None:
    def best(*others: dict[str, Any]) -> list[str]:
        all_images = {shown["image_id"]: {**shown, "ordinal": n} for n, shown in enumerate((member("a"), *others))}
        names = "A" + "".join(shown["image_id"] for shown in others)
        return members.best(groups.built(tables(("1", names, NEAR_DUPLICATES, 0, 0.1)), all_images).all[0])

    assert best(member("b"), member("c")) == [], "all are alike"
    assert best(member("b", 39, size=1), member("c", 39, size=2)) == ["most pixels", "largest file"]
    assert best(member("b", 39), member("c", size=1)) == [], "another one has as many, and another one is as large"
    assert best(member("b", 39, size=1), member("c", 41, size=2)) == ["largest file"], "another one has more"
    assert best(member("b", None, None, None)) == []
    assert best(member("b", 39, size=1), member("c", None, None, None)) == [], "nobody knows of all"


def near_page(*others: dict[str, Any], kept: dict[str, Any] | None = None, **of_group: Any) -> str:
    first = {**(kept or member("a")), "distance": None}
    group = {"group_id": "ab" * 8, "kind": NEAR_DUPLICATES, "level": 0, "path": f"near-duplicates/{'ab' * 8}-1.html"}
    group |= {"size": 1 + len(others), "label": None, "weakest_link": 0.125, "parent": None}
    group |= {"others_pixels": 1, "others_bytes": 1, "members": [first, *others]}
    book = replace(BOOK, groups=Grouped(0, 1, 2))
    row = {"items": [{**group, **of_group}], "number": 1, "last": 1, "level": 0, "by": "size"}
    return pages.render("near_duplicates.html", book, "near-duplicates/1.html", row)


def said(page: str) -> list[str]:
    """What is said of each member, as one line each."""
    parts = page.partition('<ul class="members">')[2].partition("</ul>")[0].split('<li class="member')[1:]
    return [" ".join(re.sub(r"<[^>]+>", " ", part.partition(">")[2]).split()) for part in parts]


def test_a_member_is_compared_with_the_kept_one() -> None:
    page = near_page(member("b", 80, 30, distance=0.0625), {**member("c"), "picture": "a" * 32, "distance": 0.0})
    kept, other, copy = said(page)
    assert "Kept most pixels largest file" in kept and "Compare" not in kept
    assert "0.0625 away from the kept one more pixels" in other and "Compare Title b with the kept one" in other
    assert "the same file, byte for byte" in copy and "Compare" not in copy, "there is nothing to compare"
    assert "weakest link 0.1250" in page and "All 3 images" not in page
    assert "All 12 images" in near_page(member("b"), size=12)
    assert "weakest link" not in near_page(member("b"), weakest_link=None).partition("<section")[2]


def test_a_button_says_how_many_it_marks() -> None:
    def button(page: str) -> list[str]:
        return re.findall(r'name="others"[^>]*>([^<]+)<', page)

    assert button(near_page(member("b"), member("c"))) == ["Select all but the kept one"]
    assert button(near_page(member("b"), member("c"), size=12)) == ["Select the 2 shown"]
    group = {"group_id": "ab" * 8, "kind": NEAR_DUPLICATES, "size": 3, "weakest_link": None, "members": [member("a")]}
    group |= {"others_pixels": None, "others_bytes": None}
    row: dict[str, Any] = {"number": 2, "last": 2, "group": group}
    pages_of_group = [
        pages.render("near_group.html", BOOK, "near-duplicates/x-1.html", {**row, "items": items})
        for items in ([member("b")], [member("b"), member("c")])
    ]
    assert [*map(button, pages_of_group)] == [["Select the one shown"], ["Select all but the kept one"]]


def test_a_member_without_a_picture_is_compared_by_words_alone() -> None:
    kept, other = said(near_page({**member("b", None, None, None, format=None), "width": None, "height": None}))
    assert "no picture" in other and "Compare" not in other and "more pixels" not in other


def test_pages_of_groups_escape_what_tables_say() -> None:
    bad = "</title></h1><script>window.hacked=1</script>\u202e"
    hostile = member("b", title=bad, alt=bad, image_id=bad)
    group = {"group_id": "ab" * 8, "kind": ALIKE, "level": 0, "path": "together/x-1.html", "size": 2, "label": bad}
    group |= {"weakest_link": 0.5, "parent": None, "members": [hostile]}
    group |= {"others_pixels": 1, "others_bytes": 1}
    book = replace(BOOK, groups=Grouped(0, 1, 2, ((1, 2), (1, 2))))
    row: dict[str, Any] = {"number": 1, "last": 1, "level": 0, "by": "size", "group": group}
    shown = [
        near_page(hostile, kept=hostile),
        pages.render("near_group.html", book, "near-duplicates/x-1.html", {**row, "items": [hostile]}),
        pages.render("together.html", book, "together/level0-1.html", {**row, "items": [group]}),
        pages.render("together_group.html", book, "together/x-1.html", {**row, "items": [hostile]}),
    ]
    assert all("<script>window" not in page and "&lt;script&gt;" in page for page in shown)


def test_nothing_of_groups_is_shown_where_there_are_none() -> None:
    front: dict[str, Any] = {"selection": [], "examples": [], "facets": [], "faces": {}, "map": None}
    assert "Nearly" not in (page := pages.render("index.html", BOOK, "index.html", front)) and "together" not in page
    some = pages.render(
        "index.html", replace(BOOK, groups=Grouped(0, 2, 5)), "index.html", {**front, "faces": {NEAR_DUPLICATES: []}}
    )
    assert "2 groups, 5 images" in some and "together" not in some
