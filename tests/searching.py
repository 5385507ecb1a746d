"""A report of a search, made from tables alone, whose names try to break pages."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

import hostile
from image_similarity.pages.site import open_site
from image_similarity.runtime.session import lazy_session
from image_similarity.settings import Settings
from image_similarity.stages.search import report
from image_similarity.stages.search.report import About, Place, Tables
from image_similarity.warehouse.schemas import SCHEMAS

ABOUT = About("inbox", "tiny", "cosine", 3, True, False, "r1")
SETTINGS = Settings(fingerprints={}).model_copy(
    update={"gallery": Settings(fingerprints={}).gallery.model_copy(update={"images_per_page": 20})}
)


def drawn(file: Path, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((60, 40)).save(file, "PNG")
    return str(file)


def tables(folder: Path) -> Tables:
    """Queries with names that try to break pages: one in three is there, near, or new."""
    images = {
        f"{name} {number}": drawn(folder / f"image{number}", number) for number, name in enumerate(hostile.TITLES[:3])
    }
    rows = []
    for number, name in enumerate(hostile.NAMES):
        uri = drawn(folder / f"query{number}", 100 + number)
        for rank, image in enumerate(images, start=1):
            verdict = ("yes", "near", "no")[number % 3] if rank == 1 else "no"
            rows.append((name, uri, image, rank, 0.25 * rank, verdict))
    columns = ["query_id", "query_uri", "image_id", "rank", "distance", "verdict"]
    matches = pa.table(dict(zip(columns, zip(*rows)))).sort_by([("query_id", "ascending"), ("rank", "ascending")])
    failed = {"image_id": ["<i>gone</i>"], "uri": ["u"], "fingerprint": ["tiny"], "reason": ["not_an_image"]}
    failures = pa.table({**failed, "detail": ["<b>"], "source_version": ["v"]}, schema=SCHEMAS["failures"])
    known: dict[str, dict[str, Any]] = {
        image: {"uri": uri, "attributes": [], "content": None, "source_version": None} for image, uri in images.items()
    }
    return Tables(matches, failures, known)


def no_spark() -> Any:
    """A session that must not be started."""

    def start() -> Any:
        raise AssertionError("Spark was started")

    return lazy_session(start)


def written(folder: Path, about: About = ABOUT) -> Path:
    """The folder of a report."""
    site = open_site(None, "report", str(folder / "r <b>&'"))
    place = Place(site.uri, "r20260101T000000-00000000", None)
    (folder / "files").mkdir()
    made = report.write(no_spark(), tables(folder / "files"), about, place, SETTINGS, 1)
    site.write_index(made.index)
    return Path(site.uri)
