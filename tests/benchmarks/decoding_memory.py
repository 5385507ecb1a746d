"""The memory that decoding one picture takes, in bytes a pixel, by format and kind.

    .venv/bin/python tests/benchmarks/decoding_memory.py [--side 3000] [--only tiff]

Each picture is decoded in a process of its own, which has decoded a small one of the same kind before. Measured is by
how much the resident memory grows at most: beyond interpreter, libraries and the file itself. Pictures are made here.

- "whole": `decoding.decode` of all pixels, as for everything but JPEGs
- "reduced": the same for a network that wants 224 pixels; a JPEG is decoded at an eighth of its size or so
- "thumbnails": the two small files of the gallery
"""

import argparse
import io
import json
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import tiffs
from image_similarity.imaging import decoding, thumbnails

SMALL = 64
WAYS: dict[str, Callable[[bytes], object]] = {
    "whole": lambda content: decoding.decode(content, 2**30),
    "reduced": lambda content: decoding.decode(content, 2**30, 512),
    "thumbnails": lambda content: thumbnails.thumbnails(content, 2**30),
}


def scene(side: int) -> Image.Image:
    """RGB: smooth, with some noise, so that files have a usual size."""
    rise = np.linspace(0, 200, side, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 40, (side, side), dtype=np.uint8)
    values = np.empty((side, side, 3), dtype=np.uint8)
    values[:, :, 0], values[:, :, 1], values[:, :, 2] = rise + noise, rise[:, None] + noise, 90 + noise
    return Image.fromarray(values)


