"""A sample collection drawn from a seed: 240 pictures in 12 visual families, and their manifest.

``python tools/samples.py FOLDER`` draws it. In each family sixteen pictures are drawn independently and
four are small edits of those, so that a search has both a family and a near duplicate to find.
"""

import argparse
import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Array = npt.NDArray[Any]
Rng = np.random.Generator
Size = tuple[int, int]
Drawer = Callable[[Rng, Size], Image.Image]

FAMILIES: dict[str, Drawer] = {}  # Each draws a picture of (width, height) pixels, from the state of its generator.
DRAWN, EDITED, SUPER = 16, 4, 2  # Pictures are painted SUPER times larger and then shrunk, which smooths their edges.
SIZES: tuple[Size, ...] = ((480, 320), (480, 360), (448, 336), (400, 400), (432, 432), (360, 480), (320, 480))


def palette(rng: Rng, *choices: str) -> Array:
    """Return one of `choices` (hexadecimal colours between spaces), slightly tinted, as (n, 3) values in 0..1."""
    chosen = choices[rng.integers(len(choices))].split()
    colours = np.array([tuple(bytes.fromhex(word)) for word in chosen], dtype=np.float32) / 255
    return np.clip(colours * rng.uniform(0.97, 1.03, 3).astype(np.float32), 0, 1)


def ramp(colours: Array, tone: npt.ArrayLike) -> Array:
    """Colour `tone` (any shape; 0 is the first colour, 1 the last, clipped) as float32 of that shape + (3,)."""
    # A table is far quicker than interpolating every pixel, and 2048 steps are finer than 8 bits can show.
    steps = np.linspace(0, len(colours) - 1, 2048)
    table = np.stack([np.interp(steps, np.arange(len(colours)), channel) for channel in colours.T], axis=-1)
    return table.astype(np.float32)[(np.clip(tone, 0, 1) * 2047).astype(np.int16)]


def rgb(colour: Array) -> tuple[int, ...]:
    """Return a colour of three values in 0..1 (clipped) as Pillow wants it: three integers in 0..255."""
    return tuple(int(value) for value in np.round(np.clip(colour, 0, 1) * 255))


def picture(colours: Array) -> Image.Image:
    """Return an image of `colours` (height, width, 3) in 0..1, clipped."""
    return Image.fromarray((np.clip(colours, 0, 1) * 255 + 0.5).astype(np.uint8))


def field(size: Size) -> tuple[Array, Array]:
    """Return x (1, width) and y (height, 1) of the pixels' centres from the top left; the short side is 1 long."""
    x, y = (np.arange(0.5, side, dtype=np.float32) / np.float32(min(size)) for side in size)
    return x[None, :], y[:, None]


def noise(rng: Rng, size: Size, across: int = 3, down: int = 3, octaves: int = 5) -> Array:
    """Return fractal noise (height, width) in 0..1, for `size` in pixels, from `across` by `down` random values up."""
    total = np.zeros(size[::-1], dtype=np.float32)
    for octave in range(octaves):  # Each is twice as fine as the one before, and half as strong.
        lattice = rng.random((min(down << octave, size[1]), min(across << octave, size[0])), dtype=np.float32)
        total += np.asarray(Image.fromarray(lattice).resize(size, Image.Resampling.BICUBIC)) * 0.5**octave
    total -= total.min()
    return total / float(total.max())


def dot(pen: ImageDraw.ImageDraw, place: Iterable[float], radius: float, colour: Array) -> None:
    """Draw a filled circle around `place` (x, y), in pixels; the colour is three values in 0..1."""
    x, y = place
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), rgb(colour))


def family(paint: Drawer) -> Drawer:
    """Enter `paint` in FAMILIES under its name: painted large, then shrunk, with the tooth of printed paper."""

    def draw(rng: Rng, size: Size) -> Image.Image:
        canvas = paint(rng, (size[0] * SUPER, size[1] * SUPER)).resize(size, Image.Resampling.LANCZOS)
        tooth = rng.standard_normal(size[::-1], dtype=np.float32) + 2 * noise(rng, size, 6, 6, 4) - 1
        return picture(np.asarray(canvas, dtype=np.float32) / 255 + 0.014 * tooth[..., None])

    FAMILIES[paint.__name__] = draw
    return paint


