"""Questions are put to the newest published state: what is asked -> rows with all that a page or a program is shown."""

import io
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity import reporting
from image_similarity.errors import JobFailed, Unreadable, WrongInput, did_you_mean, listed
from image_similarity.pages import captions, originals
from image_similarity.pages.captions import Caption
from image_similarity.pages.originals import Original
from image_similarity.serve.questions import Question
from image_similarity.serve.refusals import Refused
from image_similarity.settings.sections import GallerySettings, HttpSettings
from image_similarity.storage import fetch
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

if TYPE_CHECKING:
    from image_similarity.collection import Collection

LOOK_SECONDS = 5.0
"""The pointer of the warehouse is read at most that often."""
_ABOUT_IMAGES = ("image_id", "uri", "content_sha256", "attributes", "width", "height")
_TITLES = GallerySettings()


@dataclass(frozen=True)
class Fingerprint:
    """One that may be asked for."""

    name: str
    about: str
    """Its network and layer, or its kind, for people."""
    trained: bool | None


@dataclass(frozen=True)
class Shown:
    """An image of the collection in an answer."""

    relation: str
    rank: int
    image_id: str
    distance: float
    verdict: str | None
    """``yes``, ``near`` or ``no``: whether it is the same picture again; None where nothing says it."""
    uri: str
    width: int | None
    height: int | None
    caption: Caption


@dataclass(frozen=True)
class Answer:
    question: Question
    similar: tuple[Shown, ...]
    dissimilar: tuple[Shown, ...]
    fingerprint: Fingerprint
    metric: str
    vectors: int
    """How many the picture was compared with."""
    exact: bool
    vector: str | None
    """``published`` if the collection has the picture's vector, ``embedded`` if it was computed for this answer,
    ``given`` if it was asked for by a vector.
    """
    seconds: float
    version: int
    """Of the published state that answered."""
    newer: int | None
    """A newer state, which is being opened."""
    asked: Shown | None
    """The image of the collection that was asked for by its id."""

    @property
    def verdict(self) -> str | None:
        """The best one of its images: whether the picture is in the collection already."""
        return captions.best(shown.verdict for shown in self.similar)


