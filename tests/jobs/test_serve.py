"""The server on a real collection, whose names try to break it, with its gallery."""

import re
from collections.abc import Iterator

import pytest

import image_similarity as ims
import serving
from conftest import Rendered
from image_similarity.pages import paths
from serving import Served

HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def collection(gallery: Rendered) -> ims.Collection:
    return ims.open(str(gallery.warehouse))


@pytest.fixture(scope="module")
def served(gallery: Rendered, collection: ims.Collection) -> Iterator[Served]:
    with serving.serving(collection, str(gallery.folder), fingerprints=["tiny", "second"]) as running:
        yield running


@pytest.fixture(scope="module")
def embedded(collection: ims.Collection) -> list[str]:
    return [str(image_id) for image_id in collection.embeddings("tiny").ids]


@pytest.mark.parametrize("fingerprint", ["tiny", "second"])
def test_images_have_their_published_neighbours(
    served: Served, collection: ims.Collection, embedded: list[str], fingerprint: str
) -> None:
    published = collection.neighbours(fingerprint).to_pylist()
    for image_id in embedded:
        answer = served.get("/similar", id=image_id, k=5, dissimilar=3, fingerprint=fingerprint).json
        answered = [(relation, each) for relation in ("similar", "dissimilar") for each in answer[relation]]
        assert [(relation, each["rank"], each["image_id"], each["distance"]) for relation, each in answered] == [
            (row["relation"], row["rank"], row["neighbour_id"], row["distance"])
            for row in published
            if row["image_id"] == image_id
        ]
        assert (answer["fingerprint"], answer["vectors"], answer["exact"]) == (fingerprint, len(embedded) - 1, True)


def test_a_file_of_the_collection_finds_itself_and_a_changed_one_its_like(
    served: Served, gallery: Rendered, embedded: list[str]
) -> None:
    content = (gallery.collection.images / "Twin.png").read_bytes()
    known = served.post("/similar?k=1&fingerprint=tiny", content).json
    assert (known["similar"][0]["distance"], known["vector"]) == (0, "published")
    changed = served.post("/similar?k=1&fingerprint=tiny", serving.picture((40, 120, 200))).json
    assert changed["vector"] == "embedded" and changed["similar"][0]["image_id"] in embedded
    assert changed["trained"] is False


def test_every_result_leads_to_its_page_and_has_its_picture(served: Served, embedded: list[str]) -> None:
    answer = served.get("/similar", id=embedded[0], k=500).json
    assert len(answer["similar"]) == len(embedded) - 1
    for each in answer["similar"]:
        assert each["page"] == f"/gallery/{paths.image_path(paths.page_name(each['image_id']))}"
        assert "<title>" in served.get(each["page"]).text
        assert served.get(each["picture"]).body[:4] == b"RIFF" or each["image_id"] == "tall.png"


def test_pages_show_hostile_names_as_text(served: Served, embedded: list[str]) -> None:
    for image_id in embedded:
        reply = served.get("/", HTML, id=image_id, k=500)
        assert reply.status == 200
        assert not re.search(r"<script(?! src=)|<img src=x|<b onclick|<i>|href=\"javascript:", reply.text)


def test_images_that_could_not_be_embedded_are_told(served: Served, gallery: Rendered) -> None:
    for image_id in gallery.collection.failing:
        reply = served.get("/similar", id=image_id)
        assert reply.status == 400 and "has a vector" in reply.json["error"]
    broken = (gallery.collection.images / "broken.png").read_bytes()
    assert served.post("/similar", broken).json["reason"] == gallery.collection.failing["broken.png"]


def test_a_vector_of_another_length_is_told_both_lengths(served: Served, collection: ims.Collection) -> None:
    reply = served.ask({"vector": [1, 2, 3], "fingerprint": "tiny"})
    length = collection.embeddings("tiny").vectors.shape[1]
    assert reply.status == 400 and re.search(rf"\b3\b.*\b{length}\b", reply.json["error"])