@family
def sunset(rng: Rng, size: Size) -> Image.Image:
    """Draw a low sun over the sea, with its path of light on the water."""
    colours = palette(
        rng,
        "2b3a67 a0708a f0a06c ffe3a8",
        "14213d 7a4f7c f28f6b ffd59e",
        "3d5a80 a9b3c4 f3bd9f fff1d0",
        "4a1942 b04a58 f49d37 ffe08a",
        "0f4c5c 7fa59a f79a78 ffdca8",
        "5e548e b79fcc f3c9d3 fff0dc",
    )
    x, y = field(size)
    down, horizon = y / y.max(), rng.uniform(0.55, 0.7)
    middle, height, radius = x.max() * rng.uniform(0.3, 0.7), rng.uniform(-0.02, 0.2), rng.uniform(0.08, 0.14)
    away = np.hypot(x - middle, y - (horizon - height) * y.max())
    clouds = 0.45 * (noise(rng, size, 3, 7) - 0.5) * (1 - down / horizon)
    sky = np.where(away < radius, 1, 0.8 * down / horizon + clouds + 0.3 * np.exp(-((away / 0.3) ** 2)))
    # A logarithm of the depth crowds the ripples towards the horizon, as perspective does.
    depth = np.clip((down - horizon) / (1 - horizon), 0, 1)
    ripple = np.sin(36 * np.log(depth + 0.08) + 7 * noise(rng, size, 4, 14, 4))
    path = ripple > 2.4 * np.abs(x - middle) / (radius * (1.1 + 2.2 * depth)) - 1
    sea = 0.52 - 0.5 * depth + 0.04 * ripple + np.where(path, 0.42 - 0.1 * depth, 0)
    return picture(ramp(colours, np.where(down < horizon, sky, sea)) * np.where(down < horizon, 1, 0.9)[..., None])


@family
def mountains(rng: Rng, size: Size) -> Image.Image:
    """Draw mountain ridges one behind another, paler with distance and with mist at their feet."""
    colours = palette(
        rng,
        "f3ead9 b9c9c8 5b7b8c 1b2d3d",
        "fbe9d7 e0b3a8 7f5c78 2d2540",
        "f6f1e3 bccfb0 578a6c 1a362f",
        "e9eef3 b0c4dd 5476a3 1a2b52",
        "fdf0d0 e6b27c 93534a 33202d",
        "efe7ee c0aec9 6c6089 25254a",
    )
    x, y = field(size)
    down, layers = y / y.max(), int(rng.integers(5, 9))
    sun = np.hypot(x - x.max() * rng.uniform(0.2, 0.8), y - y.max() * rng.uniform(0.12, 0.25))
    tone = np.where(sun < rng.uniform(0.06, 0.11), 0, 0.26 - 0.2 * down)
    for near in np.linspace(0, 1, layers + 1)[1:]:
        level = 0.3 + 0.6 * near
        crest = level - (0.32 - 0.12 * near) * noise(rng, (size[0], 1), int(rng.integers(3, 6)), 1, 8)
        tone = np.where(down > crest, 0.2 + 0.8 * near - 0.34 * np.clip((down - level + 0.2) / 0.3, 0, 1), tone)
    return picture(ramp(colours, tone))


