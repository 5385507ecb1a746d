"""Questions are put to the newest published state: what is asked -> rows with all that a page or a program is shown."""

import io
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from image_similarity import reporting
from image_similarity.errors import JobFailed, Unreadable, WrongInput, did_you_mean, listed
from image_similarity.pages import captions, originals
from image_similarity.pages.captions import Caption
from image_similarity.pages.originals import Original
from image_similarity.serve.questions import Question
from image_similarity.serve.refusals import Refused
from image_similarity.settings.sections import GallerySettings, HttpSettings
from image_similarity.storage import fetch
from image_similarity.warehouse.defaults import DEFAULT_FINGERPRINT, default_of
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

if TYPE_CHECKING:
    from image_similarity.collection import Collection

LOOK_SECONDS = 5.0
"""The pointer of the warehouse is read at most that often."""
MOST_KNOWN = 10_000
"""Images whose places are kept in memory."""
_TITLES = GallerySettings()


@dataclass(frozen=True)
class Fingerprint:
    """One that may be asked for."""

    name: str
    about: str
    """Its network and layer, or its kind, for people."""
    trained: bool | None
    images: int
    """How many have a vector."""


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
    tag: str | None = None
    """What is in the picture; None where nothing is accepted, or no tags are published."""


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
    state: str
    """That state: another word than that of any other. Versions begin anew where a warehouse is made again."""
    newer: int | None
    """A newer state, which is being opened."""
    asked: Shown | None
    """The image of the collection that was asked for by its id."""

    @property
    def verdict(self) -> str | None:
        """The best one of its images: whether the picture is in the collection already."""
        return captions.best(shown.verdict for shown in self.similar)


class Opened:
    """One published state. Can be used from any thread."""

    def __init__(self, collection: "Collection", names: Sequence[str] = (), usual: str | None = None):
        """``names``: the fingerprints that may be asked for, the usual one first; none: all. ``usual``: the one that
        was meant until now where none is named. Raises ``WrongInput`` for one of ``names`` that is not published.
        """
        self.collection, self.state = collection, secrets.token_hex(8)
        self._known: OrderedDict[str, Original | None] = OrderedDict()
        self._lock = threading.Lock()
        rows = {row["fingerprint"]: row for row in collection.fingerprints().to_pylist()}
        for name in names:
            if name not in rows:
                raise WrongInput(
                    f"--fingerprint {name} is not published in {collection.uri}; there are {listed(rows)}"
                    f"{did_you_mean(name, rows)}"
                )
        if not rows:
            raise WrongInput(f"{collection.uri}: no fingerprint is published yet: run embed_images first")
        self.usual = names[0] if names else usual if usual in rows else default_of(rows, DEFAULT_FINGERPRINT)
        """The fingerprint that is meant where none is named; None: it has to be named."""
        order = names or sorted(rows, key=lambda name: name != self.usual)
        self.fingerprints = {name: _fingerprint(rows[name]) for name in order}

    @property
    def first(self) -> Fingerprint:
        """The one that a page offers first."""
        return next(iter(self.fingerprints.values()))

    def chosen(self, name: str | None) -> str:
        """``name``, or the usual fingerprint. Raises `Refused` if it cannot be asked for, or if none is usual."""
        published = listed(self.fingerprints)
        if name is None and self.usual is None:
            raise Refused(400, f"which fingerprint? Several are published: name one of {published}")
        chosen = name or str(self.usual)
        if chosen not in self.fingerprints:
            near = did_you_mean(chosen[:60], self.fingerprints)
            raise Refused(400, f"no such fingerprint: {chosen[:60]!r}; there are {published}{near}")
        return chosen

    def will_show(self, image_ids: Sequence[str]) -> None:
        """Their pictures are asked for next, one by one, and are then looked up together."""
        with self._lock:
            self._keep({image_id: self._known.get(image_id) for image_id in image_ids})

    def original(self, image_id: str) -> Original:
        """Raises `Refused` if there is no such image."""
        with self._lock:  # others wait for what is looked up for them, too
            original = self._known.get(image_id)
            if original is None:
                wanted = [name for name, known in self._known.items() if known is None]
                rows = self._looked_up({image_id, *wanted})
                for name in wanted:
                    del self._known[name]
                self._keep({name: Original.of(row["uri"], row["content_sha256"]) for name, row in rows.items()})
                original = self._known.get(image_id)
        if original is None:
            raise no_image(image_id)
        return original

    def row(self, image_id: str) -> dict[str, Any] | None:
        """What the manifest says of an image; None if it is not in the manifest. Raises `Refused`."""
        return self._looked_up([image_id]).get(image_id)

    def _looked_up(self, image_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        try:
            return self.collection.look_up(image_ids)
        except JobFailed as error:
            raise _refused(error) from None

    def _keep(self, known: "Mapping[str, Original | None]") -> None:
        for name, original in known.items():
            self._known[name] = original
            self._known.move_to_end(name)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)


