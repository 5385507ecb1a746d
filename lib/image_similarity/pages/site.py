"""A folder of pages that a job makes again and again: what may be in it, which rendering is shown, what is kept.

There are two kinds of it, ``gallery`` and ``report``, named like the argument that says where it is; a file
``<kind>.json`` marks it. A rendering is a folder of its own. Its front page takes the place of ``index.html`` at the
very end, so that whoever looks sees one rendering or the other. The rendering before stays for those who are reading
it; older ones are removed."""

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
    """The folder as it was when the job began."""

    kind: str
    uri: str
    """A local path, or a URI as Spark takes it."""
    files: Files
    renderings: list[str] = field(default_factory=list)
    """Newest first; the first is the one that is shown."""

    @property
    def index(self) -> str:
        return f"{self.uri}/{INDEX}"

    def folder(self, rendering: str) -> str:
        return f"{self.uri}/{rendering}"

    def check_place(self, images: str, warehouse: str) -> None:
        """Raise ``WrongInput`` if this lies among ``images`` (as build_manifest takes them), for the next run would
        find it there, or in the ``warehouse``, or that in this."""
        is_glob = re.search(r"[*?\[]", images) and not (uris.is_local(images) and blobs.exists(images))
        root = re.split(r"[*?\[]", images)[0].rpartition("/")[0] if is_glob else images
        if root and _is_within(self.uri, root):
            raise WrongInput(
                f"--{self.kind} {self.uri} is in the folder of the images, {images}: name a folder outside it"
            )
        if _is_within(self.uri, warehouse) or _is_within(warehouse, self.uri):
            raise WrongInput(f"--{self.kind} {self.uri} and --warehouse {warehouse}: neither may be in the other")

    def begin(self) -> None:
        """Mark the folder as one of its kind. Raises ``WrongInput`` if it cannot be written."""
        try:
            with self.locked():
                if _read_marker(self.files, self.uri, self.kind) is None:
                    self._mark([])
        except OSError as error:
            raise WrongInput(f"--{self.kind} {self.uri}: cannot be written: {error}") from None

    def locked(self) -> AbstractContextManager[None]:
        """No other job opens this folder, publishes in it or tidies it up meanwhile."""
        lock: AbstractContextManager[None] = self.files.locked(f"{self.uri}/{LOCK}")
        return lock

    def publish(self, rendering: str, index_html: str) -> list[str]:
        """Show ``rendering``; the renderings that are kept. Raises ``JobFailed`` if another one was published
        meanwhile.

        To be called when `locked`. If it fails half-way, the front page is the old one or the new one, and both have
        their pages."""
        if _read_marker(self.files, self.uri, self.kind) != self.renderings:
            self.files.delete(self.folder(rendering))
            raise JobFailed(f"another job rendered {self.uri} while this one ran; its pages stay: run this one again")
        kept = [rendering, *self.renderings][:RENDERINGS_KEPT]
        self.files.write(self.index, index_html.encode())
        self._mark(kept)
        return kept

    def remove_others(self, kept: list[str]) -> None:
        """Remove the renderings that are not ``kept``: older ones, and those of jobs that died."""
        for name in self.files.entries(self.uri):
            if _RENDERING.fullmatch(name) and name not in kept:
                self.files.delete(self.folder(name))

    def _mark(self, renderings: list[str]) -> None:
        content = {"kind": _kind_in_marker(self.kind), "renderings": renderings}
        self.files.write(f"{self.uri}/{self.kind}.json", json.dumps(content, indent=1).encode())


def open_site(spark: SparkSession, kind: str, folder: str) -> Site:
    """What is at ``folder``, or a new one there. Raises ``WrongInput`` if something else is in that place."""
    try:
        uri = uris.absolute(folder) if uris.is_local(folder) else uris.for_spark(folder.rstrip("/"))
        files = files_of(uri, spark)
        names = [name for name in files.entries(uri) if name != LOCK]
        renderings = _read_marker(files, uri, kind)
        if renderings is not None:
            with files.locked(f"{uri}/{LOCK}"):  # pictures that seem to be there may be about to be removed
                renderings = _read_marker(files, uri, kind)
    except NotADirectoryError:
        raise WrongInput(f"--{kind} {folder}: is a file; name a folder") from None
    except (OSError, ValueError) as error:
        raise WrongInput(f"--{kind} {folder}: {error}") from None
    if renderings is None and names:
        some = ", ".join(repr(name) for name in sorted(names)[:NAMES_SHOWN]) + (
            ", ..." if len(names) > NAMES_SHOWN else ""
        )
        raise WrongInput(f"--{kind} {folder}: the folder has other content ({some}); name a new or an empty folder")
    return Site(kind, uri, files, renderings or [])


def _read_marker(files: Files, uri: str, kind: str) -> list[str] | None:
    """The renderings that the marker names; None where there is no marker of ours."""
    content = files.read(f"{uri}/{kind}.json")
    if content is None:
        return None
    try:
        marker = json.loads(content)
        return [str(name) for name in marker["renderings"]] if marker["kind"] == _kind_in_marker(kind) else None
    except (ValueError, KeyError, TypeError):
        return None  # somebody else's file of that name


def _kind_in_marker(kind: str) -> str:
    return f"image-similarity {kind}"


def _is_within(place: str, folder: str) -> bool:
    """Whether ``place`` is ``folder`` or lies below it, links followed."""
    paths = [uris.for_spark(uris.absolute(uri)).rstrip("/") for uri in (place, folder)]
    inner, outer = (
        os.path.realpath(path.removeprefix("file://")) if path.startswith("file://") else path for path in paths
    )
    return f"{inner}/".startswith(f"{outer}/")
