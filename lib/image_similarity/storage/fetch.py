"""The bytes of an image at a URI, or `Unreadable` with the reason. Workers of all stages that open images use it."""

from collections.abc import Iterator
from contextlib import contextmanager

from image_similarity.errors import Unreadable, counted
from image_similarity.storage import blobs, http_client, timeouts, uris
from image_similarity.storage.budget import ByteBudget
from image_similarity.storage.http_connections import HttpOptions

FETCH_REASONS = {
    "not_found": "there is no such file",
    "forbidden": "the file may not be read",
    "timeout": "the server, store or drive did not answer in time (http.total_seconds, embeddings.read_seconds)",
    "io_error": "the file could not be read for another reason",
    "unsupported_scheme": "no file system here serves such a uri",
    "too_many_bytes": "the file is larger than embeddings.max_bytes",
    "incomplete": "the connection broke before the whole file had arrived",
    "rate_limited": "the server asks for patience (429) longer than the settings allow",
    "server_error": "the server could not answer (5xx)",
    "http_error": "the server did not accept the request (another status)",
    "too_many_redirects": "redirects lead in a circle, or on and on",
    "private_address": "the host is not on the public internet (http.private_addresses)",
}


@contextmanager
def fetched(
    uri: str, budget: ByteBudget, max_bytes: int, http: HttpOptions, read_seconds: float, expected: int | None = None
) -> Iterator[bytes]:
    """As `fetch`; ``budget`` holds the bytes to the end of the context. ``expected``: their number, if it is known."""
    with budget.reading(lambda size: fetch(uri, size, http, read_seconds), max_bytes, expected) as content:
        yield content


def fetch(uri: str, max_bytes: int, http: HttpOptions, read_seconds: float) -> bytes:
    """The bytes at ``uri``. Raises `Unreadable` with one of `FETCH_REASONS`, also for more than ``max_bytes`` bytes.

    A read from a drive or store is given up after ``read_seconds``; ``http`` has its own limits.
    """
    if uris.scheme_of(uri) in http_client.SCHEMES:
        content = http_client.get(uri, max_bytes, http).content
        assert content is not None  # a server says "unchanged" only if the request names a version
        return content
    try:
        content = timeouts.one_of_many(read_seconds, blobs.read, uri, max_bytes)
    except FileNotFoundError:
        raise Unreadable("not_found", uri) from None
    except PermissionError:
        raise Unreadable("forbidden", uri) from None
    except TimeoutError as error:
        raise Unreadable("timeout", str(error)) from None
    except OSError as error:
        raise Unreadable("io_error", str(error)) from None
    except ValueError as error:
        raise Unreadable("unsupported_scheme", str(error)) from None
    if len(content) > max_bytes:
        raise Unreadable("too_many_bytes", f"more than {counted(max_bytes, 'byte')}")
    return content
