"""Spark draws the map's tiles: once for each content, the same whatever the tasks are, and none goes that is shown."""

import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from image_similarity.errors import JobFailed
from image_similarity.imaging import tiles as imaging
from image_similarity.pages import paths
from image_similarity.pages.site import Site
from image_similarity.stages.map import blocks, files, places, tiles, wall
from image_similarity.stages.map.blocks import Nodes
from image_similarity.stages.map.tiles import Counts
from image_similarity.storage.local import LocalFiles
from image_similarity.warehouse.workspace import Workspace
from walls import images, pyramid, write_picture

N, COLUMNS, ROWS = 200, 21, 15
RUNS = [f"r20260101T00000{number}-0000000{number}" for number in range(4)]


def picture(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def colour(number: int) -> tuple[int, int, int]:
    return 40 + number % 6 * 40, 40 + number // 6 % 6 * 40, 40 + number // 36 * 35


def small(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (60, 40), colour(number)).save(out, "WEBP", quality=90)
    return out.getvalue()


class Gallery:
    """A gallery's folder with the pictures of `N` images, and maps of them that are drawn into it."""

    def __init__(self, spark: SparkSession, folder: Path):
        self.spark, self.folder = spark, folder
        self.site = Site("gallery", str(folder / "gallery"), LocalFiles())
        self.images = images([picture(number) for number in range(N)])
        taken = np.random.default_rng(0).permutation(COLUMNS * ROWS)[:N]
        self.cell = np.stack([taken % COLUMNS, taken // COLUMNS], axis=1).astype(np.int32)
        for number in range(N):
            write_picture(folder / "gallery", picture(number), small(number))

    @property
    def pyramid(self) -> list[Nodes]:
        return pyramid(COLUMNS, ROWS, self.cell)

    def scratch(self, name: str) -> Workspace:
        return Workspace(self.spark, LocalFiles(), f"file://{self.folder}/scratch-{name}")

    def draw(self, run: str, *previous: str, checked: int | None = None) -> Counts:
        scratch = self.scratch(f"tiles-{run}")
        return tiles.draw(self.spark, self.site, run, self.pyramid, self.images, [[]], previous, scratch, checked)

    def tiles(self) -> dict[str, bytes]:
        return {file.stem: file.read_bytes() for file in sorted((self.folder / "gallery/map/tiles").rglob("*.webp"))}

    def data(self, run: str) -> dict[str, str]:
        folder = self.folder / "gallery" / files.folder(run) / "blocks"
        return {file.name: file.read_text() for file in sorted(folder.iterdir())}

    def picture_file(self, number: int) -> Path:
        return self.folder / "gallery" / paths.picture_path(picture(number), paths.SMALL)


@pytest.fixture
def gallery(spark: SparkSession, tmp_path: Path) -> Gallery:
    return Gallery(spark, tmp_path)


def shown(gallery: Gallery, run: str, level: int) -> dict[tuple[int, int], tuple[int, int, int]]:
    """(column, row) -> the colour in the middle of each cell of a level, as a page finds it; transparent ones left
    out.
    """
    cells = {}
    for name, text in gallery.data(run).items():
        data = json.loads(re.fullmatch(r'map\.block\("[\d-]+",(.*)\)', text)[1])  # type: ignore[index]
        first = int(name.partition("-")[0])
        if not first <= level < first + len(data["levels"]):
            continue
        for place, tile in data["levels"][level - first]["tiles"].items():
            pixels = imaging.pixels((gallery.folder / "gallery" / files.tile_path(tile)).read_bytes())
            x, y = map(int, place.split("-"))
            for at in range(16):
                red, green, blue, opacity = map(int, pixels[at // 4 * 64 + 32, at % 4 * 64 + 32])
                if opacity:
                    cells[x * 4 + at % 4, y * 4 + at // 4] = red, green, blue
    return cells


def test_every_level_shows_the_pictures_of_its_nodes(gallery: Gallery) -> None:
    counts = gallery.draw(RUNS[0])
    for level, nodes in enumerate(gallery.pyramid):
        cells = shown(gallery, RUNS[0], level)
        rows, columns = np.nonzero(nodes >= 0)
        assert cells.keys() == set(zip(columns.tolist(), rows.tolist()))
        for (column, row), pixel in cells.items():
            assert np.abs(np.subtract(pixel, colour(int(nodes[row, column])))).max() < 12
    drawn = gallery.tiles()
    sizes = sum(map(len, drawn.values()))
    assert counts == Counts(
        tiles=blocks.count(gallery.pyramid),
        drawn=len(drawn),
        bytes=sizes,
        blocks=len(gallery.data(RUNS[0])),
        block_bytes=sum(map(len, gallery.data(RUNS[0]).values())),
        absent=0,
    )


def test_the_bytes_do_not_depend_on_the_tasks(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_LEAST_PER_TASK", 10 * N)
    gallery.draw(RUNS[0])
    other = Gallery(gallery.spark, tmp_path / "other")
    monkeypatch.setattr(tiles, "_LEAST_PER_TASK", 4)
    monkeypatch.setattr(tiles, "_MOST_PER_TASK", 5)
    other.draw(RUNS[0])
    assert other.tiles() == gallery.tiles() and other.data(RUNS[0]) == gallery.data(RUNS[0])
    files_of_spark = len(list((tmp_path / "other/gallery" / files.inventory(RUNS[0])).glob("*.parquet")))
    assert files_of_spark > len(list((tmp_path / "gallery" / files.inventory(RUNS[0])).glob("*.parquet")))


def test_what_is_there_is_not_drawn_again(gallery: Gallery) -> None:
    first = gallery.draw(RUNS[0])
    before = {path: path.stat().st_mtime_ns for path in (gallery.folder / "gallery/map/tiles").rglob("*.webp")}
    for number in range(N):
        gallery.picture_file(number).unlink()  # no picture is opened
    assert gallery.draw(RUNS[1], RUNS[0]) == replace(first, drawn=0)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert gallery.data(RUNS[1]) == gallery.data(RUNS[0])


def test_a_changed_cell_redraws_the_tiles_above_it_alone(gallery: Gallery) -> None:
    gallery.draw(RUNS[0])
    last = N - 1  # it stands for no other on the levels above, as it has the highest index
    gallery.images = gallery.images.set_column(
        1, "picture", pa.array([*gallery.images["picture"].to_pylist()[:-1], picture(N)])
    )
    write_picture(gallery.folder / "gallery", picture(N), small(N))
    levels = sum(int((nodes == last).any()) for nodes in gallery.pyramid)
    counts = gallery.draw(RUNS[1], RUNS[0])
    assert counts.drawn == levels >= 1 and counts.tiles > 3 * levels


def test_a_damaged_tile_is_drawn_again(gallery: Gallery) -> None:
    gallery.draw(RUNS[0])
    whole = gallery.tiles()
    shortened, emptied, gone, *_ = whole
    for name, content in ((shortened, whole[shortened][:-1]), (emptied, b"")):
        (gallery.folder / "gallery" / files.tile_path(name)).write_bytes(content)
    (gallery.folder / "gallery" / files.tile_path(gone)).unlink()
    assert gallery.draw(RUNS[1], RUNS[0]).drawn == 3
    assert gallery.tiles() == whole


def test_a_damaged_inventory_is_no_inventory(gallery: Gallery) -> None:
    first = gallery.draw(RUNS[0])
    for file in (gallery.folder / "gallery" / files.inventory(RUNS[0])).glob("*.parquet"):
        file.write_bytes(b"damaged")
    tiles._recorded.cache_clear()
    assert gallery.draw(RUNS[1], RUNS[0], "r20250101T000000-00000000") == replace(first, drawn=0)


def test_a_picture_that_is_gone_is_an_empty_cell_until_it_is_back(gallery: Gallery) -> None:
    content = [gallery.picture_file(number).read_bytes() for number in (0, 7)]
    gallery.picture_file(0).unlink()
    gallery.picture_file(7).write_bytes(b"no picture")
    counts = gallery.draw(RUNS[0])
    assert counts.absent == 2
    deepest = len(gallery.pyramid) - 1
    cells = shown(gallery, RUNS[0], deepest)
    assert len(cells) == N - 2
    assert all(tuple(cell) not in cells for cell in gallery.cell[[0, 7]].tolist())
    for text in gallery.data(RUNS[0]).values():
        assert picture(0) not in text and picture(7) not in text
    again = gallery.draw(RUNS[1], RUNS[0])
    assert again.absent == 2 and again.drawn == 0
    for number, of in zip((0, 7), content):
        gallery.picture_file(number).write_bytes(of)
    healed = gallery.draw(RUNS[2], RUNS[1])
    assert healed.absent == 0 and 0 < healed.drawn < healed.tiles
    assert len(shown(gallery, RUNS[2], deepest)) == N


def test_unused_tiles_and_older_maps_are_removed(gallery: Gallery) -> None:
    gallery.draw(RUNS[0])
    root = gallery.folder / "gallery/map"
    only_first = set(gallery.tiles())
    gallery.cell = gallery.cell[::-1].copy()  # each picture moves
    gallery.draw(RUNS[1], RUNS[0])
    second = {name for name in gallery.tiles() if name not in only_first}
    (root / "map.json").write_text("{}")
    (root / "map.json.0123abcd.tmp").write_text("{}")
    (root / "tiles" / "ab").mkdir(exist_ok=True)
    (root / "tiles" / "ab" / f"ab{'0' * 30}.webp.0123abcd.tmp").write_bytes(b"half")
    assert tiles.remove_unused(gallery.spark, gallery.site, [RUNS[1], RUNS[0]]) == 1, "the half-written one"
    assert set(gallery.tiles()) == only_first | second
    gallery.draw(RUNS[2], RUNS[1])
    assert tiles.remove_unused(gallery.spark, gallery.site, [RUNS[2], RUNS[1]]) == len(only_first)
    assert set(gallery.tiles()) == second
    assert {entry.name for entry in root.iterdir()} == {"tiles", "map.json", RUNS[1], RUNS[2]}


def test_no_tile_is_removed_where_the_own_inventory_is_damaged(gallery: Gallery) -> None:
    gallery.draw(RUNS[0])
    for file in (gallery.folder / "gallery" / files.inventory(RUNS[0])).glob("*.parquet"):
        file.write_bytes(b"damaged")
    before = gallery.tiles()
    with pytest.raises(Exception, match="(?i)parquet"):
        tiles.remove_unused(gallery.spark, gallery.site, [RUNS[0]])
    assert gallery.tiles() == before


def test_the_wall_is_one_picture(gallery: Gallery) -> None:
    gallery.draw(RUNS[0])
    whole = wall.write(gallery.spark, gallery.site, RUNS[0], gallery.pyramid)
    assert whole == wall.Wall(f"map/{RUNS[0]}/wall.webp", COLUMNS * 64, ROWS * 64)
    with Image.open(gallery.folder / "gallery" / whole.path) as opened:
        pixels = np.asarray(opened.convert("RGBA"))
    assert pixels.shape == (ROWS * 64, COLUMNS * 64, 4)
    middle = pixels[32::64, 32::64]
    for number, (column, row) in enumerate(gallery.cell.tolist()):
        assert np.abs(middle[row, column, :3].astype(int) - colour(number)).max() < 12
    assert (middle[..., 3] > 0).sum() == N


def test_a_damaged_tile_of_the_wall_is_named(gallery: Gallery) -> None:
    gallery.draw(RUNS[0])
    for file in (gallery.folder / "gallery/map/tiles").rglob("*.webp"):
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(JobFailed, match=r"[0-9a-f]{32}\.webp is damaged: run render_map again"):
        wall.write(gallery.spark, gallery.site, RUNS[0], gallery.pyramid)


def test_damaged_tiles_of_the_wall_are_drawn_again(gallery: Gallery) -> None:
    """Though they have as many bytes as they had."""
    gallery.draw(RUNS[0])
    whole, level = gallery.tiles(), wall.level_of(gallery.pyramid)
    of_wall = tiles.inventory(gallery.spark, gallery.site, RUNS[0]).where(f"level = {level}").collect()
    for name in whole:
        (gallery.folder / "gallery" / files.tile_path(name)).write_bytes(bytes(len(whole[name])))
    assert gallery.draw(RUNS[1], RUNS[0], checked=level).drawn == len(of_wall) > 1
    shown = {row.tile for row in of_wall}
    assert {name: gallery.tiles()[name] for name in shown} == {name: whole[name] for name in shown}
    wall.write(gallery.spark, gallery.site, RUNS[1], gallery.pyramid)


@pytest.mark.parametrize("n", [1, 2, 20])
def test_few_images(gallery: Gallery, n: int) -> None:
    gallery.images, gallery.cell = gallery.images.slice(0, n), np.array([[i, 0] for i in range(n)], np.int32)
    levels = pyramid(n, 1, gallery.cell)
    counts = tiles.draw(gallery.spark, gallery.site, RUNS[0], levels, gallery.images, [], [], gallery.scratch("few"))
    assert counts.tiles == counts.drawn == blocks.count(levels)
    whole = wall.write(gallery.spark, gallery.site, RUNS[0], levels)
    assert (whole.width, whole.height) == (n * 64, 64)


def test_equal_pictures_are_equal_tiles(gallery: Gallery) -> None:
    gallery.images = gallery.images.set_column(1, "picture", pa.array([picture(0)] * N)).slice(0, 192)
    gallery.cell = np.array([[number % 16, number // 16] for number in range(192)], np.int32)
    counts = gallery.draw(RUNS[0])
    # 4 x 3 full tiles; above them 2 full ones, and 2 with two rows of four; then one with three rows, and 2 x 2.
    assert counts.tiles == 12 + 4 + 1 + 1 and len(gallery.tiles()) == 4
    assert 4 <= counts.drawn < counts.tiles, "only tasks at the same time draw the same tile twice"


@pytest.mark.parametrize(("n", "digits"), [(0, 0), (3, 0), (700, 1), (3000, 2)])
def test_every_page_is_in_the_shard_of_its_prefix(
    gallery: Gallery, n: int, digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PER_SHARD", 50)
    monkeypatch.setattr(places, "_PER_TASK", 400)
    pages = [paths.page_name(f"{number}.jpg") for number in range(n)]
    cell = np.random.default_rng(0).integers(0, 100, (n, 2)).astype(np.int32)
    names, scratch = pa.array(pages, pa.string()), gallery.scratch("places")
    written = places.write(gallery.spark, gallery.site, RUNS[0], names, cell, scratch)
    by_page: dict[str, list[int]] = {}
    texts = list((gallery.folder / "gallery" / files.folder(RUNS[0]) / "places").glob("*.js"))
    for file in texts:
        prefix, data = re.fullmatch(r'map\.places\("(\w*)",(.*)\)', file.read_text()).groups()  # type: ignore[union-attr]
        shard = json.loads(data)
        assert file.stem == (prefix or "all") and len(prefix) == digits
        assert all(page.startswith(prefix) for page in shard)
        by_page |= shard
    assert by_page == dict(zip(pages, cell.tolist()))
    assert written == (len(texts), sum(file.stat().st_size for file in texts))
