"""Where a gallery has the page and the pictures of an image: paths below its folder, the same in every rendering."""

import hashlib

from image_similarity.imaging import thumbnails

PICTURES = "pictures"
"""The folder of the small files of pictures."""
SMALL, LARGE = "small", "large"
"""Their sizes, see `thumbnails`."""


def page_name(image_id: str) -> str:
    """The name of an image's page: 32 hexadecimal digits of its id's hash, whatever characters the id has."""
    return hashlib.sha256(image_id.encode()).hexdigest()[:32]


def image_path(page: str) -> str:
    """The path of the page named ``page``."""
    return f"images/{page[:2]}/{page}.html"


def picture_name(content_sha256: str | None, uri: str | None, source_version: str | None) -> str:
    """The name of an image's picture: a hash of its content, or of its uri and version if the content is unknown."""
    parts = (thumbnails.RECIPE, content_sha256) if content_sha256 else (thumbnails.RECIPE, uri, source_version)
    return hashlib.sha256("\n".join(part for part in parts if part is not None).encode()).hexdigest()[:32]


def picture_path(picture: str, size: str) -> str:
    """The path of the file of ``picture``; ``size``: small or large."""
    return f"{PICTURES}/{picture[:2]}/{picture}-{size}.webp"
