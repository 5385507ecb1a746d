"""Sites: folders of pages that a job renders again and again. A site checks its folder and publishes renderings.

There are two kinds of site, ``gallery`` and ``report``, named like the argument that gives their folder. A file
``<kind>.json`` marks the folder. Each rendering has a folder of its own, for files that no page of another rendering
needs. A rendering is published in three steps, under the site's lock: `Site.claim` names it, `Site.write_index`
replaces the front page, `Site.remove_others` removes what no visitor needs any more. The folder of the previous
rendering stays for its readers.
"""

import json
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.pages import maps
from image_similarity.storage import blobs, uris
from image_similarity.storage.files import Files
from image_similarity.storage.filesystems import files_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

KINDS = ("gallery", "report")
INDEX = "index.html"
LOCK = ".lock"
RENDERINGS_KEPT = 2
NAMES_SHOWN = 3

_RENDERING = re.compile(r"r\d{8}T\d{6}-[0-9a-f]{8}")
_HALF_WRITTEN = re.compile(r"\w+\.(html|json)\.[0-9a-f]{8}\.tmp")
"""Files of a site's folder that a job was writing when it was killed."""


@dataclass(frozen=True)
class Site:
    """The folder of a site, as it was when the job began."""

    kind: str
    uri: str
    """A local path, or a URI as Spark takes it."""
    files: Files
    renderings: list[str] = field(default_factory=list)
    """The renderings whose files a visitor may need, newest first: the last two, those of jobs that died since, and
    the one that the map shows."""
    forwards: list[str] = field(default_factory=list)
    """Folders of earlier renderings whose pages lead on to others. They are never removed."""

    @property
    def index(self) -> str:
        return f"{self.uri}/{INDEX}"

    def folder(self, rendering: str) -> str:
        return f"{self.uri}/{rendering}"

    def check_place(self, images: str, warehouse: str) -> None:
        """Raises ``WrongInput`` if the site and the ``warehouse`` contain one another, or if it lies in ``images``.

        ``images``: as build_manifest takes them. Its next run would find the pages' pictures there.
        """
        is_glob = re.search(r"[*?\[]", images) and not (uris.is_local(images) and blobs.exists(images))
        root = re.split(r"[*?\[]", images)[0].rpartition("/")[0] if is_glob else images
        if root and _is_within(self.uri, root):
            raise WrongInput(
                f"--{self.kind} {self.uri} is in the folder of the images, {images}: name a folder outside it"
            )
        if _is_within(self.uri, warehouse) or _is_within(warehouse, self.uri):
            raise WrongInput(f"--{self.kind} {self.uri} and --warehouse {warehouse}: neither may be in the other")

    def begin(self) -> None:
        """Marks the folder as a site of its kind. Raises ``WrongInput`` if it cannot be written."""
        try:
            with self.locked():
                if _read_marker(self.files, self.uri, self.kind) is None:
                    self._mark([], [])
        except OSError as error:
            raise WrongInput(f"--{self.kind} {self.uri}: cannot be written: {error}") from None

    def locked(self) -> AbstractContextManager[None]:
        """A lock. While it is held, no other job opens the folder, publishes in it, or removes renderings."""
        lock: AbstractContextManager[None] = self.files.locked(f"{self.uri}/{LOCK}")
        return lock

    def claim(self, rendering: str) -> None:
        """Names ``rendering`` as the newest, before anything that visitors see is replaced.

        Call it while `locked`. Raises ``JobFailed`` if another rendering was claimed since the job began.
        """
        marker = _read_marker(self.files, self.uri, self.kind)
        if marker is None or marker.renderings != self.renderings:
            self.files.delete(self.folder(rendering))
            raise JobFailed(f"another job rendered {self.uri} while this one ran; its pages stay: run this one again")
        self._mark([rendering, *self.renderings], self.forwards)

    def write_index(self, html: str) -> None:
        """Replaces the front page."""
        blobs.write(self.index, html.encode(), "text/html; charset=utf-8")

    def newest(self) -> str | None:
        """The rendering that visitors see now; None if there is none."""
        marker = _read_marker(self.files, self.uri, self.kind)
        return marker.renderings[0] if marker and marker.renderings else None

    def kept(self, rendering: str) -> list[str]:
        """The renderings that visitors may still need once ``rendering`` is published: the last two, and the one that
        the map shows.
        """
        kept, shown = [rendering, *self.renderings][:RENDERINGS_KEPT], self.map()
        mapped = shown.rendering if shown else None
        return [*kept, mapped] if mapped and mapped in self.renderings and mapped not in kept else kept

    def map(self) -> maps.Pointer | None:
        """The map that is shown now; None if there is none."""
        return maps.pointer(self.files.read(f"{self.uri}/{maps.POINTER}"))

    def remove_others(self, rendering: str, forwards: Sequence[str] = ()) -> None:
        """Removes renderings that are not needed beside ``rendering``: older ones, and those of jobs that died.

        ``forwards``: folders whose pages lead on to others from now on.
        """
        kept, all_forwards = self.kept(rendering), [*self.forwards, *forwards]
        for name in self.files.entries(self.uri):
            is_old = _RENDERING.fullmatch(name) and name not in (*kept, *all_forwards)
            if is_old or _HALF_WRITTEN.fullmatch(name):
                self.files.delete(self.folder(name))
        self._mark(kept, all_forwards)

    def _mark(self, renderings: list[str], forwards: list[str]) -> None:
        content = {"kind": _kind_in_marker(self.kind), "renderings": renderings, "forwards": forwards}
        self.files.write(f"{self.uri}/{self.kind}.json", json.dumps(content, indent=1).encode())


