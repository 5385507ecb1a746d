"""A map as render_map leaves it in a gallery, with an empty page."""

import io
import json
from pathlib import Path

from PIL import Image

from image_similarity.pages import maps


def hang(gallery: Path, run: str, colour: str, rendering: str | None = None) -> maps.Link:
    """Puts a map of ``rendering`` (default: the one that is shown) into ``gallery``. Its wall is of one colour."""
    rendering = rendering or json.loads((gallery / "gallery.json").read_text())["renderings"][0]
    link = maps.Link(f"{maps.FOLDER}/{run}/wall.webp", 640, 480, 1234)
    wall = io.BytesIO()
    Image.new("RGBA", (link.width, link.height), colour).save(wall, "webp")
    shell = (gallery / rendering / maps.SHELL).read_bytes() if (gallery / rendering).exists() else b""
    for path, content in (
        (link.picture, wall.getvalue()),
        (maps.PAGE, shell.replace(maps.MAIN.encode(), b"<h1>The map</h1>")),
        (maps.POINTER, maps.Pointer(run, rendering).as_json()),
        (maps.LINK, link.script()),
    ):
        (gallery / path).parent.mkdir(parents=True, exist_ok=True)
        (gallery / path).write_bytes(content)
    return link
