"""Files of text, and cells of it."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.storage import blobs


def open_text(uri: str) -> io.TextIOWrapper:
    """The text at ``uri``, with line ends as they are. Reading raises ``UnicodeDecodeError`` if it is not UTF-8."""
    return io.TextIOWrapper(blobs.open_stream(uri), encoding="utf-8-sig", newline="")


def not_utf8(error: UnicodeDecodeError) -> ValueError:
    bad = error.object[error.start : error.start + 1].hex()
    return ValueError(f"not UTF-8 (the byte 0x{bad}): save it as UTF-8 (iconv -f latin1 -t utf-8)")


def cells(values: Sequence[str | None]) -> pa.Array:
    """``values`` as strings, null where empty."""
    try:
        array = pa.array(values, pa.string())
    except UnicodeEncodeError:  # JSON may contain unpaired surrogates
        array = pa.array([text and text.encode("utf-8", "replace").decode() for text in values], pa.string())
    return without_empty(array)


def without_empty(array: pa.Array) -> pa.Array:
    """The strings ``array``, null where empty."""
    return pc.if_else(pc.equal(array, ""), pa.scalar(None, array.type), array)
