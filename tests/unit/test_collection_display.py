"""What a notebook shows of a table: which pictures in which strips, and HTML that no file and no text can break."""

import base64
import hashlib
import io
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image as Pillow

import image_similarity as ims
from image_similarity.collection import display
from image_similarity.collection.display import Image, Pictures
from image_similarity.errors import WrongInput
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.pages import originals
from image_similarity.pages.originals import Original
from image_similarity.warehouse.schemas import SCHEMAS
from warehouses import Made

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x00"


def draw(file: Path, size: tuple[int, int], seed: int = 0) -> str:
    """Draws a picture; the sha256 of its file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    Pillow.fromarray(pixels).resize(size).save(file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """Pictures of every shape; one that is none, one that has changed, one that is gone."""
    folder = tmp_path_factory.mktemp("pictures")
    known = {}
    for seed, (name, size) in enumerate(
        [("a", (400, 300)), ("wide", (900, 60)), ("tall", (40, 600)), ("tiny", (1, 1))]
    ):
        content = draw(folder / f"{name}.png", size, seed)
        known[name] = Image(Original.of(str(folder / f"{name}.png"), content), {"title": f"Picture {name}"})
    (folder / "broken.png").write_bytes(b"no picture")
    known["broken"] = Image(Original(str(folder / "broken.png")), {"title": HOSTILE})
    draw(folder / "changed.png", (30, 20))
    known["changed"] = Image(Original.of(str(folder / "changed.png"), "0" * 64))
    known["gone"] = Image(Original(str(folder / "gone.png")))
    return known


@pytest.fixture(scope="module")
def show(images: dict[str, Image]) -> Callable[..., Pictures]:
    def looked_up(ids: Sequence[str]) -> Mapping[str, Image]:
        return {name: images[name] for name in ids if name in images}

    return lambda rows, limit=36, **more: display.pictures(rows, looked_up, limit, **more)


def neighbours(*rows: tuple[str, str, float], **more: Any) -> pa.Table:
    columns = [pa.array(column) for column in zip(*rows)]
    table = pa.table(columns, ["image_id", "neighbour_id", "distance"])
    for name, values in more.items():
        table = table.append_column(name, pa.array(values))
    return table


class Parsed(HTMLParser):
    """Tags that are open at the end, the pictures, and the names of all tags and attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html_of(shown: Pictures) -> Parsed:
    parsed = Parsed(shown._repr_html_())
    assert parsed.open == []
    return parsed


def test_neighbours_are_strips_of_an_image_and_what_was_found(show: Any) -> None:
    shown = show(neighbours(("a", "wide", 0.25), ("a", "tall", 1234.5), ("wide", "a", 0.25)))
    assert repr(shown) == (
        "Picture a\n  Picture wide  0.2500\n  Picture tall  1,234.5000\nPicture wide\n  Picture a  0.2500"
    )
    assert len(shown) == 5


def test_what_differs_in_a_table_divides_it(show: Any) -> None:
    rows = [("a", "wide", 0.1), ("a", "tall", 0.9), ("a", "tall", 0.2)]
    shown = show(neighbours(*rows, fingerprint=["x", "x", "y"], relation=["similar", "dissimilar", "similar"]))
    assert re.findall(r"^(\S.*):$", repr(shown), re.MULTILINE) == ["x, similar", "x, dissimilar", "y, similar"]
    assert "similar" not in repr(show(neighbours(*rows, relation=["similar"] * 3)))
    twice = show(neighbours(("a", "wide", 0.1), ("wide", "a", 0.1), ("a", "tall", 0.9), relation=list("ssd")))
    assert repr(twice).count("s:") == 1 and twice._repr_html_().count(">s<") == 1, "a label is told where it begins"


def test_groups_are_strips_and_the_representative_has_no_distance(show: Any) -> None:
    groups = pa.table(
        {
            "group_id": ["g", "g", "h"],
            "image_id": ["a", "wide", "tall"],
            "representative": [True, False, True],
            "distance_to_representative": pa.array([0.0, 0.5, 0.0], pa.float32()),
        }
    )
    assert repr(show(groups)) == "Picture a\nPicture wide  0.5000\n\nPicture tall"
    summary = pa.table({"group_id": ["g"], "representative_id": ["a"], "size": [2000]})
    assert repr(show(summary)) == "Picture a  2,000 images"