class Opened:
    """One published state, with the texts of its images."""

    def __init__(self, collection: "Collection", names: Sequence[str] = ()):
        """``names``: the fingerprints that may be asked for; none: all. Raises ``WrongInput`` for one that is not
        published.
        """
        self.collection = collection
        rows = {row["fingerprint"]: row for row in collection.fingerprints().to_pylist()}
        for name in names:
            if name not in rows:
                raise WrongInput(
                    f"--fingerprint {name} is not published in {collection.uri}; there are {listed(rows)}"
                    f"{did_you_mean(name, rows)}"
                )
        if not rows:
            raise WrongInput(f"{collection.uri}: no fingerprint is published yet: run embed_images first")
        self.fingerprints = {name: _fingerprint(rows[name]) for name in names or rows}
        images = collection.images()
        self._images = images.select([name for name in _ABOUT_IMAGES if name in images.column_names])

    @property
    def images(self) -> int:
        return int(self._images.num_rows)

    @property
    def first_id(self) -> str | None:
        return str(self._images["image_id"][0].as_py()) if self._images.num_rows else None

    def rows_of(self, image_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """image_id -> what is known of it, for those of ``image_ids`` that are in the collection."""
        column = self._images["image_id"]
        wanted = pa.array(list(image_ids), column.type)
        return {row["image_id"]: row for row in self._images.filter(pc.is_in(column, wanted)).to_pylist()}

    def original(self, image_id: str) -> Original:
        """Raises `Refused` if there is no such image."""
        row = self.row(image_id)
        return Original.of(row["uri"], row.get("content_sha256"))

    def row(self, image_id: str) -> dict[str, Any]:
        """Raises `Refused` if there is no such image."""
        rows = self.rows_of([image_id])
        if not rows:
            raise Refused(404, f"no image of the collection has the id {captions.short(captions.clean(image_id))!r}")
        return rows[image_id]


def _fingerprint(row: Mapping[str, Any]) -> Fingerprint:
    network = " ".join(filter(None, (row.get("network"), row.get("layer")))) or str(row.get("kind") or "")
    return Fingerprint(row["fingerprint"], network if network != row["fingerprint"] else "", row.get("trained"))


class Asking:
    """Can be called from any thread. Jobs may publish meanwhile: the newest state answers, as soon as it is opened."""

    def __init__(self, collection: "Collection", names: Sequence[str], max_bytes: int):
        """Raises as `Opened` does. ``max_bytes``: of a picture at an address."""
        self.opened, self._names = Opened(collection, names), tuple(names)
        self.newer: int | None = None
        """The version of a newer state that is being opened, or that could not be opened: see ``trouble``."""
        self.trouble: str | None = None
        """Why the newest state does not answer."""
        self._max_bytes = max_bytes
        self._http = HttpSettings(total_seconds=30, connect_seconds=5, read_seconds=10, retries=0)
        self._looked, self._lock = time.monotonic(), threading.Lock()

    # -- the newest state ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Opens a newer state in the background, if there is one. Reads the pointer at most every `LOOK_SECONDS`."""
        with self._lock:
            if time.monotonic() < self._looked + LOOK_SECONDS:
                return
            self._looked = float("inf")  # until this look has ended
        threading.Thread(target=self._renew, name="newest state", daemon=True).start()

    def _renew(self) -> None:
        try:
            newest = self.opened.collection.refresh()
            if newest.version != self.opened.collection.version:
                self.newer = newest.version
                opened = Opened(newest, self._names)
                warm(opened)
                self.opened = opened
            self.newer = self.trouble = None
        except Exception as error:  # the state that is open goes on answering
            trouble = f"the newest state could not be opened: {_line(error)}"
            if trouble != self.trouble:
                reporting.current().tell("error", f"serve: {trouble}")
            self.trouble = trouble
        finally:
            self._looked = time.monotonic()

    # -- questions -----------------------------------------------------------------------------------------------------

    def fetched(self, address: str) -> bytes:
        """The bytes at an http(s) address on the public internet. Raises `Refused`."""
        try:
            return fetch.fetch(address, self._max_bytes, self._http, self._http.read_seconds)
        except Unreadable as error:
            raise unreadable(error, "the address") from None

    def answer(self, question: Question) -> Answer:
        """The answer to a question with a picture's bytes, a vector, or an image_id. Raises `Refused`."""
        opened, started = self.opened, time.perf_counter()
        wanted = question.wanted
        name = wanted.fingerprint or next(iter(opened.fingerprints))
        if name not in opened.fingerprints:
            raise Refused(
                400,
                f"no such fingerprint: {name[:60]!r}; there are {listed(opened.fingerprints)}"
                f"{did_you_mean(name[:60], opened.fingerprints)}",
            )
        asked = None
        if question.image_id is not None:
            asked = _shown(opened.row(question.image_id))
        query: Any = question.content if question.vector is None else question.vector
        try:
            found = opened.collection.search(
                query,
                wanted.k,
                image_id=question.image_id,
                fingerprint=name,
                metric=wanted.metric,
                dissimilar=wanted.dissimilar,
            )
        except JobFailed as error:
            raise _refused(error) from None
        facts = {key.decode(): value.decode() for key, value in (found.schema.metadata or {}).items()}
        shown = [_shown(row) for row in found.to_pylist()]
        return Answer(
            question,
            tuple(each for each in shown if each.relation == SIMILAR),
            tuple(each for each in shown if each.relation == DISSIMILAR),
            opened.fingerprints[name],
            facts.get("metric", ""),
            int(facts.get("vectors", 0)),
            facts.get("exact", "true").lower() == "true",
            facts.get("query_vector"),
            time.perf_counter() - started,
            opened.collection.version,
            self.newer,
            asked,
        )


def unreadable(error: Unreadable, what: str = "the picture") -> Refused:
    """The refusal of a picture that cannot be used, with its reason for programs."""
    detail = error.detail.partition(": http.")[0]  # a setting, which a question cannot change
    status = 413 if error.reason == "too_many_bytes" else 422
    words = f"{originals.words(error)}{f' ({detail})' if detail else ''}"
    return Refused(status, f"{what} cannot be used: {words}", error.reason)


def _refused(error: JobFailed) -> Refused:
    """The refusal for an error of `Collection.search`: of a picture, with its reason."""
    reason = error.fields.get("reason")
    if reason is not None:
        return unreadable(Unreadable(reason, error.fields.get("detail") or ""))
    return Refused(400 if isinstance(error, WrongInput) else 503, str(error))


def warm(opened: Opened) -> None:
    """Reads the vectors that are asked for first, so that no question waits for them."""
    if opened.first_id is not None:
        try:
            opened.collection.search(image_id=opened.first_id, k=1, fingerprint=next(iter(opened.fingerprints)))
        except WrongInput:
            pass  # that image has no vector; those of others were read


def warm_up(opened: Opened) -> None:
    """As `warm`, and loads the network by which pictures are asked for first. Raises as `Collection.search` does."""
    from PIL import Image

    warm(opened)
    content = io.BytesIO()
    Image.effect_noise((64, 64), 64).convert("RGB").save(content, "PNG")  # in no collection, and not of one colour
    opened.collection.search(content.getvalue(), k=1, fingerprint=next(iter(opened.fingerprints)))


def _shown(row: Mapping[str, Any]) -> Shown:
    """A row of an answer, or of the collection's images."""
    attributes = dict(row["attributes"] or ())
    return Shown(
        row.get("relation", SIMILAR),
        row.get("rank", 0),
        row["image_id"],
        row.get("distance", 0.0),
        row.get("verdict"),
        row["uri"] or "",
        row["width"],
        row["height"],
        captions.of_image(row["image_id"], attributes, _TITLES.title_attributes, _TITLES.subtitle_attributes),
    )


def _line(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, JobFailed) else f"{type(error).__name__}: {text}"