@family
def night(rng: Rng, size: Size) -> Image.Image:
    """Draw a starry sky, with the Milky Way and a moon, above a row of firs."""
    colours = palette(
        rng,
        "050a1c 0c1a3c 1d3461 47639a a9b8dc",
        "07091a 1a1440 3a2a68 6e569e c9b4dd",
        "03121a 06293a 0f4a5c 3d8089 b4d8d0",
        "0a0a14 191b33 33375c 646a92 c5c6d8",
    )
    x, y = field(size)
    (width, height), unit, tilt = size, min(size), rng.uniform(-0.9, 0.9)
    across = (x - x.max() * rng.uniform(0.3, 0.7)) * np.cos(tilt) + (y - y.max() * 0.4) * np.sin(tilt)
    band = np.exp(-((across / 0.2) ** 2)) * noise(rng, size, 4, 4, 6)
    dx, dy = x - x.max() * rng.uniform(0.2, 0.8), y - y.max() * rng.uniform(0.14, 0.36)
    away, radius, phase = np.hypot(dx, dy), rng.uniform(0.05, 0.09), rng.choice([-0.6, -0.4, 0.4, 0.6, 3])
    moon = (away < radius) & (np.hypot(dx - phase * radius, dy + 0.2 * radius) > 0.95 * radius)
    canvas = picture(ramp(colours, 0.12 + 0.35 * (y / y.max()) ** 2 + 0.6 * band + 0.3 * np.exp(-away / 0.13)))
    pen = ImageDraw.Draw(canvas)
    for bright in rng.random(int(rng.integers(260, 420))):
        dot(pen, rng.uniform(0, size), unit * (0.0013 + 0.0036 * bright**8), ramp(colours, 0.7 + 0.5 * bright))
    canvas.paste((250, 243, 222), mask=Image.fromarray(moon))
    for foot in np.arange(0, width, unit * rng.uniform(0.025, 0.05)):
        tall, foot = unit * rng.uniform(0.12, 0.34), foot + unit * rng.uniform(-0.02, 0.02)
        for tier in np.linspace(0.25, 1, 6):
            half, low = tall * 0.17 * tier, height - tall * (1 - tier)
            pen.polygon([(foot - half, low), (foot, low - 0.36 * tall), (foot + half, low)], rgb(colours[0] * 0.7))
    return canvas


@family
def rosette(rng: Rng, size: Size) -> Image.Image:
    """Draw one large flower of nested polar curves on plain paper."""
    colours = palette(
        rng,
        "f4ecd8 6d213c b23a48 e8896b f6c28b 3a2618",
        "e8efe6 1d4e5f 2f8f83 8cc9a1 e8e5a2 24413a",
        "f7e9e3 5b2a86 9a4fa8 d68fc0 f8cfd5 f2b134",
        "1f2a44 8a2c4a d1495b f0917a f9d9a8 edae49",
        "233d3a c8553d f28f3b f7c873 fdf0c9 588157",
        "efe9f4 27346b 4769b8 86a8e0 d3e1f5 f0c24b",
    )
    x, y = field(size)
    away, angle = np.hypot(x - x.max() / 2, y - y.max() / 2), np.arctan2(y - y.max() / 2, x - x.max() / 2)
    petals, layers, pointed = int(rng.integers(5, 13)), int(rng.integers(3, 6)), rng.uniform(0.35, 1.2)
    turn, depth = rng.uniform(0, np.pi), rng.uniform(0.3, 0.6)
    tone, ink = np.zeros_like(away), np.zeros_like(away)
    for layer in range(layers):
        lobe = np.abs(np.cos(petals / 2 * (angle - turn))) ** pointed
        edge = 0.46 * (1 - 0.8 * layer / layers) * (1 - depth + depth * lobe)
        vein = 0.05 * np.cos(petals * 9 * (angle - turn)) * lobe
        tone = np.where(away < edge, 0.75 * layer / layers + 0.4 * (away / edge) ** 2 - 0.12 + vein, tone)
        ink = np.where(away < edge, np.where(away > edge - 0.006, np.float32(0.75), 1), ink)
        turn += np.pi / petals
    flower = np.where(ink[..., None] > 0, ramp(colours[1:5], tone) * ink[..., None], colours[0])
    return picture(np.where((away < 0.045)[..., None], colours[5], flower))


@family
def mondrian(rng: Rng, size: Size) -> Image.Image:
    """Draw white and coloured rectangles between black lines."""
    colours = palette(
        rng,
        "f4f0e4 c8261d 1f3f8f f2c41a 17171a",
        "f2eee3 d1432f 27568f e9b72c 1d1b1c",
        "f5f1e8 b5202a 16366f f0b90f 111114",
        "e9e2d0 b8432f 2f6f73 e3a93a 24211f",
    )
    canvas, smallest = Image.new("RGB", size), min(size) * rng.uniform(0.13, 0.24)
    pen, line = ImageDraw.Draw(canvas), round(min(size) * rng.uniform(0.006, 0.012))
    boxes = [np.array([(0, 0), size], dtype=float)]
    while boxes:
        box = boxes.pop()
        axis, side = int(np.argmax(box[1] - box[0])), float(np.max(box[1] - box[0]))
        if side < 2 * smallest or (side < 3.4 * smallest and rng.random() < 0.25):
            colour = colours[0 if rng.random() < 0.55 else rng.integers(1, 4)] * rng.uniform(0.97, 1)
            pen.rectangle(box.ravel().tolist(), rgb(colour), rgb(colours[4]), line)
        else:
            boxes += [box.copy(), box.copy()]
            boxes[-1][0, axis] = boxes[-2][1, axis] = box[0, axis] + rng.uniform(smallest, side - smallest)
    return canvas


