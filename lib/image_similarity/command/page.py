"""The page of ``search --open``: the pictures that were asked about, beside their answers, in one file."""

import argparse
import base64
import hashlib
import os
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import jinja2

from image_similarity.collection.display import Images
from image_similarity.command import output
from image_similarity.command.answers import Answer, Image, Refused
from image_similarity.errors import JobFailed, Unreadable, WrongInput
from image_similarity.imaging.thumbnails import Thumbnails
from image_similarity.pages import captions, cards, originals, paths, site
from image_similarity.pages.originals import Original, Originals
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.storage import blobs, filesystems, http_client, uris

MOST_QUESTIONS = 50
"""On one page, which holds its pictures: some 0.3 MB for each question with 12 answers."""
GENERATOR = "image-similarity search"
_ENDINGS = (".html", ".htm")
_BEGINNING = 2048
"""Bytes of a page that tell whether it is one of ours."""
_MOST_PROCESSES = 4
"""Pictures that are made at a time."""


Picture: TypeAlias = Mapping[str, Any]
"""What the template shows of a picture: its address, width and height; or None and the reason."""
Shown = TypeVar("Shown", bytes, Original)


@dataclass(frozen=True)
class Wanted:
    """The page that was asked for."""

    path: str | None
    """Absolute; None for a temporary file."""
    is_opened: bool
    gallery: str | None
    """The folder of a rendered gallery: an absolute path, or a web address without its last slash."""


def wanted(arguments: argparse.Namespace, count: int) -> Wanted | None:
    """The page that ``arguments`` ask for; None if they ask for none. ``count``: of questions.

    Raises ``WrongInput`` if it cannot be made. Nothing is written.
    """
    if not arguments.open and arguments.page is None:
        if arguments.gallery is not None:
            raise WrongInput("--gallery is where a page leads to: give --open or --page, too")
        return None
    if count > MOST_QUESTIONS:
        raise WrongInput(
            f"{count} pictures are too many for one page, which has room for {MOST_QUESTIONS}: "
            "image-similarity search-images --images URI --report URI makes a report of any number"
        )
    path = None if arguments.page is None else _checked_path(arguments.page)
    return Wanted(path, arguments.open, None if arguments.gallery is None else _checked_gallery(arguments.gallery))


def _checked_path(page: str) -> str:
    """``page`` as an absolute path, at which a page may be written."""
    if not uris.is_local(page):
        raise WrongInput(f"--page {page}: name a file on this machine")
    path = uris.absolute(page)
    if not path.lower().endswith(_ENDINGS):
        raise WrongInput(f"--page {page}: browsers want a name that ends in {_ENDINGS[0]}")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise WrongInput(f"--page {page}: {folder} is no folder that can be written")
    if os.path.lexists(path) and not _is_ours(path):
        raise WrongInput(f"--page {page}: this is there already, and is no page of {GENERATOR}: name another file")
    return path


