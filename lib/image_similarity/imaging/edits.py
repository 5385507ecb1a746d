"""Edits of pictures, as people's copies differ from originals: to learn what of such copies a fingerprint finds."""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]
"""An RGB picture, and where chance comes from -> another RGB picture. The first is left as it is."""

_LANCZOS, _BICUBIC = Image.Resampling.LANCZOS, Image.Resampling.BICUBIC
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_WORDS = "The quick brown fox jumps over the lazy dog"


def _resized(picture: Image.Image, by: float) -> Image.Image:
    size = (max(1, round(picture.width * by)), max(1, round(picture.height * by)))
    return picture.resize(size, _LANCZOS)


def _compressed(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=int(random.integers(30, 91)))
    return Image.open(content).convert("RGB")


def _cropped(picture: Image.Image, random: np.random.Generator, least: float, most: float) -> Image.Image:
    """``least`` to ``most`` of the area are cut off, on all sides."""
    side = np.sqrt(1 - random.uniform(least, most))
    width, height = max(1, round(picture.width * side)), max(1, round(picture.height * side))
    left, top = (int(random.integers(0, length + 1)) for length in (picture.width - width, picture.height - height))
    return picture.crop((left, top, left + width, top + height))


def _factor(random: np.random.Generator) -> float:
    """A tenth to three tenths less, or more."""
    return float(random.choice([random.uniform(0.7, 0.9), random.uniform(1.1, 1.3)]))


def _turned(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    degrees = float(random.choice([-1, 1]) * random.uniform(1, 6))
    return picture.rotate(degrees, _BICUBIC, fillcolor=_BLACK)


def _framed(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    width = max(1, round(min(picture.size) * random.uniform(0.02, 0.08)))
    return ImageOps.expand(picture, width, _WHITE if random.random() < 0.5 else _BLACK)


def _captioned(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """A line of text on a dark band at the lower end."""
    picture = picture.copy()
    height = max(6, round(picture.height * random.uniform(0.05, 0.12)))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, picture.height - height, picture.width, picture.height), fill=_BLACK)
    draw.text((height // 3, picture.height - height), _WORDS, fill=_WHITE, font_size=max(5, round(height * 0.7)))
    return picture


EDITS: Mapping[str, Edit] = {
    "half the size": lambda picture, random: _resized(picture, 0.5),
    "a quarter of the size": lambda picture, random: _resized(picture, 0.25),
    "JPEG of quality 30 to 90": _compressed,
    "crop of 5 to 10 %": lambda picture, random: _cropped(picture, random, 0.05, 0.10),
    "crop of 10 to 20 %": lambda picture, random: _cropped(picture, random, 0.10, 0.20),
    "brightness": lambda picture, random: ImageEnhance.Brightness(picture).enhance(_factor(random)),
    "contrast": lambda picture, random: ImageEnhance.Contrast(picture).enhance(_factor(random)),
    "grey": lambda picture, random: ImageOps.grayscale(picture).convert("RGB"),
    "mirrored": lambda picture, random: ImageOps.mirror(picture),
    "turned by up to 6 degrees": _turned,
    "a frame": _framed,
    "a caption": _captioned,
}
"""Kind of copy -> the edit that makes one."""


def edited(picture: Image.Image, kind: str, seed: int) -> Image.Image:
    """A copy of an RGB ``picture``, of one of the kinds of `EDITS`; the same for the same ``seed``."""
    return EDITS[kind](picture, np.random.default_rng(seed))
