"""A small collection whose names, titles and links try to break pages, and its gallery."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = "<script>window.hacked=1</script>"
NAMES = [
    "plain.png",
    "<script>window.hacked=1<script>.png",
    "\"quotes' & <b>tags.png",
    "..%2f..%2fetc%2fpasswd.png",
    "x" * 240 + ".png",
    "\u202egnp.daer-sdrawkcab.png",
    "new\nline.png",
    "Twin.png",
    "twin.png",
    "#hash?query=1&b=2.png",
    "100% {{ 7 * 7 }} {% raw %}.png",
    "javascript:window.hacked=1.png",
    " spaces .png",
    "\U0001f3a8 pictúre ﬁne.png",
    "control\x01\x7f.png",
    "wide.png",
    "tall.png",
    "tiny.png",
]
TITLES = [
    "Plain title",
    SCRIPT,
    '"><img src=x onerror=window.hacked=1>',
    "</title></head><body onload=window.hacked=1>",
    "A very long title " * 17,
    "\u202eright to left \u05d0\u05d1\u05d2",
    "two\nlines\tand a tab",
    "</script><script>window.hacked=1</script>",
    "{{ 7 * 7 }}",
    "  ",
    "' onmouseover='window.hacked=1",
    "&lt;already escaped&gt; &amp;",
    "javascript:window.hacked=1",
    "null",
    "Ünïcödé, Größe, Ångström",
    "\ufffe\ud83c\udfa8".encode("utf-16", "surrogatepass").decode("utf-16"),
]
LINKS = [
    "https://example.org/works/1&c=d",
    "javascript:window.hacked=1",
    "data:text/html,<script>window.hacked=1</script>",
    'https://example.org/"onclick="window.hacked=1',
    "HTTP://EXAMPLE.ORG/UPPER",
    "file:///etc/passwd",
    " https://example.org/with space",
    "//example.org/no-scheme",
    "https://example.org/works/1?signature=secret",
]
IDS = {0: "../../../etc/passwd", 1: "..\\..\\windows", 2: "/absolute/path.png", 3: "CON", 4: "index.html"}
DEPARTMENTS = ['<i>Prints & "Drawings"</i>', "../../Photography", "Textiles"]


@dataclass(frozen=True)
class Collection:
    works: Path
    images: Path
    ids: list[str]
    copies: list[set[str]]
    """ids of images with the same bytes."""
    failing: dict[str, str]
    """id -> reason."""


def make(folder: Path) -> Collection:
    """Pictures of three families under `NAMES`, a list with attributes, copies of one file, and three that cannot be
    read.
    """
    images = folder / "pictures"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(NAMES):
        shape = {"wide.png": (90, 900), "tall.png": (900, 90), "tiny.png": (3, 2)}.get(name, (120 + 8 * number, 160))
        colours = np.array([[200, 60, 40], [40, 120, 200], [90, 160, 80]])[number % 3]
        pixels = np.clip(colours + rng.integers(-30, 30, (*shape, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / name, "PNG")
        rows.append(
            {"file": f"pictures/{name}", "image_id": IDS.get(number, name), "title": TITLES[number % len(TITLES)]}
        )
    for copy in ("copy one.png", "copy two.png"):
        shutil.copy(images / "plain.png", images / copy)
        rows.append({"file": f"pictures/{copy}", "image_id": copy, "title": "A copy"})
    (images / "broken.png").write_bytes((images / "twin.png").read_bytes()[:200])
    (images / "text <b>.png").write_text("no picture")
    failing = {"broken.png": "truncated", "text <b>.png": "not_an_image", "gone <i>.png": "not_found"}
    rows += [{"file": f"pictures/{name}", "image_id": name, "title": SCRIPT} for name in failing]
    for number, row in enumerate(rows):
        row["link"] = LINKS[number % len(LINKS)]
        row["department"] = DEPARTMENTS[number % 3]
        row["<b onclick=window.hacked=1>key</b>"] = f"value {number}"
    listed = folder / "works.json"
    listed.write_text(json.dumps(rows), encoding="utf-8")
    return Collection(
        listed, images, [row["image_id"] for row in rows], [{IDS[0], "copy one.png", "copy two.png"}], failing
    )
