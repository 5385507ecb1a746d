"""Decoding: every mode upright and on white, and damaged files refused for the right reason."""

import io
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import tiffs
from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, jpeg2000, tiff

LIMIT = 10_000_000


def pixels_of(content: bytes, limit: int = LIMIT) -> decoding.Pixels:
    return decoding.decode(content, limit).pixels


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def gradient() -> Image.Image:
    """Dark on the left, light on the right: 64 x 32."""
    return Image.fromarray(np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (32, 1)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes_show_the_same(mode: str) -> None:
    pixels = pixels_of(encoded(gradient().convert("RGB").convert(mode)))
    assert pixels.shape == (32, 64, 3) and pixels.dtype == np.uint8
    assert pixels[:, :8].mean() < 30 and pixels[:, -8:].mean() > 225


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_jpeg_modes_show_the_same(mode: str) -> None:
    pixels = pixels_of(encoded(gradient().convert("RGB").convert(mode), "JPEG", quality=95))
    assert pixels[:, :8].mean() < 40 and pixels[:, -8:].mean() > 215


def test_transparency_is_put_on_white() -> None:
    see_through = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (pixels_of(encoded(see_through)) == 255).all()
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert np.unique(pixels_of(encoded(half))).tolist() == [127]
    keyed = Image.new("RGB", (4, 4), (10, 20, 30))
    assert (pixels_of(encoded(keyed, transparency=(10, 20, 30))) == 255).all()


def test_deep_grey_is_rescaled_not_clipped() -> None:
    values = np.tile(np.linspace(0, 65535, 64), (32, 1)).astype(np.uint16)
    pixels = pixels_of(encoded(Image.fromarray(values)))
    assert np.abs(pixels[0, :, 0].astype(int) - np.rint(values[0] / 257)).max() <= 1


def test_a_transparent_value_of_deep_grey_becomes_white() -> None:
    values = np.array([[0, 300, 30_000, 65_535]], dtype=np.uint16)
    content = encoded(Image.fromarray(values), transparency=300)
    assert pixels_of(content)[0, :, 0].tolist() == [0, 255, 117, 255]


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255])]
)
def test_floating_point_is_taken_in_its_usual_range(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert pixels_of(encoded(image, "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (60, 40), "black")
    upright.paste("white", (0, 0, 30, 20))  # the bright corner is at the top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that stores it so that the tag turns it back
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = pixels_of(encoded(stored, "PNG", exif=exif))
    assert pixels.shape == (40, 60, 3)
    assert pixels[:20, :30].mean() == 255 and pixels[20:].mean() == 0


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels_of(content)[0, 0].tolist() == [255, 0, 0]


def reason_of(content: bytes, limit: int = LIMIT) -> str:
    with pytest.raises(Unreadable) as caught:
        decoding.decode(content, limit)
    assert caught.value.reason in decoding.UNREADABLE_REASONS and "\n" not in caught.value.detail
    return caught.value.reason


def test_reasons() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    jpeg, png = encoded(noise, "JPEG"), encoded(noise)
    assert reason_of(b"") == "empty"
    assert reason_of(b"<html>not found</html>") == "not_an_image"
    assert reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not_an_image"
    assert reason_of(jpeg[: len(jpeg) // 2]) == "truncated"
    assert reason_of(png[: len(png) // 2]) == "truncated"
    assert reason_of(png, limit=64 * 64 - 1) == "too_many_pixels"
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 1
    assert reason_of(bytes(flipped)) == "corrupt"


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (OSError("Truncated File Read"), "Truncated File Read"),
        (SyntaxError("broken PNG file"), "broken PNG file"),
        (KeyError(7), "KeyError: 7"),
        (EOFError(), "EOFError"),
        (TypeError("'NoneType' object is not subscriptable"), "TypeError: 'NoneType' object is not subscriptable"),
    ],
)
def test_details_are_in_words(error: Exception, detail: str) -> None:
    with pytest.raises(Unreadable) as raised, decoding.as_unreadable():
        raise error
    assert raised.value.detail == detail


def test_formats_are_ones_that_pillow_opens() -> None:
    Image.init()
    assert set(decoding.FORMATS) <= set(Image.OPEN)


def test_c_libraries_are_kept_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    with decoding.quiet_decoders():
        os.write(2, b"chatter\n")
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"


def test_corrupt_png_suite_is_refused(data: Path) -> None:
    files = sorted((data / "awkward" / "pngsuite_corrupt").glob("*.png"))
    assert len(files) == 14
    for file in files:
        assert reason_of(file.read_bytes()) in ("corrupt", "not_an_image"), file.name


@pytest.mark.parametrize(
    "mode", ["1.png", "CMYK.jpg", "HSV.webp", "I.webp", "L.png", "LA.png", "P.png", "PA.webp", "RGBA.png", "YCbCr.jpg"]
)
def test_real_modes_show_one_scene(data: Path, mode: str) -> None:
    folder = data / "awkward" / "modes"
    reference, other = (
        np.asarray(Image.fromarray(pixels_of((folder / name).read_bytes())).convert("L").resize((24, 16)), dtype=float)
        for name in ("RGB.jpg", mode)
    )
    assert np.corrcoef(reference.ravel(), other.ravel())[0, 1] > 0.8


# -- metadata: what pixels do not need makes no picture unreadable -----------------------------------------------------

ASYMMETRIC = np.random.default_rng(5).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png_with(*chunks: bytes) -> bytes:
    """A PNG with ``chunks`` behind its header."""
    plain = encoded(Image.fromarray(ASYMMETRIC), "PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


EXIF_TURNED = Image.Exif()
EXIF_TURNED[ExifTags.Base.Orientation] = 6

METADATA = {
    "a wrong checksum of a comment": [chunk(b"tEXt", b"Title\0sunset", 1)],
    "a comment of two megabytes": [chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000)))],
    "a comment that is no zlib stream": [chunk(b"zTXt", b"Comment\0\0none")],
    "a profile of two megabytes": [chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000)))],
    "EXIF that is none": [chunk(b"eXIf", b"\xff" * 40)],
    "EXIF with a wrong checksum": [chunk(b"eXIf", EXIF_TURNED.tobytes()[6:], 1)],
    "an unknown chunk": [chunk(b"abCd", b"x" * 9)],
    "two faults": [chunk(b"tEXt", b"Title\0sunset", 1), chunk(b"eXIf", b"II")],
}


