"""URIs: schemes, local paths, joining and splitting.

A location without a scheme is a literal path. ``file://`` and ``http(s)://`` are percent-encoded. Keys of object stores
are literal. ``s3a`` is ``s3``. ``file:/`` is ``file:///``: so Java and Spark write paths.
"""

import os
import re
import urllib.parse

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://|^([Ff][Ii][Ll][Ee]):/")


def scheme_of(uri: str) -> str:
    """The scheme in small letters: ``file`` if there is none, ``s3`` for ``s3a`` and ``s3n``, ``gs`` for ``gcs``."""
    match = _SCHEME.match(uri)
    scheme = (match.group(1) or match.group(2)).lower() if match else "file"
    return {"s3a": "s3", "s3n": "s3", "gcs": "gs"}.get(scheme, scheme)


def for_spark(uri: str) -> str:
    """``uri`` (absolute) for the JVM's file systems: ``file://`` with the literal path, ``s3a://`` for ``s3://``.

    Without a scheme Hadoop would use the cluster's default file system instead of this machine's.
    """
    if is_local(uri):
        return f"file://{local_path(uri)}"
    return f"s3a://{uri.partition('://')[2]}" if scheme_of(uri) == "s3" else uri


def for_readers(uri: str) -> str:
    """``uri``, in Spark's form, for programs outside Hadoop: a local path, or ``s3://``."""
    return re.sub("^s3a://", "s3://", re.sub("^file:/+", "/", uri))


def is_local(uri: str) -> bool:
    return scheme_of(uri) == "file"


def local_path(uri: str) -> str:
    """The path of a local ``uri``. ``file://`` is percent-decoded, a bare path is literal."""
    if _SCHEME.match(uri):
        return urllib.parse.unquote(urllib.parse.urlsplit(uri.replace("?", "%3F").replace("#", "%23")).path)
    return uri


def absolute(uri: str, base: str | None = None) -> str:
    """``uri``. A relative local path becomes absolute, below the folder ``base`` (default: the working directory).

    ``file://`` becomes a bare path. ``base`` may be a URI.
    """
    if not is_local(uri):
        return uri
    path = local_path(uri)
    if base is not None and not os.path.isabs(path):
        return join(base, path) if not is_local(base) else os.path.normpath(os.path.join(local_path(base), path))
    return os.path.abspath(os.path.expanduser(path))


def join(base: str, *parts: str) -> str:
    return "/".join([base.rstrip("/"), *parts])


def parent(uri: str) -> str:
    return uri.rpartition("/")[0]


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Of an address in an object store. ``ValueError`` for one with a user and password, which no store takes: messages
    of its client would show them.
    """
    bucket, _, key = uri.partition("://")[2].partition("/")
    if "@" in bucket:
        scheme = scheme_of(uri)
        raise ValueError(f"a {scheme}:// address takes no user and password: give them by the environment or a profile")
    return bucket, key