@family
def disc(rng: Rng, size: Size) -> Image.Image:
    """Draw targets of concentric rings, whose colours may change from half to half or from quarter to quarter."""
    colours = palette(
        rng,
        "f1e3c6 d1495b edae49 00798c 30638e 003d5b",
        "f4ede0 e07a5f 3d405b 81b29a f2cc8f 5f797b",
        "efe6dd 7d4e57 d66853 f2b880 364156 8aa29e",
        "f6efe2 264653 2a9d8f e9c46a f4a261 e76f51",
    )
    x, y = field(size)
    discs = [(rng.uniform(-0.1, 1.1), rng.choice([0.0, 1.0]), rng.uniform(0.25, 0.4)) for _ in range(rng.integers(3))]
    discs.append((rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58), rng.uniform(0.38, 0.46)))
    shade, hues = np.zeros((y.size, x.size), dtype=np.intp), len(colours) - 1
    for middle, height, radius in discs:
        dx, dy = x - x.max() * middle, y - y.max() * height
        away, rings, sectors = np.hypot(dx, dy), int(rng.integers(4, 9)), int(rng.choice([1, 2, 4]))
        reach = np.cumsum(rng.uniform(0.5, 1.5, rings), dtype=np.float32)
        ring = np.searchsorted(reach * np.float32(radius / reach[-1]), away)
        sector = ((np.arctan2(dy, dx) / (2 * np.pi) + rng.uniform(1, 2)) * sectors).astype(int) % sectors
        # Each ring is 1 to n - 1 steps round the n colours from the ring within it, so never has the same.
        steps = np.cumsum(rng.integers(1, hues, (rings + 1, sectors)), axis=0) % hues + 1
        shade = np.where(away < radius, steps[ring, sector], shade)
    return picture(colours[shade])


@family
def truchet(rng: Rng, size: Size) -> Image.Image:
    """Draw winding bands: square tiles of two quarter circles, each tile turned one way or the other."""
    colours = palette(
        rng,
        "f2e9dc 1b4965 5fa8d3",
        "fdf6e3 bc4b51 f4a259",
        "14213d fca311 e5e5e5",
        "edede9 386641 a7c957",
        "2b2d42 ef8a73 f6d9c4",
        "1f3d3a e9c46a 8ab8a0",
        "f4efe6 3a3a4a c8553d",
    )
    x, y = field(size)
    tiles, wide = rng.uniform(3.5, 6.5), rng.uniform(0.13, 0.2)
    left, top = (x * tiles).astype(int), (y * tiles).astype(int)
    turned = (rng.random((top.max() + 1, left.max() + 1)) < 0.5)[top, left]
    u, v = np.where(turned, x * tiles - left, left + 1 - x * tiles), y * tiles - top
    off = np.abs(np.minimum(np.hypot(u, v), np.hypot(1 - u, 1 - v)) - 0.5)
    drift = 2.4 * noise(rng, size, 2, 2, 2) - 0.7
    core = colours[0] if rng.random() < 0.6 else ramp(colours[[2, 1]], drift)
    bands = np.where((off < wide)[..., None], ramp(colours[1:], drift), colours[0])
    return picture(np.where((off < wide * 0.36)[..., None], core, bands))


