"""The gallery's folder: what may be in it, which rendering is shown, what is kept.

A rendering is a folder of its own. Its front page takes the place of ``index.html`` at the very end, so that whoever looks sees
one rendering or the other. The rendering before stays for those who are reading it; older ones are removed.
"""

import json
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from pyspark.sql import SparkSession

from image_similarity import storage
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.warehouse_files import Files, files_of

MARKER = "gallery.json"
KIND = "image-similarity gallery"
INDEX = "index.html"
LOCK = ".lock"
RENDERINGS_KEPT = 2
NAMES_SHOWN = 3

_RENDERING = re.compile(r"r\d{8}T\d{6}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Site:
    """A gallery's folder as it was when the job began."""

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

    def begin(self) -> None:
        """Mark the folder as a gallery's. Raises ``WrongInput`` if it cannot be written."""
        try:
            with self.locked():
                if _read_marker(self.files, self.uri) is None:
                    self._mark([])
        except OSError as error:
            raise WrongInput(f"--gallery {self.uri}: cannot be written: {error}") from None

    def locked(self) -> AbstractContextManager[None]:
        """No other job opens this gallery, publishes in it or tidies it up meanwhile."""
        lock: AbstractContextManager[None] = self.files.locked(f"{self.uri}/{LOCK}")
        return lock

    def publish(self, rendering: str, index_html: str) -> list[str]:
        """Show ``rendering``; the renderings that are kept. Raises ``JobFailed`` if another one was published meanwhile.

        To be called when `locked`. If it fails half-way, the front page is the old one or the new one, and both have their pages.
        """
        if _read_marker(self.files, self.uri) != self.renderings:
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
        content = {"kind": KIND, "renderings": renderings}
        self.files.write(f"{self.uri}/{MARKER}", json.dumps(content, indent=1).encode())


def open_site(spark: SparkSession, gallery: str) -> Site:
    """The gallery at ``gallery``, or a new one there. Raises ``WrongInput`` if something else is in that place."""
    try:
        uri = storage.absolute(gallery) if storage.is_local(gallery) else storage.for_spark(gallery.rstrip("/"))
        files = files_of(spark, uri)
        names = [name for name in files.entries(uri) if name != LOCK]
        renderings = _read_marker(files, uri)
        if renderings is not None:
            with files.locked(f"{uri}/{LOCK}"):  # pictures that seem to be there may be about to be removed
                renderings = _read_marker(files, uri)
    except NotADirectoryError:
        raise WrongInput(f"--gallery {gallery}: is a file; name a folder") from None
    except (OSError, ValueError) as error:
        raise WrongInput(f"--gallery {gallery}: {error}") from None
    if renderings is None and names:
        some = ", ".join(repr(name) for name in sorted(names)[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
        raise WrongInput(f"--gallery {gallery}: the folder has other content ({some}); name a new or an empty folder")
    return Site(uri, files, renderings or [])


def _read_marker(files: Files, uri: str) -> list[str] | None:
    """The renderings that the marker names; None where there is no marker of ours."""
    content = files.read(f"{uri}/{MARKER}")
    if content is None:
        return None
    try:
        marker = json.loads(content)
        return [str(name) for name in marker["renderings"]] if marker["kind"] == KIND else None
    except (ValueError, KeyError, TypeError):
        return None  # somebody else's file of that name
