"""The pages and their files: templates, and what they are filled with."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import jinja2

from image_similarity.imaging.thumbnails import Thumbnails
from image_similarity.pages import captions, cards, paths
from image_similarity.pages.originals import data_address
from image_similarity.serve.asking import Answer, Shown
from image_similarity.serve.questions import LABELS, MOST, Wanted
from image_similarity.stages.gallery import words

STATIC = {"serve.css": "text/css", "serve.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""The files of pages, and what they are."""


class GalleryPages(Protocol):
    @property
    def address(self) -> str | None: ...
    def has_page(self, image_id: str) -> bool: ...


def page(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(values)


@lru_cache(maxsize=len(STATIC))
def static(name: str) -> bytes:
    """One of the files `STATIC`."""
    return page(name).encode()


def address_of(image_id: str, wanted: Wanted = Wanted()) -> str:
    """Where a page asks for an image of the collection, and wants as much as ``wanted``; relative to the page."""
    usual = Wanted()
    fields = {name: value for name, value in vars(wanted).items() if value not in (None, getattr(usual, name))}
    return f"?{urlencode({'id': image_id, **fields})}"


def picture_address(image_id: str, size: str, state: str | None = None) -> str:
    """``state``: of the collection, for browsers, which keep a picture by its address."""
    of_state = {} if state is None else {"state": state}
    return f"/picture?{urlencode({'id': image_id, 'size': size, **of_state})}"


def gallery_address(image_id: str, gallery: GalleryPages) -> str | None:
    """The address of the page of an image; None if it has none."""
    return f"{gallery.address}/{paths.image_path(paths.page_name(image_id))}" if gallery.has_page(image_id) else None


def relative(path: str) -> str:
    """``path`` of this server, for a link of a page: a browser has the pages below a path that they do not know."""
    return path.removeprefix("/")


def embedded(picture: Thumbnails) -> Mapping[str, Any]:
    """The picture that was asked for, as part of the page: no other address has it."""
    return {"src": data_address(picture), "width": picture.width, "height": picture.height}


def linked(asked: Shown, state: str) -> Mapping[str, Any]:
    """The image of the collection that was asked for."""
    return {
        "src": relative(picture_address(asked.image_id, paths.SMALL, state)),
        "width": asked.width,
        "height": asked.height,
    }


def verdict_sentence(answer: Answer) -> str:
    """What the answer says first."""
    same = sum(shown.verdict == "yes" for shown in answer.similar)
    if same:
        return "The collection has this picture" if same == 1 else f"The collection has this picture {same} times"
    if answer.verdict == "near":
        return "The collection may have this picture"
    return "The collection does not have this picture" if answer.verdict == "no" else "What looks like it most"


def in_json(shown: Shown, gallery: GalleryPages) -> dict[str, Any]:
    """An image of an answer, for programs."""
    return {
        "rank": shown.rank,
        "image_id": shown.image_id,
        "distance": shown.distance,
        "verdict": shown.verdict,
        "title": shown.caption.title,
        "subtitle": shown.caption.subtitle,
        "uri": captions.location(shown.uri),
        "width": shown.width,
        "height": shown.height,
        "picture": picture_address(shown.image_id, paths.SMALL),
        "page": gallery_address(shown.image_id, gallery),
        **({} if shown.tag is None else {"tag": shown.tag}),
    }


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = cards.environment(__package__)
    environment.filters.update(quoted=quote, relative=relative)
    environment.globals.update(cards.STYLE)
    environment.globals.update(
        labels=LABELS,
        scales=words.SCALES,
        of_verdict=captions.of_verdict,
        most=MOST,
        address_of=address_of,
        picture_address=picture_address,
        gallery_address=gallery_address,
        verdict_sentence=verdict_sentence,
    )
    return environment
