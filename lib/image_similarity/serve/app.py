"""The application: what is asked at which address."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from anyio import to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from image_similarity import reporting
from image_similarity.errors import Unreadable, WrongInput
from image_similarity.imaging.thumbnails import Thumbnails
from image_similarity.pages import originals, paths, site
from image_similarity.serve import pages, questions, uploads
from image_similarity.serve.asking import Answer, Asking, Fingerprint, Opened
from image_similarity.serve.guard import PUBLIC, Guard
from image_similarity.serve.pictures import SIZES, Pictures
from image_similarity.serve.places import Places
from image_similarity.serve.questions import Question
from image_similarity.serve.refusals import Refused
from image_similarity.settings.sections import EmbeddingsSettings, HttpSettings
from image_similarity.storage import uris
from image_similarity.storage.filesystems import files_of

if TYPE_CHECKING:
    from image_similarity.collection import Collection

MAX_BYTES = 64 << 20
"""Of a picture that is sent, unless another number is given."""
AT_WORK, WAITING = 2, 6
"""Questions: one is embedded while another is decoded or fetched. Each may hold a file of `MAX_BYTES`."""
_PICTURES_WAITING = 1000
_GALLERY = "/gallery"
_IN_JSON = ("/similar", "/state", "/picture")
_A_WHILE = "private, max-age=600"

T = TypeVar("T")


def application(
    collection: "Collection",
    gallery: str | None,
    token: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8777,
    fingerprints: Sequence[str] = (),
    max_bytes: int | None = None,
    verbose: bool = False,
) -> Starlette:
    """The application that answers for ``collection``. Its ``state.desk`` is closed when it is not needed any more.

    ``gallery``: a folder or an http(s) address, if there is one. ``token``: what clients must know. ``host``, ``port``:
    what the server is bound to. ``fingerprints``: those that may be asked for, the default first; none: all.
    ``max_bytes``: of a picture that is sent; None: `MAX_BYTES`. No more than the collection's own limit in any case.
    ``verbose``: faults of this program are told with their traceback. Raises ``WrongInput``.
    """
    desk = Desk(collection, gallery, fingerprints, max_bytes)
    routes: list[Route | Mount] = [
        Route("/", desk.ask, methods=["GET"]),
        Route("/", desk.ask_by_form, methods=["POST"]),
        Route("/similar", desk.similar_to_image, methods=["GET"]),
        Route("/similar", desk.similar, methods=["POST"]),
        Route("/picture", desk.picture, methods=["GET"]),
        Route("/state", desk.state, methods=["GET"]),
        Route("/api", desk.api, methods=["GET"]),
        Route(PUBLIC + "{name}", _static, methods=["GET"]),
    ]
    if desk.gallery.folder is not None:
        routes.append(Mount(_GALLERY, StaticFiles(directory=desk.gallery.folder)))
    guarded = Middleware(
        Guard, token=token, host=host, port=port, refusal=refusal, failed=lambda error: _tell(error, verbose)
    )
    handlers: Mapping[Any, Any] = {
        Refused: lambda request, refused: refusal(request.scope, refused),
        HTTPException: lambda request, error: refusal(request.scope, _as_refused(error)),
    }
    application = Starlette(routes=routes, middleware=[guarded], exception_handlers=handlers)
    application.state.desk = desk
    return application


# -- the gallery -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gallery:
    """Where the pages of images are. Both are None without a gallery."""

    folder: Path | None = None
    """On this machine."""
    address: str | None = None
    """For a browser."""

    def has_page(self, image_id: str) -> bool:
        """Whether an image has a page. Of a gallery elsewhere it is taken to have one."""
        if self.folder is None:
            return self.address is not None
        return (self.folder / paths.image_path(paths.page_name(image_id))).is_file()


def gallery_at(place: str | None) -> Gallery:
    """Raises ``WrongInput`` if there is none."""
    if place is None:
        return Gallery()
    if uris.scheme_of(place) in ("http", "https"):
        return Gallery(None, place.rstrip("/").removesuffix("/index.html"))
    if not uris.is_local(place):
        raise WrongInput(f"--gallery {place}: give a folder of this machine, or the http(s) address of the gallery")
    folder = uris.absolute(place)
    if site.kind_at(files_of(folder), folder) != "gallery":
        raise WrongInput(f"--gallery {place}: there is no gallery; render_gallery makes one")
    return Gallery(Path(folder), _GALLERY)


# -- what is at the addresses ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class About:
    """What every page shows."""

    name: str
    gallery: Gallery
    fingerprints: tuple[Fingerprint, ...]
    max_bytes: int
    trouble: str | None


class Desk:
    """Takes requests, puts questions, and hands out answers. Work is done in threads."""

    def __init__(
        self, collection: "Collection", gallery: str | None, fingerprints: Sequence[str], max_bytes: int | None
    ):
        self.gallery, opened = gallery_at(gallery), Opened(collection, fingerprints)
        limits = widest([collection.limits(name) for name in opened.fingerprints])
        self.max_bytes = min(max_bytes or MAX_BYTES, limits.max_bytes)
        """Larger pictures are refused. What is larger than the collection's own limit has no vector anyway."""
        self.asking = Asking(opened, fingerprints, self.max_bytes)
        self.pictures = Pictures(self.gallery.folder, limits, HttpSettings(total_seconds=30, retries=0))
        self._name = collection.uri.rstrip("/").rpartition("/")[2] or collection.uri
        self._places, self._picture_places = Places(AT_WORK, WAITING), Places(2, _PICTURES_WAITING)

    def close(self) -> None:
        self.asking.close()
        self.pictures.close()

    # -- pages --

    async def ask(self, request: Request) -> Response:
        """The page; with ``id``, what looks like that image of the collection."""
        question = Question()
        try:
            fields = questions.from_fields(request.query_params.multi_items(), ("id",))
            question = Question(questions.wanted(fields, questions.LABELS), image_id=fields.get("id"))
            if question.image_id is None:
                return self._page(question)
            async with self._places.admitted():
                return self._page(question, *await self._answered(request, question))
        except Refused as refused:
            return self._page(question, refused=refused)

    async def ask_by_form(self, request: Request) -> Response:
        """The answer to the form of the page: to a file, else an address or an id, else the image asked for before."""
        question = Question()
        try:
            async with self._places.admitted():
                form = await uploads.form(request, self.max_bytes)
                fields = questions.from_fields(form.fields, ("again", "address"))
                question = Question(questions.wanted(fields, questions.LABELS))
                typed = fields.get("address", "").strip()
                if form.picture:
                    question = replace(question, content=form.picture)
                elif typed:
                    question = questions.typed(typed, question.wanted)
                elif "again" in fields:  # quoted: a form may change line ends
                    return RedirectResponse(pages.address_of(unquote(fields["again"]), question.wanted), 303)
                else:
                    raise Refused(400, "nothing to look for: choose a picture, or give its address or id")
                return self._page(question, *await self._answered(request, question))
        except Refused as refused:
            if question.image_id is not None and refused.status == 404:
                refused = Refused(404, f"{refused}; an address begins with http:// or https://")
            return self._page(question, refused=refused)

    def _page(
        self,
        question: Question,
        answer: Answer | None = None,
        picture: Thumbnails | None = None,
        refused: Refused | None = None,
    ) -> Response:
        shown = pages.embedded(picture) if picture is not None else None
        if answer is not None and answer.asked is not None:
            asked = answer.asked
            shown = pages.linked(asked, answer.state)
        html = pages.page(
            "ask.html",
            site=self._about(),
            here="/",
            wanted=question.wanted,
            address=question.address or "",
            asked_id=question.image_id,
            answer=answer,
            picture=shown,
            error=str(refused).rstrip(".") if refused is not None else None,
        )
        status, headers = (200, {}) if refused is None else (refused.status, refused.headers)
        return HTMLResponse(html, status, headers)

    async def api(self, request: Request) -> Response:
        origin = f"http://{request.headers['host']}"
        return HTMLResponse(pages.page("api.html", site=self._about(), here="/api", origin=origin))

    def _about(self) -> About:
        opened = self.asking.opened
        fingerprints = tuple(opened.fingerprints.values())
        return About(self._name, self.gallery, fingerprints, self.max_bytes, self.asking.trouble)

    # -- for programs --

    async def similar_to_image(self, request: Request) -> Response:
        fields = questions.from_fields(request.query_params.multi_items(), ("id",))
        if "id" not in fields:
            raise Refused(400, "give an id of an image, or POST a picture")
        async with self._places.admitted():
            answer, _ = await self._answered(request, Question(questions.wanted(fields), image_id=fields["id"]))
        return self._json(answer)

    async def similar(self, request: Request) -> Response:
        fields = questions.from_fields(request.query_params.multi_items())
        wanted = questions.wanted(fields)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            raise Refused(415, "send the file itself as the body: curl --data-binary @FILE")
        async with self._places.admitted():
            if kind == "application/json":
                question = questions.from_json(await uploads.body(request, questions.JSON_BYTES), fields)
            else:
                content = await uploads.body(request, self.max_bytes)
                if not content:
                    raise Refused(400, "the body is empty: send a picture, or JSON with an address or a vector")
                question = Question(wanted, content=content)
            answer, _ = await self._answered(request, question)
        return self._json(answer)

    def _json(self, answer: Answer) -> Response:
        return JSONResponse(
            {
                "similar": [pages.in_json(shown, self.gallery) for shown in answer.similar],
                "dissimilar": [pages.in_json(shown, self.gallery) for shown in answer.dissimilar],
                "verdict": answer.verdict,
                "fingerprint": answer.fingerprint.name,
                "metric": answer.metric,
                "vectors": answer.vectors,
                "exact": answer.exact,
                "trained": answer.fingerprint.trained,
                "vector": answer.vector,
                "seconds": round(answer.seconds, 4),
                "version": answer.version,
                "state": answer.state,
                "newer": answer.newer,
            }
        )

    async def state(self, request: Request) -> Response:
        """Which published state answers, so that a page can tell whether its answer is old."""
        self.asking.look()
        asking, opened = self.asking, self.asking.opened
        version, state = opened.collection.version, opened.state
        return JSONResponse({"version": version, "state": state, "newer": asking.newer, "trouble": asking.trouble})

    # -- files --

    async def picture(self, request: Request) -> Response:
        fields = dict(request.query_params)
        size = fields.get("size", paths.SMALL)
        if "id" not in fields or size not in SIZES:
            raise Refused(400, "give an id of an image, and size small or large")

        def made() -> bytes:
            return self.pictures.of(self.asking.opened.original(fields["id"]), size)

        try:
            async with self._picture_places.admitted(), self._picture_places.at_work():
                content = await self._in_thread(request, made)
        except Unreadable as error:
            raise Refused(404, f"no picture: {originals.words(error)}", error.reason) from None
        return Response(content, media_type="image/webp", headers={"Cache-Control": _A_WHILE})

    # -- work --

    async def _answered(self, request: Request, question: Question) -> tuple[Answer, Thumbnails | None]:
        """The answer, and small files of a picture that was sent to a page. Raises `Refused`."""
        self.asking.look()
        if question.address is not None:
            content = await self._in_thread(request, lambda: self.asking.fetched(str(question.address)))
            question = replace(question, content=content, address=None)

        def answered() -> tuple[Answer, Thumbnails | None]:
            answer = self.asking.answer(question)
            if request.url.path == "/":
                self.asking.opened.will_show([shown.image_id for shown in (*answer.similar, *answer.dissimilar)])
            is_shown = question.content is not None and request.url.path == "/"
            return answer, self._of_query(question.content or b"") if is_shown else None

        async with self._places.at_work():
            return await self._in_thread(request, answered)

    def _of_query(self, content: bytes) -> Thumbnails | None:
        try:
            return self.pictures.of_query(content)
        except Unreadable:  # the vector is there already, of a file that cannot be decoded within these limits
            return None

    async def _in_thread(self, request: Request, work: Callable[[], T]) -> T:
        if await request.is_disconnected():  # while it was waiting
            raise ClientDisconnect
        return await to_thread.run_sync(work)