@pytest.mark.parametrize("case", METADATA)
def test_a_png_is_whole_whatever_its_metadata_are(case: str) -> None:
    np.testing.assert_array_equal(decoding.decode(png_with(*METADATA[case]), LIMIT).pixels, ASYMMETRIC)


def test_its_orientation_is_known_beside_a_damaged_comment() -> None:
    turned = decoding.decode(png_with(chunk(b"eXIf", EXIF_TURNED.tobytes()[6:]), chunk(b"tEXt", b"T\0s", 1)), LIMIT)
    np.testing.assert_array_equal(turned.pixels, np.rot90(ASYMMETRIC, -1))
    assert (turned.width, turned.height) == (12, 20)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
def test_what_pixels_need_must_be_whole(kind: bytes) -> None:
    content = bytearray(png_with(chunk(b"tEXt", b"Title\0sunset", 1)))
    place = content.rindex(kind)
    length = struct.unpack(">I", content[place - 4 : place])[0]
    content[place + 4 + length] ^= 1  # of its checksum
    assert reason_of(bytes(content)) == ("not_an_image" if kind == b"IHDR" else "corrupt")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("tag", [ExifTags.Base.XResolution, ExifTags.Base.DateTime, ExifTags.Base.ExifVersion, 0xC4A5])
def test_odd_tags_beside_an_orientation(orientation: int, tag: int) -> None:
    content = encoded(Image.fromarray(ASYMMETRIC), "JPEG", exif=odd_exif(orientation, int(tag)))
    plain = pixels_of(encoded(Image.fromarray(ASYMMETRIC), "JPEG"))
    np.testing.assert_array_equal(pixels_of(content), plain if orientation == 1 else np.rot90(plain, -1))


