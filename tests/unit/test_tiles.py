"""The tiles of the map: what a cell shows of a picture, and what is transparent."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from image_similarity.errors import Unreadable
from image_similarity.imaging import tiles
from image_similarity.imaging.tiles import CELL, SIDE, TILE

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 30), (30, 30, 200)


def webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=90)
    return out.getvalue()


def striped(size: tuple[int, int], *colours: tuple[int, int, int]) -> Image.Image:
    """Bands of equal height, from the top."""
    bands = np.zeros((size[1], size[0], 3), np.uint8)
    for number, band in enumerate(np.array_split(np.arange(size[1]), len(colours))):
        bands[band] = colours[number]
    return Image.fromarray(bands)


def near(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixels[..., :3].astype(int) - colour).max() < 24)


@pytest.mark.parametrize("size", [(480, 480), (480, 200), (200, 480), (480, 1), (1, 1), (3, 5)])
def test_a_cell_is_filled_up_to_its_gutter(size: tuple[int, int]) -> None:
    cell = tiles.cell(webp(Image.new("RGB", size, RED)))
    assert cell.shape == (CELL, CELL, 4) and cell.dtype == np.uint8
    inside = np.zeros((CELL, CELL), bool)
    inside[1:-1, 1:-1] = True
    assert (cell[inside, 3] == 255).all() and not cell[~inside].any()
    assert near(cell[inside], RED)


def test_of_an_upright_picture_more_is_cut_below_than_above() -> None:
    # The square of 200 begins at (500 - 200) / 3 = 100: in the first band, 20 pixels above its end.
    cell = tiles.cell(webp(striped((200, 480), *[RED] * 1, GREEN, BLUE, BLUE)))
    assert near(cell[2:6, 8:-8], RED) and near(cell[20:30, 8:-8], GREEN) and near(cell[-6:-2, 8:-8], BLUE)
    rows = (np.argmax(cell[1:-1, 32, :3], axis=1) == 1).nonzero()[0]
    assert rows[0] == pytest.approx((120 - 280 / 3) / 200 * 62, abs=1.5)


def test_of_a_wide_picture_the_middle_is_shown() -> None:
    picture = striped((200, 480), RED, GREEN, BLUE).transpose(Image.Transpose.ROTATE_90)
    cell = tiles.cell(webp(picture))
    green = np.argmax(cell[32, 1:-1, :3], axis=1) == 1
    assert green[10:52].all() and not green[0] and not green[-1]


def test_black_bars_are_left_out() -> None:
    framed = Image.new("RGB", (224, 224), (3, 2, 6))
    framed.paste(striped((224, 100), GREEN, GREEN), (0, 62))
    assert near(tiles.cell(webp(framed))[4:-4, 4:-4], GREEN)
    black = tiles.cell(webp(Image.new("RGB", (224, 100))))
    assert near(black[1:-1, 1:-1], (0, 0, 0)) and (black[1:-1, 1:-1, 3] == 255).all()


@pytest.mark.parametrize("size", [(448, 80), (80, 448), (448, 190), (150, 448)])
def test_bars_are_on_two_opposite_sides(size: tuple[int, int]) -> None:
    """Of wide films in upright frames, and upright ones in wide frames: up to a fifth of the frame is left."""
    framed = Image.new("RGB", (448, 448) if min(size) > 89 else (380, 380), (3, 2, 6))
    light = Image.new("RGB", (min(size[0], framed.width), min(size[1], framed.height)), GREEN)
    framed.paste(light, ((framed.width - light.width) // 2, (framed.height - light.height) // 2))
    assert near(tiles.cell(webp(framed))[6:-6, 6:-6], GREEN)


@pytest.mark.parametrize("light", [(8, 8), (60, 60), (200, 60), (480, 12), (12, 320)])
def test_a_light_in_a_dark_picture_is_not_all_that_is_shown(light: tuple[int, int]) -> None:
    night = Image.new("RGB", (480, 320), (3, 2, 6))
    night.paste(Image.new("RGB", light, GREEN), ((480 - light[0]) // 2, (320 - light[1]) // 2))
    shown = tiles.cell(webp(night))[1:-1, 1:-1, 1] > 80
    assert shown.mean() == pytest.approx(min(1, light[0] / 320) * light[1] / 320, abs=0.02)


@pytest.mark.parametrize("damaged", [b"", b"no picture", webp(Image.new("RGB", (480, 320), RED))[:-40]])
def test_a_damaged_picture_is_refused(damaged: bytes) -> None:
    with pytest.raises(Unreadable):
        tiles.cell(damaged)


def test_what_thumbnails_did_not_make_is_refused() -> None:
    png = io.BytesIO()
    Image.new("RGB", (20, 20)).save(png, "PNG")
    with pytest.raises(Unreadable):
        tiles.cell(png.getvalue())
    with pytest.raises(Unreadable, match="481 x 20, where 480 is the most"):
        tiles.cell(webp(Image.new("RGB", (481, 20))))


def test_a_tile_has_its_cells_row_by_row_and_is_transparent_elsewhere() -> None:
    red, blue = (tiles.cell(webp(Image.new("RGB", (90, 90), colour))) for colour in (RED, BLUE))
    cells: list[tiles.Cell | None] = [None] * SIDE**2
    cells[1], cells[SIDE] = red, blue
    content = tiles.tile(cells)
    shown = tiles.pixels(content)
    opaque = np.zeros((TILE, TILE), bool)
    opaque[1 : CELL - 1, CELL + 1 : 2 * CELL - 1] = opaque[CELL + 1 : 2 * CELL - 1, 1 : CELL - 1] = True
    assert (shown[..., 3] == np.where(opaque, 255, 0)).all()
    assert near(shown[4 : CELL - 4, CELL + 4 : 2 * CELL - 4], RED)
    assert near(shown[CELL + 4 : 2 * CELL - 4, 4 : CELL - 4], BLUE)
    assert content == tiles.tile(cells), "the same cells are the same bytes"


def test_the_wall_is_cut_from_its_tiles() -> None:
    red, blue = (
        tiles.pixels(tiles.tile([tiles.cell(webp(Image.new("RGB", (9, 9), colour)))] * 16)) for colour in (RED, BLUE)
    )
    content = tiles.wall({(0, 0): red, (1, 1): blue}, TILE + CELL, TILE + CELL)
    with Image.open(io.BytesIO(content)) as opened:
        shown = np.asarray(opened.convert("RGBA"))
    assert shown.shape == (TILE + CELL, TILE + CELL, 4)
    assert near(shown[4:60, 4:60], RED) and near(shown[TILE + 4 : TILE + 60, TILE + 4 : TILE + 60], BLUE)
    assert not shown[:TILE, TILE:, 3].any() and not shown[TILE:, :TILE, 3].any()


def test_a_damaged_tile_is_refused() -> None:
    content = tiles.tile([None] * 16)
    for damaged in (content[:-8], webp(Image.new("RGB", (20, 20)))):
        with pytest.raises(Unreadable):
            tiles.pixels(damaged)
