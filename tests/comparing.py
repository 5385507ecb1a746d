"""A small gallery with groups of drawn pictures and their edits, for tests of the pages that compare and mark."""

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from image_similarity.imaging import thumbnails
from image_similarity.pages import paths
from image_similarity.pages.paths import page_name
from image_similarity.stages.gallery import compare, maps, pages
from image_similarity.stages.gallery.pages import Book, Tab

HOSTILE = '=1+2 "quoted", <b>&\'\nnew line ünïcode 漢字.png'
"""The id of an image that tries to break pages and the saved file."""


def drawn(width: int = 400, height: int = 300, seed: int = 0) -> Image.Image:
    """A picture with detail everywhere, another for each seed; bright enough and dark enough to be changed."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(40, 200, (5, 7, 3)).astype(np.uint8)
    picture = Image.fromarray(ground).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(120):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        r = rng.uniform(0.02, 0.09) * width
        colour = tuple(int(value) for value in rng.integers(20, 225, 3))
        shape = (x - r, y - r * rng.uniform(0.3, 1), x + r, y + r * rng.uniform(0.3, 1))
        (draw.ellipse if rng.random() < 0.6 else draw.rectangle)(shape, fill=colour)
        end = (x + rng.uniform(-r, r), y + rng.uniform(-r, r))
        draw.line((x, y, *end), fill=(20, 20, 20), width=max(1, width // 200))
    return picture


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


def resized(picture: Image.Image, x: float, y: float | None = None) -> Image.Image:
    size = round(picture.width * x), round(picture.height * (x if y is None else y))
    return picture.resize(size, Image.Resampling.LANCZOS)


def cropped(picture: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Without these shares of its sides."""
    width, height = picture.size
    return picture.crop(
        (round(left * width), round(top * height), round(width * (1 - right)), round(height * (1 - bottom)))
    )


def captioned(picture: Image.Image, share: float = 0.1) -> Image.Image:
    picture = picture.copy()
    top = round(picture.height * (1 - share))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, top, *picture.size), fill=(0, 0, 0))
    draw.text((5, top + 2), "A caption in white letters", fill=(255, 255, 255))
    return picture


EDITS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "half.png": lambda picture: resized(picture, 0.5),
    "anew.png": lambda picture: jpeg(picture, 60),
    "crop.png": lambda picture: cropped(picture, 0.0, 0.12, 0.08, 0.0),
    "grey.png": lambda picture: ImageOps.grayscale(picture).convert("RGB"),
    "mirror.png": ImageOps.mirror,
    "bright.png": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "border.png": lambda picture: ImageOps.expand(picture, 20, (255, 255, 255)),
    "turned.png": lambda picture: picture.rotate(-5, Image.Resampling.BICUBIC),
    "caption.png": captioned,
    HOSTILE: lambda picture: resized(picture, 0.8, 0.7),
    "another.png": lambda picture: drawn(seed=9),
}


def book(folder: Path, show_locations: bool = True) -> Book:
    tabs = (Tab("one", "one", "cosine"),)
    return Book(str(folder), "r1", "<b>Title", 9, tabs, (), 200, show_locations=show_locations)


def member(folder: Path, image_id: str, picture: Image.Image, distance: float | None) -> dict[str, Any]:
    """A member of a group, whose pictures are written below the gallery ``folder``."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    small = thumbnails.thumbnails(out.getvalue(), 10**8)
    name = hashlib.sha256(out.getvalue()).hexdigest()[:32]
    for size, content in (("small", small.small), ("large", small.large)):
        if content:
            path = folder / paths.picture_path(name, size)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    title = image_id.partition(".")[0]
    card = {"page": page_name(image_id), "title": title, "subtitle": "", "alt": title, "picture": name}
    facts = {"width": small.width, "height": small.height, "size_bytes": len(out.getvalue()), "format": "PNG"}
    facts |= {"pixel_width": picture.width, "pixel_height": picture.height, "distance": distance}
    return {"image_id": image_id, "uri": f"/images/{image_id}", **card, **facts}


def group(folder: Path, seed: int = 0, names: Iterable[str] = EDITS) -> dict[str, Any]:
    """A group of a drawn picture and edits of it, as `compare.GROUP` has it, with what its own page needs."""
    kept = drawn(seed=seed)
    others = [
        member(folder, f"{seed}/{name}" if name != HOSTILE else name, EDITS[name](kept), 0.01 * number + 0.001)
        for number, name in enumerate(names)
    ]
    members = [member(folder, f"{seed}/kept.png", kept, None), *others]
    group_id = hashlib.sha256(str(seed).encode()).hexdigest()[:16]
    return {
        "group_id": group_id,
        "kind": "near-duplicates",
        "path": f"near-duplicates/{group_id}-1.html",
        "members": members,
    }


def write(folder: Path, groups: Iterable[dict[str, Any]], of: Book | None = None) -> list[str]:
    """Writes the pages of ``groups``, of their pairs and of their images; returns the paths of the pages of pairs."""
    of = of or book(folder)
    context, written = compare.context(of), []
    for shown in groups:
        for row in compare.pairs(shown):
            pages.write(str(folder), row["path"], pages.render("compare.html", of, row["path"], context(row)))
            written.append(row["path"])
        about = {**shown, "members": shown["members"][:1], "size": len(shown["members"]), "weakest_link": 0.01}
        about |= dict.fromkeys(("others_pixels", "others_bytes"), 1)
        context_of_group = {"group": about, "items": shown["members"][1:], "number": 1, "last": 1}
        pages.write(str(folder), shown["path"], pages.render("near_group.html", of, shown["path"], context_of_group))
    for name in pages.STATIC_FILES:
        pages.write(str(folder), *pages.static_file(name, of))
    maps.leave_link(str(folder))
    return written
