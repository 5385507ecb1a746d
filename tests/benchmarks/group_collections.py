"""Collections of pictures in which it is known what belongs together: edited copies among paintings and photographs,
and a chain of pictures that change slowly.

Edits are written for this benchmark alone. The library's own, by which it chooses a limit, have other parameters, fonts
and colours, so that a limit is not judged by what it was chosen with.
"""

import hashlib
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAINTINGS_EDITED = 300
MOST_EDITS = 6
"""Of one original."""

SEED = 20
BRIDGE = "bridge/"
SAME_PAINTING = (
    ("art-nouveau-modern/2676.jpg", "symbolism/2239.jpg"),
    ("expressionism/45.jpg", "post-impressionism/41.jpg"),
    ("baroque/727.jpg", "baroque/732.jpg"),
)
"""Paintings that are there twice, in files of different bytes. No list of the collection has them: they were seen among
the pairs that were counted as false."""
_WORDS = ("photo: archive", "No. 417", "sale ends sunday", "(c) museum 1998", "look at this!", "plate XII, detail")
Pixels = NDArray[np.float32]
Rng = np.random.Generator


@dataclass(frozen=True)
class Collection:
    """``truth``: of each image, what it shows. Images with the same value belong together. ``edits``: the kind of
    edit and the original of each copy. ``contents``: the sha256 of each file.
    """

    folder: Path
    truth: dict[str, str]
    edits: dict[str, tuple[str, str]]
    contents: dict[str, str]

    @property
    def images(self) -> list[str]:
        return sorted(self.truth)


# ---- edits: pictures to pictures


def shrunk(share: float) -> Callable[[Image.Image, Rng], Image.Image]:
    """To ``share`` of its sides, by one of four ways."""
    ways = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.HAMMING)

    def edit(image: Image.Image, rng: Rng) -> Image.Image:
        size = (max(1, int(image.width * share)), max(1, int(image.height * share)))
        return image.resize(size, ways[rng.integers(len(ways))])

    return edit


def cropped(least: float, most: float) -> Callable[[Image.Image, Rng], Image.Image]:
    """Without ``least`` to ``most`` of its area, taken from all sides unevenly."""

    def edit(image: Image.Image, rng: Rng) -> Image.Image:
        kept = 1 - rng.uniform(least, most)
        across = kept ** rng.uniform(0.3, 0.7)  # width and height lose different shares
        width, height = round(image.width * across), round(image.height * kept / across)
        left, top = (int(rng.integers(0, room + 1)) for room in (image.width - width, image.height - height))
        return image.crop((left, top, left + width, top + height))

    return edit


def brighter(image: Image.Image, rng: Rng) -> Image.Image:
    """Or darker: by a factor or by a gamma."""
    values, strength = pixels(image), rng.uniform(0.1, 0.35) * rng.choice([-1, 1])
    return picture(values * (1 + strength) if rng.random() < 0.5 else values ** (1 - strength))


def contrasted(image: Image.Image, rng: Rng) -> Image.Image:
    """More or less of it, around mid-grey."""
    return picture(0.5 + (pixels(image) - 0.5) * (1 + rng.uniform(0.12, 0.35) * rng.choice([-1, 1])))


def grey(image: Image.Image, rng: Rng) -> Image.Image:
    """By the weights of HDTV, and a little sepia in one of three."""
    luma = pixels(image) @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
    tint = np.array([1.05, 1.0, 0.88]) if rng.random() < 1 / 3 else np.ones(3)
    return picture(luma[..., None] * tint.astype(np.float32))


