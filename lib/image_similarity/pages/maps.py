"""The map of a gallery: the files that a rendering leaves for it, and those by which pages know that it is there.

map.html                    the page: the shell of a rendering, filled
map/map.json                which map is shown, and of which rendering
map/link.js                 what all other pages show of it; empty while there is no map
<rendering>/_cards/         the images, as Parquet (`CARDS_SCHEMA`)
<rendering>/_shell.html     a page without content, to be put at ``map.html``
"""

import json
import re
from dataclasses import asdict, dataclass

import pyarrow as pa

PAGE = "map.html"
FOLDER = "map"
POINTER = f"{FOLDER}/map.json"
LINK = f"{FOLDER}/link.js"

CARDS = "_cards"
CARDS_SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        *((name, pa.string()) for name in ("image_id", "page", "picture", "title", "subtitle", "alt")),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
"""One row for each image, in the order of the ordinals, which are those of the data for search. ``picture``,
``width`` and ``height`` (pixels of the larger file) are null where there is no picture.
"""

SHELL = "_shell.html"
HEAD, MAIN = "<!-- map: head -->", "<!-- map: main -->"
"""Lines of the shell: the place of what the page adds to its head, and of its content."""

_CALL = re.compile(r"gallery\.map\((\{.*\})\);?\s*", re.DOTALL)
_PICTURE = re.compile(rf"{FOLDER}/[\w-]+/wall\.webp")
_FOLDER_NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Link:
    """What the other pages show of the map. Paths are below the gallery."""

    picture: str
    """The path of the picture of the whole wall."""
    width: int
    height: int
    images: int
    page: str = PAGE

    def script(self) -> bytes:
        """The content of `LINK`."""
        return f"gallery.map({json.dumps(asdict(self))})\n".encode()


def link(script: bytes) -> Link | None:
    """What the content of `LINK` says; None if it is empty, or says anything else than a `Link`."""
    try:
        call = _CALL.fullmatch(script.decode())
        facts = json.loads(call[1]) if call else {}
        shown = Link(facts["picture"], int(facts["width"]), int(facts["height"]), int(facts["images"]))
        return shown if _PICTURE.fullmatch(shown.picture) and min(shown.width, shown.height) > 0 else None
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Pointer:
    """The map that is shown."""

    run: str
    rendering: str
    """The rendering whose images and data it shows."""

    def as_json(self) -> bytes:
        """The content of `POINTER`."""
        return json.dumps(asdict(self), indent=1).encode()


def pointer(content: bytes | None) -> Pointer | None:
    """What the content of `POINTER` says; None if there is no such file, or it is damaged: then there is no map."""
    try:
        values = json.loads(content or b"null")
        names = values["run"], values["rendering"]
        return Pointer(*names) if all(map(_FOLDER_NAME.fullmatch, names)) else None
    except (ValueError, KeyError, TypeError):
        return None


def shell(content: bytes | None) -> str | None:
    """The text of a `SHELL`; None if there is no such file, or it has no places for a map."""
    try:
        text = (content or b"").decode()
    except ValueError:
        return None
    return text if has_places(text) else None


def has_places(shell: str) -> bool:
    """Whether a map can be put into the text of a `SHELL`."""
    return shell.count(HEAD) == shell.count(MAIN) == 1
