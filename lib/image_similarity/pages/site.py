"""Sites: folders of pages that a job renders again and again. A site checks its folder and publishes renderings.

There are two kinds of site, ``gallery`` and ``report``, named like the argument that gives their folder. A file
``<kind>.json`` marks the folder. Each rendering is a folder of its own. Its front page replaces ``index.html`` at the
very end, so visitors see either the old rendering or the new one. The previous rendering stays for its readers; older
ones are removed.
"""

import json
import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from pyspark.sql import SparkSession

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.storage import blobs, uris
from image_similarity.storage.files import Files
from image_similarity.storage.filesystems import files_of

INDEX = "index.html"
LOCK = ".lock"
RENDERINGS_KEPT = 2
NAMES_SHOWN = 3

_RENDERING = re.compile(r"r\d{8}T\d{6}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Site:
    """The folder of a site, as it was when the job began."""

    kind: str
    uri: str
    """A local path, or a URI as Spark takes it."""
    files: Files
    renderings: list[str] = field(default_factory=list)
    """The renderings, newest first. The first one is published."""

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
                    self._mark([])
        except OSError as error:
            raise WrongInput(f"--{self.kind} {self.uri}: cannot be written: {error}") from None

    def locked(self) -> AbstractContextManager[None]:
        """A lock. While it is held, no other job opens the folder, publishes in it, or removes renderings."""
        lock: AbstractContextManager[None] = self.files.locked(f"{self.uri}/{LOCK}")
        return lock

    def publish(self, rendering: str, index_html: str) -> list[str]:
        """Publishes ``rendering``, and returns the renderings to keep.

        Call it while `locked`. Raises ``JobFailed`` if another rendering was published since the job began. If it fails
        half-way, the front page is the old one or the new one, and both have their pages.
        """
        if _read_marker(self.files, self.uri, self.kind) != self.renderings:
            self.files.delete(self.folder(rendering))
            raise JobFailed(f"another job rendered {self.uri} while this one ran; its pages stay: run this one again")
        kept = [rendering, *self.renderings][:RENDERINGS_KEPT]
        self.files.write(self.index, index_html.encode())
        self._mark(kept)
        return kept

    def remove_others(self, kept: list[str]) -> None:
        """Removes the renderings that are not in ``kept``: older ones, and those of jobs that died."""
        for name in self.files.entries(self.uri):
            if _RENDERING.fullmatch(name) and name not in kept:
                self.files.delete(self.folder(name))

    def _mark(self, renderings: list[str]) -> None:
        content = {"kind": _kind_in_marker(self.kind), "renderings": renderings}
        self.files.write(f"{self.uri}/{self.kind}.json", json.dumps(content, indent=1).encode())


def open_site(spark: SparkSession | None, kind: str, folder: str) -> Site:
    """The site at ``folder``, or a new one. Raises ``WrongInput`` if the folder has other content, or is a file.

    ``spark`` may be None for places that need no session.
    """
    try:
        uri = uris.absolute(folder) if uris.is_local(folder) else uris.for_spark(folder.rstrip("/"))
        files = files_of(uri, spark)
        names = [name for name in files.entries(uri) if name != LOCK]
        renderings = _read_marker(files, uri, kind)
        if renderings is not None:
            with files.locked(f"{uri}/{LOCK}"):  # otherwise another job could be removing pictures that seem to exist
                renderings = _read_marker(files, uri, kind)
    except NotADirectoryError:
        raise WrongInput(f"--{kind} {folder}: is a file; name a folder") from None
    except (OSError, ValueError) as error:
        raise WrongInput(f"--{kind} {folder}: {error}") from None
    if renderings is None and names:
        content = ", ".join(repr(name) for name in sorted(names)[:NAMES_SHOWN]) + (
            ", ..." if len(names) > NAMES_SHOWN else ""
        )
        raise WrongInput(f"--{kind} {folder}: the folder has other content ({content}); name a new or an empty folder")
    return Site(kind, uri, files, renderings or [])


def _read_marker(files: Files, uri: str, kind: str) -> list[str] | None:
    """The renderings that the marker file names; None if there is no marker of this project."""
    content = files.read(f"{uri}/{kind}.json")
    if content is None:
        return None
    try:
        marker = json.loads(content)
        return [str(name) for name in marker["renderings"]] if marker["kind"] == _kind_in_marker(kind) else None
    except (ValueError, KeyError, TypeError):
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