@dataclass(frozen=True)
class _Marker:
    renderings: list[str]
    forwards: list[str]


def check_rendered(spark: "SparkSession | None", kind: str, folder: str, command: str) -> None:
    """Raises ``WrongInput``, with the ``command`` that renders one, where ``folder`` is no site of this kind.

    ``spark`` may be None for places that need no session.
    """
    try:
        uri, files = _place(folder, spark)
        is_site = _read_marker(files, uri, kind) is not None
    except NotADirectoryError:
        is_site = False
    except (OSError, ValueError) as error:
        raise WrongInput(f"--{kind} {folder}: {error}") from None
    if not is_site:
        raise WrongInput(f"--{kind} {folder}: no {kind} is rendered there: run {command} first")


def _place(folder: str, spark: "SparkSession | None") -> tuple[str, Files]:
    uri = uris.absolute(folder) if uris.is_local(folder) else uris.for_spark(folder.rstrip("/"))
    return uri, files_of(uri, spark)


def open_site(spark: "SparkSession | None", kind: str, folder: str) -> Site:
    """The site at ``folder``, or a new one. Raises ``WrongInput`` if the folder has other content, or is a file.

    ``spark`` may be None for places that need no session.
    """
    try:
        uri, files = _place(folder, spark)
        names = [name for name in files.entries(uri) if not name.startswith(LOCK)]  # and what a killed job left of one
        marker = _read_marker(files, uri, kind)
        if marker is not None:
            with files.locked(f"{uri}/{LOCK}"):  # otherwise another job could be removing pictures that seem to exist
                marker = _read_marker(files, uri, kind)
    except NotADirectoryError:
        raise WrongInput(f"--{kind} {folder}: is a file; name a folder") from None
    except (OSError, ValueError) as error:
        raise WrongInput(f"--{kind} {folder}: {error}") from None
    if marker is None and names:
        content = ", ".join(repr(name) for name in sorted(names)[:NAMES_SHOWN]) + (
            ", ..." if len(names) > NAMES_SHOWN else ""
        )
        raise WrongInput(f"--{kind} {folder}: the folder has other content ({content}); name a new or an empty folder")
    return Site(kind, uri, files, marker.renderings, marker.forwards) if marker else Site(kind, uri, files)


def kind_at(files: Files, uri: str) -> str | None:
    """``gallery`` or ``report`` if the folder ``uri`` is one; else None."""
    return next((kind for kind in KINDS if _read_marker(files, uri, kind) is not None), None)


def _read_marker(files: Files, uri: str, kind: str) -> _Marker | None:
    """What the marker file says; None if there is no marker of this project."""
    content = files.read(f"{uri}/{kind}.json")
    if content is None:
        return None
    try:
        marker = json.loads(content)
        # Earlier versions wrote no forwards.
        renderings, forwards = (
            [str(name) for name in names] for names in (marker["renderings"], marker.get("forwards", []))
        )
        return _Marker(renderings, forwards) if marker["kind"] == _kind_in_marker(kind) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # a file of that name that is not ours


def _kind_in_marker(kind: str) -> str:
    return f"image-similarity {kind}"


def _is_within(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies below it. Symbolic links are followed."""
    paths = [uris.for_spark(uris.absolute(uri)).rstrip("/") for uri in (path, folder)]
    inner, outer = (
        os.path.realpath(path.removeprefix("file://")) if path.startswith("file://") else path for path in paths
    )
    return f"{inner}/".startswith(f"{outer}/")