def _is_ours(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return f'content="{GENERATOR}"'.encode() in file.read(_BEGINNING)
    except OSError:
        return False


def _checked_gallery(gallery: str) -> str:
    if uris.scheme_of(gallery) in http_client.SCHEMES:
        return gallery.removesuffix(site.INDEX).rstrip("/")
    if not uris.is_local(gallery):
        raise WrongInput(f"--gallery {gallery}: a browser follows paths and http(s) addresses only")
    path = uris.absolute(gallery).removesuffix(f"/{site.INDEX}")
    if not os.path.isdir(path) or site.kind_at(filesystems.files_of(path), path) != "gallery":
        raise WrongInput(f"--gallery {gallery}: no gallery is there; render-gallery makes one")
    return path


@dataclass
class Sheet:
    """A page that is being filled."""

    wanted: Wanted
    warehouse: str
    images: Images
    """What is known of images of the collection."""
    originals: Originals
    _made: dict[Original, Picture] = field(default_factory=dict)
    """An original that several answers have is read once."""
    _answers: list[dict[str, Any]] = field(default_factory=list)
    _refused: list[tuple[str, str]] = field(default_factory=list)

    def add(self, outcome: Answer | Refused) -> None:
        """Adds an answer, with its pictures, or why there is none."""
        if isinstance(outcome, Answer):
            self._answers.append(self._answered(outcome))
        else:
            self._refused.append((outcome.asked.name, captions.clean(str(outcome.error))))

    def _answered(self, answer: Answer) -> dict[str, Any]:
        asked = answer.asked.image_id
        ids = [image.image_id for image in answer.images]
        pictures = self._of_images(ids if asked is None else [asked, *ids])
        lists = [
            (
                heading.capitalize(),
                [self._card(image, pictures[image.image_id]) for image in answer.images_of(relation)],
            )
            for relation, heading in output.HEADINGS.items()
        ]
        own = pictures[asked] if asked is not None else _shown(self.originals.of_content, answer.content or b"")
        query = {**own, "title": captions.clean(answer.title), "alt": "the picture that was asked about"}
        return {"query": query, "about": output.about(answer), "lists": [each for each in lists if each[1]]}

    def _of_images(self, ids: Sequence[str]) -> Mapping[str, Picture]:
        """The pictures of images of the collection, by their ids."""
        known = self.images(ids)
        of = {name: known[name].original if name in known else Original(None) for name in ids}
        new = list({*of.values()} - self._made.keys())
        self._made.update(zip(new, self.originals.each(partial(_shown, self.originals.of), new)))
        return {name: self._made[original] for name, original in of.items()}

    def write(self) -> str | None:
        """Writes the page, whole, and returns its path. Without an answer there is none."""
        if not self._answers:
            return None
        titles = [answer["query"]["title"] for answer in self._answers]
        heading = f"What looks like {'this' if len(titles) == 1 else f'these {len(titles)}'}?"
        style, style_hash = _style()
        content = (
            _environment()
            .get_template("page.html")
            .render(
                title=f"{heading[:-1]}: {titles[0]}" if len(titles) == 1 else heading,
                heading=heading,
                style=style,
                style_hash=style_hash,
                generator=GENERATOR,
                warehouse=captions.clean(self.warehouse),
                answers=self._answers,
                refused=self._refused,
                same=captions.VERDICTS["yes"].of_image,
                has_verdicts=any(
                    card["verdict"] for answer in self._answers for _, images in answer["lists"] for card in images
                ),
            )
        )
        return _written(content.encode(), self.wanted.path)

    def _card(self, image: Image, picture: Picture) -> dict[str, Any]:
        caption = captions.of_image(image.image_id, image.attributes, output.TITLES, ())
        return {
            **picture,
            "title": caption.title,
            "alt": caption.alt,
            "distance": image.distance,
            "verdict": captions.of_verdict(image.verdict),
            "link": self._link(image),
        }

    def _link(self, image: Image) -> str | None:
        """Where a card leads: to the image's page in the gallery, else to the original, if a browser can open it."""
        page = paths.image_path(paths.page_name(image.image_id))
        gallery = self.wanted.gallery
        if gallery is not None and not uris.is_local(gallery):
            return f"{gallery}/{page}"
        if gallery is not None and os.path.exists(f"{gallery}/{page}"):
            return Path(f"{gallery}/{page}").as_uri()
        if image.uri is not None and uris.is_local(image.uri):
            return Path(uris.absolute(image.uri)).as_uri()
        return captions.link(image.uri or "")


@contextmanager
def opened(wanted: Wanted | None, warehouse: str, images: Images, limits: EmbeddingsSettings) -> Iterator[Sheet | None]:
    """The page ``wanted``, to be filled; None if it is None. Its child processes end with the context."""
    if wanted is None:
        yield None
        return
    with Originals(min(_MOST_PROCESSES, os.cpu_count() or 1), limits, HttpSettings()) as pictures:
        yield Sheet(wanted, warehouse, images, pictures)


def show(path: str) -> bool:
    """Opens the page in a browser; returns whether one took it. A browser within the terminal is not asked."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    has_window = os.name == "nt" or os.uname().sysname == "Darwin" or _has_display() or bool(os.environ.get("BROWSER"))
    return has_window and browser.open(Path(path).as_uri())


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _written(content: bytes, path: str | None) -> str:
    try:
        if path is not None:
            blobs.write(path, content, "text/html; charset=utf-8")
            return path
        with tempfile.NamedTemporaryFile(prefix="image-similarity-", suffix=_ENDINGS[0], delete=False) as file:
            file.write(content)
        return file.name
    except OSError as error:
        raise JobFailed(f"the page could not be written: {error}") from error


def _shown(make: Callable[[Shown], Thumbnails], what: Shown) -> Picture:
    """What the page shows of a picture, or why it shows none."""
    try:
        thumbnails = make(what)
    except Unreadable as error:
        return {"picture": None, "reason": originals.words(error)}
    width, height = thumbnails.small_size
    return {"picture": originals.data_address(thumbnails), "width": width, "height": height}


@lru_cache(maxsize=1)
def _style() -> tuple[str, str]:
    """The style sheet, and its hash for the page's policy, which allows no other."""
    style = "".join(_environment().get_template(name).render(cards.STYLE) for name in ("base.css", "page.css"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return style, f"sha256-{digest}"


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return cards.environment(__package__)