@family
def glass(rng: Rng, size: Size) -> Image.Image:
    """Draw a stained-glass window: the cells nearest to scattered points, leaded, lit from behind."""
    colours = palette(
        rng,
        "f9d976 ec8440 a33a60 1f2f6b",
        "fdf0b0 7fc08c 1f7f8d 1b2a5b",
        "ffe5b4 e090a8 8058a8 1c2c66",
        "fff1c1 f0a038 b03a26 204b57",
        "eaf6d0 68b0c8 5570c0 b03a7a",
        "f7e7a6 dca34a 3a848a 4b2a5f",
    )
    x, y = field(size)
    extent, cell = np.array([x.max(), y.max()]), rng.uniform(0.13, 0.21)
    places = np.mgrid[-1 : extent[0] / cell + 1, -1 : extent[1] / cell + 1].reshape(2, -1).T
    sites = ((places + rng.uniform(0, 0.9, places.shape)) * cell).astype(np.float32)
    nearest, owner = np.full((y.size, x.size), np.inf, dtype=np.float32), np.zeros((y.size, x.size), dtype=np.int16)
    for i, (left, top) in enumerate(sites):
        away = np.square(x - left) + np.square(y - top)
        owner[away < nearest] = i
        nearest = np.minimum(nearest, away)
    seam = (np.diff(owner, axis=0, prepend=owner[:1]) | np.diff(owner, axis=1, prepend=owner[:, :1])) != 0
    # A blurred seam over a threshold is a line of even width that thickens where lines meet, like solder.
    lead = np.asarray(Image.fromarray(seam).convert("L").filter(ImageFilter.GaussianBlur(4))) > 12
    focus = extent * rng.uniform(0.3, 0.7, 2)
    tones = np.hypot(*(sites - focus).T) / np.hypot(*extent) * 1.3 + rng.normal(0, 0.13, len(sites))
    light = 1.12 - 1.2 * np.sqrt(nearest) + 0.22 * (noise(rng, size, 8, 8, 4) - 0.5)
    return picture(np.where(lead[..., None], colours[-1] * 0.2, ramp(colours, tones)[owner] * light[..., None]))


@family
def skyline(rng: Rng, size: Size) -> Image.Image:
    """Draw a city at dusk: three rows of towers, the nearer two with lit windows."""
    colours = palette(
        rng,
        "2c2a5a 7d5a94 e58f8c fbd0a0 1a1836 ffd98a",
        "1d3557 5b7fa3 d8b8a8 f7dcb4 0f1e33 ffe2a0",
        "3a1f4d 94476b e77f67 f8c98b 1e1029 ffdf91",
        "17404a 4f8a8b e0b89a fbe3bd 0c2329 ffdc8c",
    )
    (width, height), unit, (_, y) = size, min(size) / 100, field(size)
    canvas = picture(ramp(colours[:4], y / y.max() * 1.25 + 0.12 * (noise(rng, size, 2, 7) - 0.5)))
    pen = ImageDraw.Draw(canvas)
    for row, (low, high) in enumerate(((35, 62), (22, 52), (8, 40))):
        wall, left = ramp(colours[[2, 4]], 0.4 + 0.3 * row), -rng.uniform(0, 8) * unit
        while left < width:
            right, top = left + rng.uniform(6, 13 + 3 * row) * unit, height * (1 - rng.uniform(low, high) / 100)
            pen.rectangle((left, top, right, height), rgb(wall * rng.uniform(0.94, 1.06)))
            if rng.random() < 0.25:
                pen.line(((left + right) / 2, top - 7 * unit, (left + right) / 2, top), rgb(wall), 2)
            lit = rng.uniform(0.08, 0.4) if row else 0
            for pane in np.arange(left + 1.4 * unit, right - 2 * unit, 2.2 * unit):
                for sill in np.arange(top + 2 * unit, height, 3.2 * unit):
                    if rng.random() < lit:
                        pen.rectangle((pane, sill, pane + unit, sill + 1.5 * unit), rgb(colours[5]))
            left += (right - left) * rng.uniform(0.8, 1)
    return canvas