def test_columns_that_are_named_are_told(show: Any) -> None:
    table = neighbours(("a", "wide", 0.25), scaled=[0.5], n=[3])
    assert repr(show(table, notes="scaled")) == "Picture a\n  Picture wide  scaled 0.5000"
    assert repr(show(table, notes=["n", "scaled"])) == "Picture a\n  Picture wide  n 3  scaled 0.5000"
    assert repr(show(table, notes=[])) == "Picture a\n  Picture wide"
    with pytest.raises(WrongInput, match="no column 'scale'; did you mean scaled?"):
        show(table, notes="scale")


def test_queries_from_outside_begin_strips(show: Any, images: dict[str, Image]) -> None:
    matches = pa.table(
        {
            "query_id": ["q/new.png"] * 3,
            "query_uri": [images["wide"].original.uri] * 3,
            "image_id": ["a", "tall", "tiny"],
            "distance": pa.array([0.0, 0.1, 0.2], pa.float32()),
            "verdict": ["yes", "near", None],
        }
    )
    shown = show(matches)
    assert repr(shown).splitlines() == [
        "new",
        "  Picture a  0.0000  the same picture",
        "  Picture tall  0.1000  perhaps the same picture",
        "  Picture tiny  0.2000",
    ]
    assert len(html_of(shown).images) == 4


def test_tables_of_others_and_lists_are_taken(show: Any, images: dict[str, Image]) -> None:
    found = neighbours(("a", "wide", 0.25))
    assert repr(show(found.to_pandas())) == repr(show(duckdb.sql("FROM found"))) == repr(show(found))
    listed = [["a", "tall"], ("a", "tall"), pa.array(["a", "tall"]), np.array(["a", "tall"]), pd.Series(["a", "tall"])]
    listed += [pa.chunked_array([["a"], ["tall"]]), pa.table({"image_id": ["a", "tall"]}).to_batches()[0]]
    assert {repr(show(rows)) for rows in listed} == {"Picture a\nPicture tall"}
    assert repr(show("a")) == "Picture a" and repr(show([])) == "no rows"
    file = Path(str(images["tall"].original.uri))
    assert repr(show(file)) == "tall" and len(html_of(show([file, "a"])).images) == 2


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (pa.table({"x": [1], "y": [2]}), "no column image_id, neighbour_id or representative_id (x, y)"),
        (3, "give it a table, an image_id, a Path, or a list of these, not int"),
        ([1, 2], "give it a table, an image_id, a Path, or a list of these, not list of int"),
        ([object()], "give it a table, an image_id, a Path, or a list of these, not list of object"),
        (None, "give it a table, an image_id, a Path, or a list of these, not NoneType"),
        (pd.DataFrame({"image_id": ["a", 1]}), "this is no table: "),
    ],
)
def test_what_is_no_table_of_images_is_told_in_one_line(show: Any, rows: Any, told: str) -> None:
    with pytest.raises(WrongInput) as error:
        show(rows)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_no_more_is_shown_than_was_asked_for(show: Any) -> None:
    many = pa.table({"image_id": ["a", "wide"] * 1000})
    assert repr(show(many, limit=2)).splitlines()[-1] == "the first 2 of 2,000 rows: show(rows, limit=N) shows more"
    assert len(show(many, limit=display.MOST)) == display.MOST
    for limit in (0, -1, display.MOST + 1, "3", 1.5, None):
        with pytest.raises(WrongInput, match="should be a whole number between 1 and"):
            show(many, limit=limit)


def test_every_picture_is_in_the_page_in_a_size_that_fits(show: Any) -> None:
    found = html_of(show(["a", "wide", "tall", "tiny"])).images
    sizes = [(int(str(image["width"])), int(str(image["height"]))) for image in found]
    assert sizes == [(160, 120), (240, 16), (80, 240), (120, 120)]
    for image, name in zip(found, ["a", "wide", "tall", "tiny"]):
        kind, _, content = str(image["src"]).partition(",")
        assert kind == "data:image/webp;base64" and image["alt"] == f"Picture {name}"
        assert Pillow.open(io.BytesIO(base64.b64decode(content))).format == "WEBP"