def odd_exif(orientation: int, tag: int) -> bytes:
    """EXIF with an orientation, and a ``tag`` that is a negative fraction. Written by hand: Pillow refuses to."""
    behind = 8 + 2 + 2 * 12 + 4  # the header, the number of entries, the entries, the address of what follows
    entries = [(ExifTags.Base.Orientation.value, 3, struct.pack("<HH", orientation, 0))]
    entries += [(tag, 10, struct.pack("<I", behind))]
    body = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in sorted(entries))
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + struct.pack("<ii", -72, 1)
    return b"Exif\0\0" + tiff


def test_damage_that_libjpeg_reads_over_is_not_noticed() -> None:
    """A JPEG has no checksums. This is what happens, and the documentation says so."""
    content = bytearray(encoded(Image.fromarray(np.kron(ASYMMETRIC, np.ones((20, 20, 1), dtype=np.uint8))), "JPEG"))
    middle = len(content) // 2
    content[middle:-2] = bytes(len(content) - 2 - middle)
    assert decoding.decode(bytes(content), LIMIT).pixels.shape == (240, 400, 3)


# -- memory: what is decoded decides, not what is claimed --------------------------------------------------------------

TINY = np.random.default_rng(6).integers(0, 256, (64, 64, 3), dtype=np.uint8)
VAST = 45_056  # the square of it, in grey, is 1.9 GiB
VAST_TILE = {tiffs.TILE_WIDTH: VAST, tiffs.TILE_LENGTH: VAST}