@family
def waves(rng: Rng, size: Size) -> Image.Image:
    """Draw seigaiha, the Japanese pattern of waves: overlapping rows of concentric arcs."""
    colours = palette(
        rng,
        "f3ecdc 1f3a5f 2f5d8a 8fb3cf d9a441",
        "efe9da 0f4c4c 2a7f7a 9cc9bd e0975c",
        "f7efe5 7a2e3a b5535a e7b3a4 c99a3f",
        "f4f1e8 2b2b3c 55566e aeb0bf c8553d",
    )
    canvas, radius, accent = Image.new("RGB", size), min(size) * rng.uniform(0.09, 0.17), rng.uniform(0.03, 0.15)
    bands = 2 * int(rng.integers(3, 6))
    for row, y in enumerate(np.arange(0, size[1] + 2 * radius, radius / 2)):
        for x in np.arange(row % 2 * radius, size[0] + 2 * radius, 2 * radius):
            ink = colours[4] if rng.random() < accent else ramp(colours[1:4], y / size[1] * rng.uniform(0.75, 0.95))
            for band in range(bands):
                dot(ImageDraw.Draw(canvas), (x, y), radius * (1 - band / bands), ink if band % 2 else colours[0])
    return canvas


@family
def tree(rng: Rng, size: Size) -> Image.Image:
    """Draw a lone tree on a hill, each branch forking in two, in front of a large pale sun."""
    colours = palette(
        rng,
        "f3e9dc f7d6c4 3b2a2a e39aa5 f4c6c9 c76b7f",
        "f2ead3 f3c98b 3a2a22 c8553d e08e45 a63d2f",
        "e6eee3 f6edc9 2f2a26 6a994e a7c957 386641",
        "e6e6f0 f8e9d2 2f2b3f 8a86bf c0b4dc 5f5f93",
    )
    (width, height), unit = size, min(size)
    canvas = Image.new("RGB", size, rgb(colours[0]))
    pen = ImageDraw.Draw(canvas)
    dot(pen, (width * rng.uniform(0.35, 0.65), height * 0.42), unit * rng.uniform(0.24, 0.36), colours[1])
    starts, angles = np.array([[width * rng.uniform(0.42, 0.58), height * 0.93]]), np.array([-np.pi / 2])
    length, thick, spread = min(height * 0.22, width * 0.24), unit * 0.036, rng.uniform(0.3, 0.44)
    for _ in range(10):
        reach = length * rng.uniform(0.75, 1.2, len(starts))[:, None]
        ends = starts + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        for start, end in zip(starts, ends):
            pen.line((*start, *end), rgb(colours[2]), max(round(thick), 2))
            dot(pen, end, thick / 2, colours[2])
        starts, angles = np.repeat(ends, 2, axis=0), np.repeat(angles, 2)
        angles = angles + np.tile([-spread, spread], len(ends)) + rng.normal(0, 0.16, len(angles))
        length, thick = length * 0.77, thick * 0.7
    for end in rng.permutation(ends)[: int(len(ends) * rng.uniform(0.6, 1))]:
        dot(pen, end, unit * rng.uniform(0.007, 0.015), colours[rng.integers(3, 6)])
    dot(pen, (width * rng.uniform(0.3, 0.7), height * 0.88 + 3 * unit), 3 * unit, colours[5] * 0.6 + colours[0] * 0.4)
    return canvas


@family
def tartan(rng: Rng, size: Size) -> Image.Image:
    """Draw a woven tartan: one order of stripes, mirrored, in the warp and in the weft, crossing in a twill."""
    colours = palette(
        rng,
        "14342b 1f4e3d 1b2a49 b3262e e9c46a",
        "7a1020 a31621 12263a 1d4d3b f2efe6",
        "1b2a49 2f4b7c 0f1726 5f8f6b f1e3c8",
        "e8dcc5 c9a66b 1f1d1b a8322d f7f2e7",
        "3b2a4a 5f4b74 1e1b2e 7fa08a e6d5e8",
        "5c6b73 9db4c0 253237 c2703d f4f1ea",
    )
    order = np.repeat(rng.permutation([0, 1, 2, 0, 3, 1, 4]), rng.permutation([12, 10, 8, 6, 4, 2, 2]))
    sett, threads = colours[np.concatenate([order, order[::-1]])], rng.uniform(100, 150)
    x, y = (side * threads for side in field(size))
    warp, weft = x.astype(int), y.astype(int)
    over = (warp + weft) % 4 < 2
    cloth = np.where(over[..., None], sett[warp % len(sett)], sett[weft % len(sett)])
    bulge = np.where(over, np.sin(np.pi * (x - warp)), np.sin(np.pi * (y - weft)))  # Threads are round.
    return picture(cloth * (0.86 + 0.2 * bulge + 0.12 * (noise(rng, size) - 0.5)).astype(np.float32)[..., None])