def test_what_cannot_be_shown_says_why_and_breaks_nothing(show: Any, images: dict[str, Image]) -> None:
    shown = show(["a", "broken", "changed", "gone", "nobody", None])
    html, parsed = shown._repr_html_(), html_of(shown)
    assert len(parsed.images) == 1
    problems = re.findall(r"no picture: ([^<]*)<", html)
    assert problems == [
        "the content is none of the formats known here",
        "the file was replaced since it was embedded",
        "there is no such file",
        "the manifest has no image of this id",
        "the manifest has no image of this id",
    ]
    assert repr(shown).splitlines()[-2:] == [
        f"{name}  (the manifest has no image of this id)" for name in ("nobody", "None")
    ]
    assert "<script" not in html and "\x00" not in html and parsed.names <= {"div", "figure", "figcaption", "img", "br"}


def test_the_page_takes_colours_from_the_notebook_and_nothing_from_elsewhere(show: Any) -> None:
    html = show(neighbours(("a", "broken", 0.5)))._repr_html_()
    assert not re.search(r"#[0-9a-f]{3}|rgb|(?<!in)(?<!-)background|https?:|<style|<script|<link", html)
    assert {name for name in Parsed(html).attributes if name.startswith("on")} == set()


def test_files_are_decoded_in_a_child_process_and_once(
    show: Any, images: dict[str, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    class Counting(IsolatedDecoders):
        def thumbnails(self, content: bytes) -> Any:
            asked.append(content)
            return super().thumbnails(content)

    monkeypatch.setattr(originals, "IsolatedDecoders", Counting)
    shown = show(neighbours(("a", "wide", 0.5), ("wide", "a", 0.5), ("a", "a", 0.0)))
    assert asked == [], "nothing is read before it is shown"
    assert shown._repr_html_() == shown._repr_html_() and len(asked) == 2


# -- of a published collection -----------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path) -> Made:
    """Three pictures of a catalogue, one of which was changed after it was embedded."""
    made, rows, embedded = Made(str(tmp_path / "warehouse")), [], []
    for seed, name in enumerate(["one.png", "two.png", "changed.png"]):
        content = draw(tmp_path / name, (40, 30), seed)
        attributes = [("Title", f"No. {seed}"), ("artist", "somebody")]
        rows.append({"image_id": name, "uri": str(tmp_path / name), "attributes": attributes})
        embedded.append({"image_id": name, "fingerprint": "f", "fingerprint_key": "k", "content_sha256": content})
    draw(tmp_path / "changed.png", (40, 30), 9)
    made.publish("build_manifest", "", {"manifest": {"": pa.Table.from_pylist(rows, SCHEMAS["manifest"])}})
    made.publish("embed_images", "f", {"embeddings": {"f": pa.Table.from_pylist(embedded, SCHEMAS["embeddings"])}})
    made.neighbours({"one.png": ["two.png", "changed.png"]}, "f/cosine")
    return made


def test_a_collection_shows_its_tables(published: Made) -> None:
    collection = ims.open(published.uri)
    shown = collection.show(collection.neighbours("f"))
    assert [line.split("  ")[:2] for line in repr(shown).splitlines()] == [["No. 0"], ["", "No. 1"], ["", "No. 2"]]
    html = html_of(shown)
    assert [image["alt"] for image in html.images] == ["No. 0, somebody", "No. 1, somebody"]
    assert "the file was replaced since it was embedded" in shown._repr_html_()
    assert len(collection.show(collection.images())) == 3 and len(collection.show(collection.images(), limit=1)) == 1


def test_a_picture_that_two_fingerprints_saw_in_two_versions_may_be_either(published: Made) -> None:
    file = Path(ims.open(published.uri).images()["uri"][0].as_py())
    now = hashlib.sha256(file.read_bytes()).hexdigest()
    row = {"image_id": file.name, "fingerprint": "g", "fingerprint_key": "l", "content_sha256": now}
    published.publish("embed_images", "g", {"embeddings": {"g": pa.Table.from_pylist([row], SCHEMAS["embeddings"])}})
    assert "was replaced" not in ims.open(published.uri).show(file.name)._repr_html_()


def test_pictures_of_a_state_that_was_cleaned_are_one_line(published: Made, tmp_path: Path) -> None:
    collection = ims.open(published.uri)
    published.publish("build_manifest", "", {"manifest": {"": SCHEMAS["manifest"].empty_table()}})
    shutil.rmtree(tmp_path / "warehouse" / "manifest" / "run_id=r00000001")
    with pytest.raises(ims.JobFailed, match="was cleaned meanwhile: refresh"):
        collection.show("one.png")