def widest(limits: Sequence[EmbeddingsSettings]) -> EmbeddingsSettings:
    """The limits of files and pictures that let through what any of ``limits``, one or more, does."""
    most = {
        name: max(getattr(each, name) for each in limits)
        for name in ("max_bytes", "max_pixels", "decode_bytes", "decode_seconds", "fetch_bytes", "read_seconds")
    }
    return limits[0].model_copy(update=most)


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in pages.STATIC:
        raise Refused(404, "there is no such page")
    return Response(pages.static(name), media_type=pages.STATIC[name], headers={"Cache-Control": "no-cache"})


# -- errors ------------------------------------------------------------------------------------------------------------


def refusal(scope: Scope, refused: Refused) -> Response:
    """One line of JSON for programs, or a page."""
    is_page = "text/html" in Headers(scope=scope).get("accept", "") and scope["path"] not in _IN_JSON
    if not is_page:
        content = {"error": str(refused), "reason": refused.reason}
        return JSONResponse(content, refused.status, refused.headers)
    html = pages.page("refused.html", site=None, status=refused.status, message=str(refused).rstrip("."))
    return HTMLResponse(html, refused.status, refused.headers)


def _as_refused(error: HTTPException) -> Refused:
    words = {404: "there is no such page", 405: "that is not done here"}
    return Refused(error.status_code, words.get(error.status_code, error.detail), headers=error.headers)


def _tell(error: Exception, verbose: bool) -> None:
    lines = "".join(traceback.format_exception(error)).rstrip() if verbose else ""
    message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    reporting.current().tell("error", f"serve: error: {lines or message}")