def no_image(image_id: str) -> Refused:
    return Refused(404, f"no image of the collection has the id {captions.short(captions.clean(image_id))!r}")


def _fingerprint(row: Mapping[str, Any]) -> Fingerprint:
    network = " ".join(filter(None, (row.get("network"), row.get("layer")))) or str(row.get("kind") or "")
    about = network if network != row["fingerprint"] else ""
    return Fingerprint(row["fingerprint"], about, row.get("trained"), row.get("images") or 0)


class Asking:
    """Can be called from any thread. Jobs may publish meanwhile: the newest state answers, as soon as it is opened."""

    def __init__(self, opened: Opened, names: Sequence[str], max_bytes: int):
        """``names``: as of `Opened`, of newer states, too. ``max_bytes``: of a picture at an address."""
        self.opened, self._names = opened, tuple(names)
        self.newer: int | None = None
        """The version of a newer state that is being opened, or that could not be opened: see ``trouble``."""
        self.trouble: str | None = None
        """Why the newest state does not answer."""
        self._max_bytes = max_bytes
        self._http = HttpSettings(total_seconds=30, connect_seconds=5, read_seconds=10, retries=0)
        self._looked, self._lock = time.monotonic(), threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Nothing is told from now on: what is at work in the background fails when the process ends."""
        self._is_closed = True

    def tell(self, message: str) -> None:
        if not self._is_closed:
            reporting.current().tell("error", f"serve: {message}")

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
            if newest is not self.opened.collection:  # it may have the same version, where a warehouse was made again
                self.newer = newest.version
                opened = Opened(newest, self._names, self.opened.usual)
                self._warm(opened)
                self.opened = opened
            self.newer = self.trouble = None
        except Exception as error:  # the state that is open goes on answering
            trouble = f"the newest state could not be opened: {_line(error)}"
            if trouble != self.trouble:
                self.tell(trouble)
            self.trouble = trouble
        finally:
            self._looked = time.monotonic()

    def _warm(self, opened: Opened) -> None:
        """What fails for one question need not fail for others, so the newest state answers nevertheless."""
        try:
            warm(opened)
        except JobFailed as error:
            self.tell(f"the newest state was opened, but does not answer: {_line(error)}")

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
        name = opened.chosen(wanted.fingerprint)
        row = None if question.image_id is None else opened.row(question.image_id)
        query: Any = question.content if question.vector is None else question.vector
        try:
            answers = opened.collection.search(
                query,
                wanted.k,
                image_id=question.image_id,
                fingerprint=name,
                metric=wanted.metric,
                dissimilar=wanted.dissimilar,
            )
        except JobFailed as error:
            if question.image_id is not None and row is None and isinstance(error, WrongInput):
                raise no_image(question.image_id) from None
            raise _refused(error) from None
        facts = {key.decode(): value.decode() for key, value in (answers.schema.metadata or {}).items()}
        shown = [_shown(row) for row in answers.to_pylist()]
        asked = None if question.image_id is None else _asked(question.image_id, row, facts)
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
            opened.state,
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
    if error.fields.get("outdated"):
        return Refused(503, "files of the published state were removed meanwhile: ask again when the newest is opened")
    return Refused(400 if isinstance(error, WrongInput) else 503, str(error))


def warm(opened: Opened) -> None:
    """Reads the vectors that are asked for first, so that no question waits for them. Raises as `Collection.search`."""
    ids = opened.collection.store(opened.first.name).ids
    if len(ids):
        try:
            opened.collection.search(image_id=ids[0].as_py(), k=1, fingerprint=opened.first.name)
        except WrongInput:
            pass  # that vector cannot be compared, say; all were read


def warm_up(opened: Opened) -> None:
    """As `warm`, and loads the network by which pictures are asked for first. Raises as `Collection.search` does."""
    from PIL import Image

    warm(opened)
    content = io.BytesIO()
    Image.effect_noise((64, 64), 64).convert("RGB").save(content, "PNG")  # in no collection, and not of one colour
    opened.collection.search(content.getvalue(), k=1, fingerprint=opened.first.name)


def _asked(image_id: str, row: Mapping[str, Any] | None, facts: Mapping[str, str]) -> Shown:
    """The image that was asked for. ``row``: of the manifest, which need not have it. ``facts``: of the answer."""
    sizes = {side: int(facts[f"query_{side}"]) if f"query_{side}" in facts else None for side in ("width", "height")}
    return _shown({**(row or {"image_id": image_id, "uri": None, "attributes": None}), **sizes})


def _shown(row: Mapping[str, Any]) -> Shown:
    """A row of an answer, or the image that was asked for."""
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
        row.get("tag"),
    )


def _line(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, JobFailed) else f"{type(error).__name__}: {text}"