CLAIMS: dict[str, tuple[bytes, str]] = {
    "a vast tile": (
        tiffs.tiff(TINY[:, :, 0], tile=(64, 64), deflated=True, claims=VAST_TILE),
        "too_many_pixels",
    ),
    "a vast tile in a BigTIFF": (
        tiffs.tiff(TINY, tile=(64, 64), big=True, claims=VAST_TILE),
        "too_many_pixels",
    ),
    "a vast tile, the bytes in the other order": (
        tiffs.tiff(TINY, tile=(64, 64), order=">", claims=VAST_TILE),
        "too_many_pixels",
    ),
    "a tile that is all but as long as its picture": (
        tiffs.tiff(TINY, tile=(64, 64), planes=True, claims={tiffs.TILE_WIDTH: 2**30}),
        "too_many_pixels",
    ),
    "a strip for each pixel, and more": (tiffs.tiff(TINY, claims={tiffs.STRIP_OFFSETS: range(8, 400_008)}), "corrupt"),
    "bits of samples that are not there": (tiffs.tiff(TINY, claims={tiffs.BITS: [300] * 400_000}), "corrupt"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_claims_beyond_the_picture_are_refused(case: str) -> None:
    content, reason = CLAIMS[case]
    assert reason_of(content) == reason


def test_two_tags_of_a_tile_are_judged_by_the_larger_one() -> None:
    """Pillow takes the first of two equal tags in some versions, the last in others; libtiff may take another."""
    honest = tiffs.tiff(TINY, tile=(64, 64), claims={**VAST_TILE, 326: 64, 327: 64})
    for doubled in (tiffs.TILE_WIDTH, tiffs.TILE_LENGTH):
        honest = honest.replace(struct.pack("<HHI", doubled + 4, 3, 1), struct.pack("<HHI", doubled, 3, 1))
    assert reason_of(honest) == "too_many_pixels"


STRIPS = {"one strip": {}, "no end to a strip": {"claims": {tiffs.ROWS: 2**32 - 1}}, "strips of a row": {"rows": 1}}
TILES = {f"tiles of {side}": {"tile": (side, side)} for side in (16, 256, 512, 1024)}
KINDS = {"plain": {}, "deflated": {"deflated": True}, "BigTIFF": {"big": True}, "in planes": {"planes": True}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [*STRIPS, *TILES])
def test_honest_strips_and_tiles_are_decoded(layout: str, kind: str) -> None:
    values = np.random.default_rng(7).integers(0, 256, (300, 700, 3), dtype=np.uint8)
    content = tiffs.tiff(values, **KINDS[kind], **(STRIPS | TILES)[layout])  # type: ignore[arg-type]
    np.testing.assert_array_equal(pixels_of(content), values)


def test_the_largest_excess_is_allowed() -> None:
    """A tile of 4,096 x 4,096, of which the picture is a corner."""
    side = int(tiff.MOST_EXCESS**0.5)
    tiff.check_claims(tiffs.tiff(TINY, tile=(64, 64), claims={tiffs.TILE_WIDTH: side, tiffs.TILE_LENGTH: side}))
    with pytest.raises(Unreadable):
        tiff.check_claims(
            tiffs.tiff(TINY, tile=(64, 64), claims={tiffs.TILE_WIDTH: side, tiffs.TILE_LENGTH: side + 16})
        )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "content", [b"II", b"II*\0" + bytes(30), b"MM\0+" + b"\xff" * 30, b"II*\0\x08\0\0\0\xff\xff" + bytes(9)]
)
def test_what_is_no_whole_tiff_is_left_to_the_decoder(content: bytes) -> None:
    assert reason_of(content) in ("not_an_image", "corrupt", "truncated")


MEASURED = """
import sys
from pathlib import Path
from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding

def held(name):
    return 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name)))

decoding.prepare_process(2**27)
warm, *files = [Path(name).read_bytes() for name in sys.argv[1:]]
decoding.decode(warm, 2**27)
for content in files:
    Path("/proc/self/clear_refs").write_text("5")
    before = held("VmRSS")
    try:
        decoding.decode(content, 2**27)
    except Unreadable:
        pass
    print(held("VmHWM") - before)
"""


def grown(folder: Path, *contents: bytes) -> list[int]:
    """By how many bytes a process of its own grows at most while it decodes each of ``contents``."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say how much memory a process has held")
    files = [folder / str(number) for number in range(len(contents) + 1)]
    for file, content in zip(files, [encoded(gradient()), *contents]):
        file.write_bytes(content)
    command = [sys.executable, "-c", MEASURED, *map(str, files)]
    path = {"PYTHONPATH": str(Path(decoding.__file__).parents[2])}
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=path, text=True).stdout
    return [int(line) for line in told.split()]


def test_claims_take_no_memory(tmp_path: Path) -> None:
    contents = [content for content, _ in CLAIMS.values()]
    assert max(grown(tmp_path, *contents)) < 100 * 2**20


def test_a_vast_exif_takes_no_memory(tmp_path: Path) -> None:
    """Pillow makes a Python object of every number of a tag. An orientation of millions of numbers is none."""
    numbers = 6_000_000
    exif = (
        b"II*\0\x08\0\0\0\1\0"
        + struct.pack("<HHII", ExifTags.Base.Orientation, 3, numbers, 26)
        + bytes(2 * numbers + 4)
    )
    content = png_with(chunk(b"eXIf", exif))
    np.testing.assert_array_equal(pixels_of(content), ASYMMETRIC)
    assert max(grown(tmp_path, content)) < 60 * 2**20


USUAL: dict[str, dict[str, object]] = {
    "as it comes": {},
    "blocks of 32, precincts of 256": {"codeblock_size": (32, 32), "precinct_size": (256, 256)},
    "tiles of 128, no boxes": {"tile_size": (128, 128), "no_jp2": True},
    "blocks of 8": {"codeblock_size": (8, 8)},
}


@pytest.mark.parametrize("boxes", [True, False])
def test_a_jpeg_2000_in_tiny_blocks_or_tiles_is_refused(boxes: bool) -> None:
    content = bytearray(encoded(Image.new("RGB", (1600, 1600)), "JPEG2000", no_jp2=not boxes))
    place = content.index(b"\xff\x52")
    content[place + 10 : place + 12] = b"\0\0"  # 4 x 4: to make such a file takes gigabytes
    assert reason_of(bytes(content)) == "too_many_pixels"
    content = bytearray(encoded(Image.new("RGB", (120, 120)), "JPEG2000", tile_size=(1, 1), no_jp2=not boxes))
    assert reason_of(bytes(content)) == "too_many_pixels"


@pytest.mark.parametrize("blocks", USUAL)
def test_a_usual_jpeg_2000_is_decoded(blocks: str) -> None:
    values = np.kron(ASYMMETRIC, np.ones((30, 30, 1), dtype=np.uint8))
    content = encoded(Image.fromarray(values), "JPEG2000", **USUAL[blocks])
    np.testing.assert_array_equal(pixels_of(content), values)


def test_tiny_precincts_are_counted_at_their_resolution() -> None:
    """The markers of a main header: size, and a style with the precincts of three resolutions, the coarsest first."""

    def codestream(*precincts: int) -> bytes:
        size = struct.pack(">HHHIIIIIIIIH", 0xFF51, 47, 0, 4096, 4096, 0, 0, 4096, 4096, 0, 0, 3) + b"\7\1\1" * 3
        style = bytes([1, 0, 0, 1, 0, 2, 4, 4, 0, 0, *precincts])
        return b"\xff\x4f" + size + struct.pack(">HH", 0xFF52, 2 + len(style)) + style

    jpeg2000.check_blocks(codestream(0x33, 0x55, 0x77))
    for precincts in [(0x00, 0x55, 0x77), (0x33, 0x11, 0x77), (0x33, 0x55, 0x11)]:
        finest = min(4 ** (size % 16 + 2 - coarse) for coarse, size in enumerate(precincts))
        if 3 / finest > 1 / 32 + jpeg2000.MOST_BLOCKS / 4096**2:
            with pytest.raises(Unreadable):
                jpeg2000.check_blocks(codestream(*precincts))
        else:
            jpeg2000.check_blocks(codestream(*precincts))


SIDE = 2000
DEEP = np.random.default_rng(8).integers(0, 65_536, (SIDE, SIDE), dtype=np.uint16)


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoded(Image.fromarray(DEEP), "PNG", compress_level=0),
        lambda: tiffs.tiff(DEEP.astype(np.uint32)),
        lambda: tiffs.tiff(DEEP.astype(np.float32)),
        lambda: encoded(Image.fromarray(DEEP.astype(np.uint8)).convert("RGBA"), compress_level=0),
        lambda: encoded(Image.fromarray(DEEP.astype(np.uint8)).convert("P"), "GIF"),
    ],
    ids=["16-bit PNG", "32-bit TIFF", "floating-point TIFF", "RGBA", "palette"],
)
def test_conversion_takes_a_few_bytes_a_pixel(tmp_path: Path, make: Callable[[], bytes]) -> None:
    """It was 13 to 37: whole copies in several modes."""
    assert max(grown(tmp_path, make())) < 11.5 * SIDE**2


def test_pictures_of_several_blocks_are_converted_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = DEEP[:301, :401]
    palette = Image.fromarray(values.astype(np.uint8)).convert("P")
    contents = [
        encoded(Image.fromarray(values), transparency=int(values[0, 0])),
        tiffs.tiff(values.astype(np.float32) - 30_000),
        encoded(palette, transparency=bytes(range(256))),
        encoded(Image.fromarray(np.dstack([values.astype(np.uint8)] * 3 + [(values >> 8).astype(np.uint8)]))),
    ]
    whole = [pixels_of(content) for content in contents]
    for block in (1000, 100):  # rows together, parts of rows
        monkeypatch.setattr(decoding, "_BLOCK", block)
        for content, expected in zip(contents, whole):
            np.testing.assert_array_equal(pixels_of(content), expected)


@pytest.mark.filterwarnings("ignore:Image was not")
def test_an_icon_is_as_large_as_the_picture_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow knows that size only while it decodes."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    png = encoded(Image.new("L", (300, 200)))
    icon = b"\0\0\1\0\1\0" + b"\x10\x10\0\0\1\0\x20\0" + struct.pack("<II", len(png), 22) + png
    decoding.prepare_process(300 * 200)
    assert pixels_of(icon, 300 * 200).shape == (200, 300, 3)
    decoding.prepare_process(300 * 200 - 2)
    with pytest.raises(Unreadable, match="exceeds limit") as caught:  # told before the pixels were decoded
        decoding.decode(icon, 300 * 200 - 2)
    assert caught.value.reason == "too_many_pixels"


def test_threads_together_decode_no_more_than_one_largest_picture() -> None:
    """Others wait, and a picture that is larger than everything is decoded alone."""
    turns = decoding.Turns()
    order: list[str] = []
    first = turns.taken(60, 100)
    first.__enter__()
    with turns.taken(40, 100):
        order.append("what fits beside it")

    def wait(pixels: int, name: str) -> None:
        with turns.taken(pixels, 100):
            order.append(name)

    waiting = threading.Thread(target=wait, args=(200, "what does not"), daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive() and order == ["what fits beside it"]
    first.__exit__(None, None, None)
    waiting.join(10)
    assert order == ["what fits beside it", "what does not"]


def test_a_turn_ends_with_its_picture_whatever_became_of_it() -> None:
    flawed = png_with(chunk(b"tEXt", b"Title\0sunset", 1))
    for content in (flawed, encoded(gradient())[:-30], encoded(gradient()), b"text"):
        try:
            decoding.decode(content, LIMIT)
        except Unreadable:
            pass
        assert decoding.turns._pixels == 0


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pixels that each picture is counted as."""
    counts: list[int] = []

    def record(pixels: int, limit: int) -> AbstractContextManager[None]:
        counts.append(pixels)
        return nullcontext()

    monkeypatch.setattr(decoding, "_taken", record)
    return counts


@pytest.mark.parametrize(("options", "counted"), [({}, 1), ({"progressive": True}, 16), ({"scans": True}, 16)])
def test_a_jpeg_counts_as_what_is_held_of_it(options: dict[str, bool], counted: int, taken: list[int]) -> None:
    """A part of the pixels, if it is decoded line by line at a part of its size; else all of them."""
    content = encoded(Image.fromarray(TINY).resize((2048, 2048)), "JPEG", progressive="progressive" in options)
    if "scans" in options:  # one scan for each component: the beginning of such a one, in a comment
        content = content[:2] + b"\xff\xfe\0\x07" + b"\xff\xda\0\x08\x01" + content[2:]
    decoding.decode(content, LIMIT, at_least=512)
    assert taken == [512 * 512 * counted]


def test_other_pictures_count_as_all_of_their_pixels(taken: list[int]) -> None:
    """Icons, whose size is not known before, as the largest picture."""
    decoding.decode(encoded(gradient()), LIMIT, at_least=16)
    decoding.decode(encoded(gradient(), "ICO"), LIMIT, at_least=16)
    assert taken == [64 * 32, LIMIT]


@pytest.mark.parametrize("length", [0, 1, 12, 13])
def test_a_part_of_a_jpeg2000_that_leads_back_to_itself_is_not_followed(length: int) -> None:
    size = b"\xff\x51" + struct.pack(">HH8I", 38, 0, 8, 8, 0, 0, 8, 8, 0, 0) + struct.pack(">H", 1)
    part = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, length, 0, 1) + b"\xff\x93" + bytes(20)
    jpeg2000.check_blocks(b"\xff\x4f" + size + part)