def recompressed(image: Image.Image) -> Image.Image:
    """Return `image` as it comes back from a JPEG of low quality."""
    image.save(stream := io.BytesIO(), "JPEG", quality=12)
    return Image.open(stream).convert("RGB")


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "cropped": lambda image: ImageOps.fit(image, image.size, bleed=0.05),
    "mirrored": ImageOps.mirror,
    "recompressed": recompressed,
    "muted": lambda image: ImageEnhance.Color(image).enhance(0.45),
    "tilted": lambda image: ImageOps.fit(image.rotate(2, Image.Resampling.BICUBIC), image.size, bleed=0.04),
}


def draw_family(folder: Path, seed: int, number: int, label: str) -> list[tuple[str, str, str, str]]:
    """Draw family `number`, called `label`, into `folder`; return each picture's row for the manifest."""
    rows: list[tuple[str, str, str, str]] = []
    (folder / label).mkdir(parents=True, exist_ok=True)
    originals: list[tuple[str, Image.Image]] = []
    for index in range(DRAWN + EDITED):
        rng, suffix = np.random.default_rng((seed, number, index)), ("png", "jpg")[index % 2]
        if index < DRAWN:
            image, edit_of = FAMILIES[label](rng, SIZES[rng.integers(len(SIZES))]), ""
            uri, title = f"{label}/{label}-{index + 1:02}.{suffix}", f"{label.capitalize()} no. {index + 1}"
            originals.append((uri, image))
        else:
            # One original from each quarter of the family, so that none is edited twice.
            chosen = (index - DRAWN) * (DRAWN // EDITED) + int(rng.integers(DRAWN // EDITED))
            edit, change = list(EDITS.items())[(EDITED * number + index) % len(EDITS)]
            edit_of, image = originals[chosen][0], change(originals[chosen][1])
            uri, title = f"{edit_of[:-4]}-{edit}.{suffix}", f"{label.capitalize()} no. {chosen + 1}, {edit}"
        image.save(folder / uri, quality=90, compress_level=3)  # One is for JPEG, the other for PNG.
        rows.append((uri, title, label, edit_of))
    return rows


def write_collection(folder: Path, seed: int = 0, processes: int = 1) -> Path:
    """Draw the collection into `folder`, made where it is missing, and return its manifest's path.

    `processes` families are drawn at a time; the bytes are the same.

    The manifest, `manifest.csv`, has the columns uri (relative to it), title, label (the family) and edit_of (the uri
    of the picture that this is an edit of, or nothing). The same `seed` gives the same bytes with the same versions of
    the libraries. Raises ValueError for a negative seed, OSError where a file cannot be written.
    """
    rows = [("uri", "title", "label", "edit_of")]
    if processes == 1:
        for number, label in enumerate(FAMILIES):
            rows += draw_family(folder, seed, number, label)
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            families = [pool.submit(draw_family, folder, seed, *family) for family in enumerate(FAMILIES)]
            for family in families:
                rows += family.result()
    # Last, and in one step: a folder that has a manifest has the whole collection.
    manifest, partial = folder / "manifest.csv", folder / "manifest.csv.partial"
    with partial.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return partial.replace(manifest)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the collection into the folder that `argv` names, unless it is there already; return 0."""
    parser = argparse.ArgumentParser(description="Draw a sample collection of pictures, with its manifest.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="a non-negative integer (default: 0)")
    options = parser.parse_args(argv)
    if options.seed < 0:
        parser.error(f"argument --seed: should be 0 or more, not {options.seed}")
    if (options.folder / "manifest.csv").exists():
        print(f"{options.folder / 'manifest.csv'} is there already: nothing drawn")
    else:
        write_collection(options.folder, options.seed, os.cpu_count() or 1)
        print(f"drew {len(FAMILIES) * (DRAWN + EDITED)} pictures in {len(FAMILIES)} families: {options.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