def saved(kind: str, mode: str = "RGB", **options: Any) -> Callable[[int], bytes]:
    """What makes a picture of a side: Pillow's ``mode``, written as ``kind``."""

    def make(side: int) -> bytes:
        picture = scene(side)
        if mode == "RGBA":
            picture.putalpha(scene(side).convert("L"))
        return encoded(picture if mode == "RGBA" else picture.convert(mode), kind, **options)

    return make


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def grey(side: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.asarray(scene(side).convert("L")).astype(np.uint16) * 257


def animated(kind: str) -> Callable[[int], bytes]:
    def make(side: int) -> bytes:
        frames = [scene(side), scene(side).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
        return encoded(frames[0], kind, save_all=True, append_images=frames[1:])

    return make


def turned(kind: str) -> Callable[[int], bytes]:
    """Lies on its side, by its EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation.value] = 6
    return saved(kind, exif=exif)


def interlaced(side: int) -> bytes:
    """Pillow writes no interlaced PNG: the seven passes of one, without filters."""
    values = np.asarray(scene(side))
    lines = b"".join(
        np.pad(part.reshape(len(part), -1), ((0, 0), (1, 0))).tobytes()
        for left, top, right, down in ADAM7
        if (part := values[top::down, left::right]).size
    )
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 1),
        b"IDAT": zlib.compress(lines, 1),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, columns and rows from one pixel to the next, of each pass (PNG specification, 8.2)."""

KINDS: dict[str, Callable[[int], bytes]] = {
    "JPEG": saved("JPEG"),
    "JPEG, turned by EXIF": turned("JPEG"),
    "JPEG, progressive": saved("JPEG", progressive=True),
    "JPEG, progressive 4:4:4": saved("JPEG", progressive=True, subsampling=0),
    "JPEG, grey": saved("JPEG", "L"),
    "JPEG, CMYK": saved("JPEG", "CMYK"),
    "JPEG, CMYK progressive": saved("JPEG", "CMYK", progressive=True),
    "PNG": saved("PNG", compress_level=1),
    "PNG, turned by EXIF": turned("PNG"),
    "PNG, interlaced": interlaced,
    "PNG, 1 bit": saved("PNG", "1"),
    "PNG, grey": saved("PNG", "L"),
    "PNG, 16-bit grey": lambda side: encoded(Image.fromarray(grey(side)), "PNG", compress_level=1),
    "PNG, palette": saved("PNG", "P"),
    "PNG, RGBA": saved("PNG", "RGBA", compress_level=1),
    "PNG, transparent colour": saved("PNG", transparency=(0, 0, 90), compress_level=1),
    "WebP": saved("WEBP", method=0),
    "WebP, alpha": saved("WEBP", "RGBA", method=0),
    "WebP, lossless": saved("WEBP", lossless=True, method=0, quality=0),
    "WebP, animated": animated("WEBP"),
    "GIF": saved("GIF", "P"),
    "GIF, animated": animated("GIF"),
    "BMP": saved("BMP"),
    "TIFF": lambda side: tiffs.tiff(np.asarray(scene(side)), rows=64),
    "TIFF, one strip": lambda side: tiffs.tiff(np.asarray(scene(side))),
    "TIFF, one deflated strip": lambda side: tiffs.tiff(np.asarray(scene(side)), deflated=True),
    "TIFF, tiles of 256": lambda side: tiffs.tiff(np.asarray(scene(side)), tile=(256, 256)),
    "TIFF, deflated tiles": lambda side: tiffs.tiff(np.asarray(scene(side)), tile=(512, 512), deflated=True),
    "TIFF, LZW": saved("TIFF", compression="tiff_lzw"),
    "TIFF, JPEG inside": saved("TIFF", compression="jpeg"),
    "TIFF, turned by EXIF": turned("TIFF"),
    "TIFF, CMYK": saved("TIFF", "CMYK"),
    "TIFF, LAB": saved("TIFF", "LAB"),
    "TIFF, 16-bit grey": lambda side: tiffs.tiff(grey(side)),
    "TIFF, 16-bit RGB": lambda side: tiffs.tiff(np.asarray(scene(side)).astype(np.uint16) * 257, deflated=True),
    "TIFF, 32-bit grey": lambda side: tiffs.tiff(grey(side).astype(np.uint32)),
    "TIFF, floating point": lambda side: tiffs.tiff(grey(side).astype(np.float32)),
    "JPEG 2000": saved("JPEG2000", irreversible=True, quality_layers=[20]),
    "JPEG 2000, RGBA": saved("JPEG2000", "RGBA", irreversible=True, quality_layers=[20]),
    "JPEG 2000, tiles": saved("JPEG2000", irreversible=True, quality_layers=[20], tile_size=(512, 512)),
    "AVIF": saved("AVIF", speed=10, quality=40),
    "AVIF, 4:4:4": saved("AVIF", speed=10, quality=40, subsampling="4:4:4"),
    "AVIF, alpha": saved("AVIF", "RGBA", speed=10, quality=40),
    "PPM": saved("PPM"),
    "PPM, 16-bit grey": lambda side: b"P5 %d %d 65535 " % (side, side) + grey(side).astype(">u2").tobytes(),
    "PPM, text": lambda side: b"P3 %d %d 255 " % (side, side) + b"7 200 91 " * side * side,
    "TGA": saved("TGA"),
    "TGA, run lengths": saved("TGA", compression="tga_rle"),
    "ICO": lambda side: icon(encoded(scene(side), "PNG", compress_level=1)),
}


def icon(png: bytes) -> bytes:
    """An icon that is a PNG of any size."""
    return b"\0\0\1\0\1\0" + b"\0\0\0\0\1\0\x18\0" + len(png).to_bytes(4, "little") + (22).to_bytes(4, "little") + png


def growth(way: str, file: Path, small: Path) -> int:
    """By how many bytes this process grows at most while it decodes ``file``."""
    content = file.read_bytes()
    WAYS[way](small.read_bytes())
    Path("/proc/self/clear_refs").write_text("5")  # what was held at most is counted anew
    before = _held("VmRSS")
    WAYS[way](content)
    return _held("VmHWM") - before


def _held(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def measured(way: str, file: Path, small: Path) -> int:
    command = [sys.executable, __file__, "--measure", way, str(file), str(small)]
    return int(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=3000, help="pixels")
    parser.add_argument("--only", default="", help="part of the names of kinds")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        way, *files = arguments.measure
        decoding.prepare_process(2**30)
        print(growth(way, *map(Path, files)))
        return 0
    Image.MAX_IMAGE_PIXELS = None
    print(f"bytes a pixel, of {arguments.side:,} x {arguments.side:,} pixels\n")
    print("| " + " | ".join(["picture", *WAYS]) + " |\n|---|" + "--:|" * len(WAYS))
    with tempfile.TemporaryDirectory() as folder:
        for name, make in KINDS.items():
            if arguments.only.lower() in name.lower():
                files = Path(folder) / "large", Path(folder) / "small"
                for file, side in zip(files, (arguments.side, SMALL)):
                    file.write_bytes(make(side))
                pixels = arguments.side**2
                print(
                    f"| {name} | " + " | ".join(f"{measured(way, *files) / pixels:.1f}" for way in WAYS) + " |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
