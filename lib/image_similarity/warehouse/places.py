"""What is wrong with a place that should be, or become, a warehouse or another folder of this project."""

import os

from image_similarity.errors import did_you_mean, listed, near, near_files, what_is
from image_similarity.storage import disk_space, http_client, uris
from image_similarity.storage.files import Files
from image_similarity.storage.filesystems import OBJECT_STORES
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, RUNNING
from image_similarity.warehouse.workspace import SCRATCH, STATE

_OURS = {*SCHEMAS, SCRATCH, STATE, RUNNING}


def fault_of_folder(uri: str) -> str | None:
    """Why ``uri`` cannot be a folder, be there something or not. Of other places only the address is looked at."""
    if (fault := fault_of_address(uri)) is not None or not uris.is_local(uri):
        return fault
    path = uris.absolute(uri)
    folder = disk_space.existing(path)
    return _fault_of_name(path) if os.path.isdir(folder) else _fault_of_kind(folder)


def fault_of_address(uri: str) -> str | None:
    """Why the address ``uri`` is no place for a folder."""
    if uris.scheme_of(uri) in http_client.SCHEMES:
        return "nothing can be written to a web address; name a folder or a store"
    if uris.scheme_of(uri) in OBJECT_STORES:
        try:
            bucket, _ = uris.bucket_and_key(uri)
        except ValueError as error:
            return str(error)
        return None if bucket else f"names no bucket; write it as {uris.scheme_of(uri)}://BUCKET/FOLDER"
    is_bare = "://" in uri and not uris.is_local(uri) and not uri.partition("://")[2].strip("/")
    return "names no folder" if is_bare else None


def fault_of_missing(uri: str) -> str | None:
    """That the local folder ``uri`` is not there, with near names; None if it is, or is elsewhere.

    Of a relative ``uri`` it says which folder that is from here.
    """
    if not uris.is_local(uri) or os.path.isdir(path := uris.absolute(uri)):
        return None
    where = "" if path == uri.rstrip("/") else f": {path}"
    return f"no such folder{where}{near_files(path)}"


def fault_of_content(folder: str) -> str | None:
    """That the local ``folder``, in which nothing is published, has content that no job has put there."""
    names = sorted(name for name in os.listdir(folder) if name not in _OURS and not name.startswith("."))
    return f"this is no warehouse (there are {listed(names)}){near_warehouses(folder)}" if names else None


def near_warehouses(folder: str) -> str:
    """``; did you mean A or B?`` of the warehouse around ``folder``, else of those in it, else of those beside it; of
    several the near names.
    """
    if os.path.isfile(os.path.join(os.path.dirname(folder), POINTER)):
        return f"; did you mean {os.path.dirname(folder)}?"
    for place in (folder, os.path.dirname(folder)):
        try:
            there = sorted(name for name in os.listdir(place) if os.path.isfile(os.path.join(place, name, POINTER)))
        except OSError:  # others may not list it
            continue
        if there:
            names = near(os.path.basename(folder), there) or there[:1] if len(there) > 1 else there
            return f"; did you mean {' or '.join(os.path.join(place, name) for name in names)}?"
    return ""


def near_in_store(files: Files, uri: str) -> str:
    """``; did you mean a?`` of the names beside ``uri`` in a store; empty if they cannot be listed."""
    folder, name = uris.parent(uri), uri.rpartition("/")[2]
    try:
        return did_you_mean(name, files.entries(folder)) if "://" in folder else ""
    except OSError:
        return ""


def _fault_of_kind(path: str) -> str:
    """What is wrong with ``path``, which is no folder: what it is, or that nobody may look."""
    try:
        return f"{path} is {what_is(path)}; name a folder"
    except OSError as error:
        return f"{path}: {error.strerror}"


def _fault_of_name(path: str) -> str | None:
    """What is wrong with the name ``path``, be there something or not: it is too long, say."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        return error.strerror
    except ValueError as error:  # a null byte
        return str(error)
    return None