def mirrored(image: Image.Image, rng: Rng) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def rotated(image: Image.Image, rng: Rng) -> Image.Image:
    """By 1 to 5 degrees. The corners get the picture's mean colour, or are cut off."""
    angle = rng.uniform(1, 5) * rng.choice([-1, 1])
    mean = tuple(int(value) for value in pixels(image).mean(axis=(0, 1)) * 255)
    if rng.random() < 0.5:
        return image.rotate(angle, Image.Resampling.BILINEAR, expand=True, fillcolor=mean)
    turned = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=mean)
    lost = 0.5 * np.tan(np.radians(abs(angle)))
    across, down = int(lost * image.height), int(lost * image.width)
    return turned.crop((across, down, image.width - across, image.height - down))


def bordered(image: Image.Image, rng: Rng) -> Image.Image:
    """A frame of one colour, in one of three with a line in it."""
    frame = max(2, round(min(image.size) * rng.uniform(0.03, 0.09)))
    colours = ((250, 247, 240), (16, 16, 20), (120, 84, 40), (140, 20, 30), (200, 200, 205))
    framed = Image.new("RGB", (image.width + 2 * frame, image.height + 2 * frame), colours[rng.integers(len(colours))])
    if rng.random() < 1 / 3:
        box = (frame // 2, frame // 2, framed.width - frame // 2, framed.height - frame // 2)
        ImageDraw.Draw(framed).rectangle(box, outline=(60, 60, 60))
    framed.paste(image, (frame, frame))
    return framed


def captioned(image: Image.Image, rng: Rng) -> Image.Image:
    """A line of text with a dark outline, on the picture or on a light stripe, at the top or at the bottom."""
    image = image.copy()
    height = max(10, round(image.height * rng.uniform(0.06, 0.12)))
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSerif-Bold.ttf"), 0.75 * height)
    top = 0 if rng.random() < 0.5 else image.height - height
    draw = ImageDraw.Draw(image, "RGBA")
    if rng.random() < 0.5:
        draw.rectangle((0, top, image.width, top + height), fill=(255, 250, 200, 190))
    where = (int(rng.uniform(0.02, 0.3) * image.width), top)
    draw.text(where, rng.choice(_WORDS), fill=(255, 240, 90), font=font, stroke_width=1, stroke_fill=(0, 0, 0))
    return image


def as_it_is(image: Image.Image, rng: Rng) -> Image.Image:
    return image


EDITS: dict[str, Callable[[Image.Image, Rng], Image.Image]] = {
    "half size": shrunk(0.5),
    "quarter size": shrunk(0.25),
    "JPEG 30 to 90": as_it_is,  # saved with that quality
    "crop of 5 to 10 %": cropped(0.05, 0.10),
    "crop of 10 to 20 %": cropped(0.10, 0.20),
    "brightness": brighter,
    "contrast": contrasted,
    "grey": grey,
    "mirror": mirrored,
    "rotation": rotated,
    "border": bordered,
    "caption": captioned,
}


def pixels(image: Image.Image) -> Pixels:
    """(height, width, 3) in 0 to 1."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def picture(values: Pixels) -> Image.Image:
    return Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))


# ---- collections


def edited(data: Path, folder: Path, share: float) -> Collection:
    """All paintings and one photograph of each object; as many copies of 300 paintings and of the photographs that they
    are ``share`` of these images, at most six of one original; and, if there are copies, the twelve pictures of
    ``bridge``. The copies of a smaller share are among those of a larger one.
    """
    paintings = sorted((data / "images/wikiart").rglob("*.jpg"))
    photographs = sorted((data / "images/ukbench").glob("*.jpg"))[::4]  # four pictures of each object follow each other
    originals = {f"paintings/{file.parent.name}/{file.name}": file for file in paintings}
    originals |= {f"photographs/{file.name}": file for file in photographs}
    contents = {image: copied(file, folder / image) for image, file in originals.items()}
    same = {contents[f"paintings/{other}"]: contents[f"paintings/{one}"] for one, other in SAME_PAINTING}
    truth = {image: same.get(content, content) for image, content in contents.items()}
    edits = {}
    copies = planned(list(originals), len(paintings))
    wanted = round(share / (1 - share) * len(originals))
    if wanted > len(copies):
        raise SystemExit(f"there are {len(copies)} copies, and {wanted} were asked for")
    for original, kind, seed in copies[:wanted]:
        name = f"copies/{kind.replace(' %', '').replace(' ', '-')}/{original.replace('/', '-')}"
        contents[name] = write_copy(originals[original], folder / name, kind, np.random.default_rng(seed))
        truth[name], edits[name] = truth[original], (kind, original)
    if share:
        for file in sorted((data / "images/edits/bridge").glob("*.jpg")):
            contents[BRIDGE + file.name] = copied(file, folder / BRIDGE / file.name)
            truth[BRIDGE + file.name] = BRIDGE
    return Collection(folder, truth, edits, contents)


def planned(originals: list[str], paintings: int) -> list[tuple[str, str, int]]:
    """Copies in the order in which they are taken: original, kind, seed. Paintings come first in ``originals``."""
    rng = np.random.default_rng(SEED)
    chosen = [*rng.choice(paintings, PAINTINGS_EDITED, replace=False), *range(paintings, len(originals))]
    kinds = list(EDITS)
    plan = [
        (originals[number], str(kind))
        for number in chosen
        for kind in rng.choice(kinds, rng.integers(0, MOST_EDITS + 1), replace=False)
    ]
    return [(*plan[number], int(number)) for number in rng.permutation(len(plan))]


def copied(file: Path, to: Path) -> str:
    """The sha256 of the file."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)
    return hashlib.sha256(to.read_bytes()).hexdigest()


def write_copy(file: Path, to: Path, kind: str, rng: Rng) -> str:
    """The sha256 of the edited copy."""
    to.parent.mkdir(parents=True, exist_ok=True)
    quality = int(rng.integers(30, 91)) if kind.startswith("JPEG") else 93
    with Image.open(file) as image:
        EDITS[kind](image.convert("RGB"), rng).save(to, "JPEG", quality=quality)
    return hashlib.sha256(to.read_bytes()).hexdigest()


KEYFRAMES, SHAPES, SIDE = 12, 9, 224
SHAPE_VALUES = 8
"""Of a shape: centre, two radii, angle, colour."""


def chain(folder: Path, pictures: int = 1000) -> Collection:
    """Drawn pictures, each hardly different from the next, the first and the last nothing alike: shapes that move, turn
    and change their colour on the way through twelve compositions that were drawn by chance.
    """
    rng = np.random.default_rng(SEED)
    keyframes = rng.random((KEYFRAMES, SHAPES + 1, SHAPE_VALUES))
    folder.mkdir(parents=True, exist_ok=True)
    truth, contents = {}, {}
    for number, at in enumerate(np.linspace(0, KEYFRAMES - 1, pictures)):
        frame = int(min(at, KEYFRAMES - 2))
        part = at - frame
        name = f"{number:04d}.png"
        drawn(keyframes[frame] * (1 - part) + keyframes[frame + 1] * part).save(folder / name)
        truth[name], contents[name] = name, hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return Collection(folder, truth, {}, contents)


def drawn(shapes: NDArray[np.float64]) -> Image.Image:
    """Ellipses on a ground of one colour, the first of ``shapes``; drawn twice as large, which smooths their edges."""
    large = 2 * SIDE
    y, x = (np.mgrid[0:large, 0:large] / large).astype(np.float32)
    values = np.broadcast_to(shapes[0, -3:], (large, large, 3)).astype(np.float32).copy()
    for centre_x, centre_y, wide, high, angle, *colour in shapes[1:].tolist():
        cosine, sine = math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)
        along = (x - centre_x) * cosine + (y - centre_y) * sine
        across = (y - centre_y) * cosine - (x - centre_x) * sine
        inside = (along / (0.08 + 0.3 * wide)) ** 2 + (across / (0.08 + 0.3 * high)) ** 2 < 1
        values[inside] = colour
    return picture(values).resize((SIDE, SIDE), Image.Resampling.BOX)
