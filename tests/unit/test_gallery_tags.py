"""Tags on pages: which are shown, in which order, and what is said of them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

import tagging_tables
from image_similarity.settings import GallerySettings
from image_similarity.stages.gallery import addresses, cards, images, pages, tag_pages, tags
from image_similarity.stages.gallery.pages import Book, Tab, Tagged
from image_similarity.stages.gallery.tag_pages import Beside, Tags

BOOK = Book(
    *("/gallery", "r1", "Title", 9, (Tab("one", "one", "cosine"),), (), 200),
    tags=Tagged("one", "vgg16, weights.pth", 0.5, 3, 2),
)


def rows(*given: tuple[str, str | None, float]) -> list[dict[str, Any]]:
    return [
        {"rank": rank, "class": name, "wnid": wnid, "probability": probability, "accepted": True}
        for rank, (name, wnid, probability) in enumerate(given, 1)
    ]


def image(ordinal: int, *given: tuple[str, str | None, float], width: int | None = 40) -> dict[str, Any]:
    name = f"image {ordinal}"
    own = {"image_id": name, "ordinal": ordinal, "picture": f"{ordinal:032}", "width": width, "height": width}
    return {**own, **cards.texts(name, {}, GallerySettings(), rows(*given))}


CAT, TABBY, ANIMAL = ("cat", "n1", 0.8), ("tabby", "n2", 0.6), ("animal", "n3", 0.95)


def test_an_image_has_its_tags_by_rank_and_each_once() -> None:
    given = rows(TABBY, CAT, ANIMAL, ("cat", "n1", 0.1))
    assert [tag["title"] for tag in tags.of_image(given[::-1])] == ["tabby", "cat", "animal"]
    assert tags.of_image(given)[1]["probability"] == 0.8, "the first of two"
    assert tags.of_image([]) == tags.of_image([{**given[0], "accepted": False}]) == []


def test_classes_of_one_name_have_pages_of_their_own() -> None:
    names = {tags.page_name(*of) for of in [("crane", "n1"), ("crane", "n2"), ("crane", None), ("Crane", None)]}
    assert len(names) == 4 and all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


@pytest.mark.parametrize("name", tagging_tables.CLASSES)
def test_every_address_of_a_tag_is_known_as_one(name: str) -> None:
    paths = [tags.tag_path(tags.page_name(name, None), 12), tags.tag_path(tags.UNTAGGED), tags.list_path(3)]
    assert all(addresses._ADDRESS.fullmatch(path) for path in paths) and tags.FOLDER in addresses.LISTINGS


@pytest.mark.parametrize(
    "probabilities, wanted",
    [
        ([0.6, 0.8, 0.95], [3]),
        ([0.35, 0.35, 0.4, 0.8], [1, 1, 2]),  # a tabby or a lion: a cat or a big cat, but surely a feline
        ([0.5, 0.5], [1, 1]),  # nobody knows whether one lies in the other
        ([0.9, 0.6], [1, 1]),  # a parent is at least as probable
        ([], []),
    ],
)
def test_a_trail_has_what_surely_lies_in_one_another(probabilities: Sequence[float], wanted: Sequence[int]) -> None:
    own = tags.of_image(rows(*((f"class {place}", None, of) for place, of in enumerate(probabilities))))
    trails = tags.trails(own)
    assert [len(trail) for trail in trails] == wanted and [tag for trail in trails for tag in trail] == own


def test_no_probability_is_said_to_be_certain() -> None:
    said = {of: tags.percent(of).replace("\u00a0", " ") for of in (0.0, 0.004, 0.5, 0.994, 0.9951, 1.0)}
    assert [*said.values()] == ["under 1 %", "under 1 %", "50 %", "99 %", "over 99 %", "over 99 %"]


def test_a_card_says_what_its_picture_probably_shows() -> None:
    shown = image(1, TABBY, CAT)
    assert shown["alt"] == "image 1, probably tabby" and {"tabby", "cat", "image"} <= set(shown["terms"])
    assert image(1, ("tabby", None, 0.3))["alt"] == "image 1, perhaps tabby"
    assert image(1, ("IMAGE", None, 0.9))["alt"] == image(1, ("", None, 0.9))["alt"] == image(1)["alt"] == "image 1"


def listed(*images: dict[str, Any]) -> dict[str, tag_pages.Listed]:
    return {tag.title: tag for tag in Tags(images).all}


def test_tags_are_listed_by_their_images_with_the_most_probable_one_that_has_a_picture() -> None:
    first, second = image(1, TABBY, CAT, ANIMAL), image(2, ("cat", "n1", 0.9), ANIMAL, width=None)
    tagged = listed(image(0), first, second, image(3, ANIMAL))
    assert [(title, tag.images) for title, tag in tagged.items()] == [("animal", 3), ("cat", 2), ("tabby", 1)]
    assert tagged["cat"].card == {name: first[name] for name in cards.CARD}, "the surer one has no picture"
    assert listed(second)["cat"].card is None


def test_tags_of_the_same_images_have_different_examples() -> None:
    sure = (0.9, 0.8, 0.7)
    tagged = listed(*(image(n, ("guitar", None, of), ("instrument", None, 0.95)) for n, of in enumerate(sure)))
    shown = [tag.card and tag.card["title"] for tag in tagged.values()]
    assert [*tagged] == ["guitar", "instrument"] and shown == ["image 0", "image 1"]
    alone = [tag.card and tag.card["title"] for tag in listed(image(0, CAT, ANIMAL)).values()]
    assert alone == ["image 0", "image 0"], "there is no other"


def test_a_tag_leads_to_more_specific_and_more_general_ones() -> None:
    tagged = listed(image(1, TABBY, CAT, ANIMAL), image(2, CAT, ANIMAL), image(3, ("dog", None, 0.9), ANIMAL))
    narrower = [(tag.title, tag.images) for tag in tagged["animal"].narrower]
    assert narrower == [("cat", 2), ("dog", 1), ("tabby", 1)] and tagged["animal"].wider == ()
    assert [tag.title for tag in tagged["tabby"].wider] == ["cat", "animal"], "the most specific first"
    assert tagged["cat"].narrower == (Beside(tagged["tabby"].page, "tabby", 1),)


def test_namesakes_are_told_apart() -> None:
    tagged = listed(image(1, ("crane", "n1", 0.9)), image(2, ("crane", "n2", 0.9)), image(3, ("Crane", None, 0.9)))
    assert [*tagged] == ["Crane", "crane (n1)", "crane (n2)"]


def pages_of(*images: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    return {row["path"]: (template, row) for template, row in Tags(images).pages(per_page=2)}


def test_the_images_of_a_tag_are_in_pages_the_most_probable_first() -> None:
    sure = [0.6, 0.9, 0.6, 0.7]
    made = pages_of(*(image(place, ("cat", "n1", of)) for place, of in enumerate(sure)), image(4))
    cat = tags.page_name("cat", "n1")
    items = [item for number in (1, 2) for item in made[f"tags/{cat}-{number}.html"][1]["items"]]
    assert [(item["title"], item["probability"]) for item in items] == [
        *(("image 1", 0.9), ("image 3", 0.7), ("image 0", 0.6), ("image 2", 0.6))
    ]
    assert [item["title"] for item in made["tags/none-1.html"][1]["items"]] == ["image 4"] and len(made) == 3
    assert not any("none" in path for path in pages_of(image(0, CAT))), "every image has a tag"


def test_what_is_shown_of_a_hostile_class_is_escaped() -> None:
    shown = [image(place, (name, None, 0.9)) for place, name in enumerate(tagging_tables.CLASSES)]
    tagged = [*Tags(shown).all]
    filled = [pages.render(template, BOOK, row["path"], row) for template, row in Tags(shown).pages(per_page=5)]
    filled += [pages.render("tags.html", BOOK, row["path"], row) for row in tag_pages.list_pages(tagged)]
    row = {**shown[0], "uri": None, "attributes": [], "reason": None, "detail": None, "items": [], "path": "a/b/c"}
    row |= {"previous": None, "next": None, "groups": None, "tags": [tag for image in shown for tag in image["tags"]]}
    filled.append(pages.render("image.html", BOOK, "images/ab/ab.html", images.context(BOOK)(row)))
    assert not any("window.hacked=1</script>" in text or "<img src=x" in text or " 49 " in text for text in filled)
    assert all("(empty)" in text for text in filled[-2:]) and filled[-1].count(", probability 90\u00a0%") == len(shown)


def test_a_list_says_what_a_tag_is_and_how_many_images_have_none() -> None:
    [row] = tag_pages.list_pages(Tags([image(0, CAT), image(1, CAT)]).all)
    page = pages.render("tags.html", BOOK, row["path"], row)
    assert "vgg16, weights.pth" in page and "each with a probability of at least 0.5" in page
    assert '<a href="../tags/none-1.html">7 images without a tag</a>' in page


@pytest.mark.parametrize(
    "unjudged, of_list, of_none",
    [
        (0, "for none of them was the network sure enough", "9 images of which the network is not sure enough"),
        (
            3,
            "3 were not looked at, and for none of the others was the network sure enough",
            "9 images: of 6 the network is not sure enough, 3 it has not looked at",
        ),
        (9, "the network has looked at none of them", "9 images that the network has not looked at"),
    ],
)
def test_images_that_were_not_looked_at_are_not_said_to_be_uncertain(unjudged: int, of_list: str, of_none: str) -> None:
    book = replace(BOOK, tags=Tagged("one", "", 0.5, 0, 0, unjudged))
    [nothing] = tag_pages.list_pages([])
    assert f"No image has a tag: {of_list}. " in pages.render("tags.html", book, nothing["path"], nothing)
    [row] = [row for _, row in Tags([image(0)]).pages(per_page=2)]
    assert f'<p class="lead">{of_none}</p>' in pages.render("untagged.html", book, row["path"], row)


def test_a_list_says_how_many_of_those_without_a_tag_were_not_looked_at() -> None:
    [row] = tag_pages.list_pages(Tags([image(0, CAT)]).all)
    page = pages.render("tags.html", replace(BOOK, tags=Tagged("one", "", 0.5, 3, 2, 4)), row["path"], row)
    assert "7 images without a tag</a>, 4 of which the network has not looked at" in page


def test_a_long_list_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_pages, "PER_LIST", 2)
    tagged = Tags([image(place, (f"class {place}", None, 0.9)) for place in range(5)]).all
    listed_on = [(row["path"], len(row["items"]), row["last"]) for row in tag_pages.list_pages(tagged)]
    assert listed_on == [("tags/1.html", 2, 3), ("tags/2.html", 2, 3), ("tags/3.html", 1, 3)]
