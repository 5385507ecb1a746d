"""Where images are: a folder, a glob, or a list; and the files of folders and globs. No image is opened."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa

from image_similarity.errors import WrongInput, near_files
from image_similarity.settings import ManifestSettings
from image_similarity.stages.manifest import lists
from image_similarity.storage import blobs, tables, timeouts, uris
from image_similarity.storage.blobs import FileStatus

FILES = pa.schema(
    [("image_id", pa.string()), ("uri", pa.string()), ("size_bytes", pa.int64()), ("modified_ns", pa.int64())]
)
_SECONDS_TO_LIST = 3600.0
_GLOB = re.compile(r"[*?\[]")


class NoImages(WrongInput):
    """A folder that is there, and has no image in it."""


def kind_of(location: str, read_seconds: float) -> str:
    """``folder``, ``list`` or ``glob``. A path that exists is never taken for a glob.

    Raises ``WrongInput`` if there is nothing at ``location``, or a file of an unknown type, or no answer within
    ``read_seconds``.
    """
    try:
        if timeouts.within(read_seconds, blobs.exists, location):
            if tables.kind_of(location):
                return "list"
            if timeouts.within(read_seconds, blobs.is_folder, location):
                return "folder"
            formats = ", ".join(tables.FORMATS)
            raise WrongInput(
                f"--images {location}: a file of unknown type; give a folder, a glob, or a list ({formats})"
            )
    except (OSError, ValueError) as error:
        raise WrongInput(f"--images {location}: {error}") from None
    if _GLOB.search(location):
        return "glob"
    near = near_files(uris.local_path(location)) if uris.is_local(location) else ""
    raise WrongInput(f"--images {location}: no such folder or file{near}")


def check(location: str, settings: ManifestSettings, read_seconds: float) -> None:
    """Raises ``WrongInput`` for images that `run` would refuse, as far as that is seen at once: no rows are read."""
    kind = kind_of(location, read_seconds)
    if kind == "list":
        if tables.kind_of(location) != "json":  # which is read to its end to know its columns
            lists.open_list(location, settings, read_seconds)
        return
    skipped: Counter[str] = Counter()
    try:
        files = _glob(location) if kind == "glob" else blobs.list_files(location)
        if timeouts.within(_SECONDS_TO_LIST, next, _taken(files, settings.extensions, skipped), None) is None:
            raise _none_found(location, skipped, settings, kind == "glob")
    except (OSError, re.error) as error:
        raise WrongInput(f"--images {location}: cannot be listed: {error}") from None


def _none_found(location: str, skipped: Counter[str], settings: ManifestSettings, is_glob: bool) -> WrongInput:
    skipped_text = f"; skipped: {describe_skipped(skipped)}" if skipped else ""
    message = f"--images {location}: no image found{skipped_text}. Extensions taken: {', '.join(settings.extensions)}"
    return WrongInput(message) if is_glob else NoImages(message)


def find(
    location: str, settings: ManifestSettings, read_seconds: float, is_glob: bool
) -> tuple[pa.Table, Counter[str]]:
    """The image files of a folder or glob as a table of `FILES`, and the counts of skipped files by reason."""
    skipped: Counter[str] = Counter()
    try:
        # A store lists everything in one call.
        seconds = read_seconds if uris.is_local(location) else max(read_seconds, _SECONDS_TO_LIST)
        listed = timeouts.collected(seconds, _glob(location) if is_glob else blobs.list_files(location))
    except (OSError, re.error) as error:
        raise WrongInput(f"--images {location}: cannot be listed: {error}") from None
    files = list(_taken(listed, settings.extensions, skipped))
    if not files:
        raise _none_found(location, skipped, settings, is_glob)
    unique = {file.path: file for file in files}.values()  # a glob with several ** matches a file more than once
    columns = zip(*((file.path, file.uri, file.size_bytes, file.modified_ns) for file in unique))
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, FILES.types)], schema=FILES), skipped


def describe_skipped(skipped: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))


def _taken(files: Iterable[FileStatus], extensions: tuple[str, ...], skipped: Counter[str]) -> Iterator[FileStatus]:
    for file in files:
        name = file.path.rpartition("/")[2]
        extension = os.path.splitext(name)[1][1:].lower()
        if name.startswith("."):
            skipped["hidden"] += 1
        elif "*" not in extensions and extension not in extensions:
            skipped[f".{extension}" if extension else "without extension"] += 1
        elif not _is_text(file.uri):
            skipped["with a name that is not UTF-8"] += 1
        else:
            yield file


def _is_text(name: str) -> bool:
    """Whether a file name can be stored. Python shows undecodable bytes in names as surrogates, which cannot."""
    try:
        name.encode()
        return True
    except UnicodeEncodeError:
        return False


def _glob(pattern: str) -> Iterator[FileStatus]:
    """The files that match ``pattern``, with paths relative to its last literal folder. ``**`` crosses folders."""
    root = _GLOB.split(pattern, maxsplit=1)[0].rpartition("/")[0]
    if uris.is_local(pattern) and "**" not in pattern:  # without a look at what lies deeper
        for path in glob.iglob(pattern):
            file = blobs.status(path)
            if file is not None and not os.path.isdir(path):
                yield replace(file, path=path.removeprefix(root).lstrip("/"))
        return
    matches = re.compile(_glob_expression(pattern.removeprefix(root).lstrip("/")))
    yield from (file for file in blobs.list_files(root or "/") if matches.fullmatch(file.path))


def _glob_expression(pattern: str) -> str:
    """The regular expression of a glob: ``*`` and ``?`` stop at ``/``, ``**/`` does not."""
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    return "".join(
        tokens.get(piece) or (piece.replace("[!", "[^") if piece[:1] == "[" else re.escape(piece)) for piece in pieces
    )
