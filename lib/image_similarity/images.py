"""The bytes of an image at a URI, or `Unreadable` with the reason, for the workers of all stages that open images."""

from image_similarity import storage
from image_similarity.kernels.decoding import Unreadable

FETCH_REASONS = {
    "not_found": "there is no such file",
    "forbidden": "the file may not be read",
    "timeout": "the store did not answer in time",
    "io_error": "the file could not be read for another reason",
    "unsupported_scheme": "no file system here serves such a uri",
    "too_many_bytes": "the file is larger than embeddings.max_bytes",
}


def fetch(uri: str, max_bytes: int) -> bytes:
    """The bytes at ``uri``; `Unreadable` with one of `FETCH_REASONS` if they cannot be had."""
    try:
        content = storage.read(uri, max_bytes)
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
        raise Unreadable("too_many_bytes", f"more than {max_bytes:,} bytes")
    return content
