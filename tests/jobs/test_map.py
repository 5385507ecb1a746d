"""The map as a job: what it puts into a gallery, what a second run keeps, and what bad input gets."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from crawler import crawl
from image_similarity.jobs import (
    build_manifest,
    embed_images,
    find_neighbours,
    render_gallery,
    render_map,
    run_pipeline,
)
from image_similarity.jobs.command_line import main
from image_similarity.pages import maps
from image_similarity.storage.filesystems import files_of
from image_similarity.warehouse.records import parquet_of
from image_similarity.warehouse.snapshot import Snapshot, open_snapshot

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

COLOURS = ["--set", 'fingerprints.colours={kind="colour-histogram"}', "--set", "neighbours.fingerprint=colours"]
SLOT = "colours/cosine"
IMAGES = 40


class Place:
    """A folder of pictures, a warehouse and a gallery."""

    def __init__(self, spark: "SparkSession", folder: Path):
        self.spark, self.folder = spark, folder
        self.images, self.warehouse, self.gallery = folder / "images", folder / "w", folder / "gallery"
        self.images.mkdir(parents=True)

    def run(self, job: Any, *arguments: object) -> int:
        named = {render_gallery: ["--gallery", self.gallery], render_map: ["--gallery", self.gallery]}
        words = ["--warehouse", self.warehouse, *COLOURS, *named.get(job, []), *arguments]
        return main(job, [str(word) for word in words], session=self.spark)

    def compare(self) -> None:
        assert self.run(build_manifest, "--images", self.images) == 0
        assert self.run(embed_images) == 0
        assert self.run(find_neighbours, "-k", 8, "--dissimilar", 0) == 0

    def render(self) -> None:
        assert self.run(render_gallery) == 0

    def map(self, *arguments: object) -> dict[str, Any]:
        """Makes the map. Returns what was counted."""
        assert self.run(render_map, *arguments) == 0
        (run,) = self.snapshot.run_ids("layout", SLOT)
        return dict(self.snapshot.runs[run].counts)

    @property
    def snapshot(self) -> Snapshot:
        return open_snapshot(str(self.warehouse))

    @property
    def layout(self) -> dict[str, tuple[float, float, int, int]]:
        """image_id -> x, y, column, row."""
        rows = self.snapshot.table("layout", SLOT).to_pylist()
        return {row["image_id"]: (row["x"], row["y"], row["grid_column"], row["grid_row"]) for row in rows}

    @property
    def pointer(self) -> dict[str, str]:
        return dict(json.loads((self.gallery / maps.POINTER).read_text()))

    def copy_of_gallery(self, name: str, with_map: bool = True) -> Path:
        copy = self.folder / name
        shutil.copytree(self.gallery, copy)
        if not with_map:
            shutil.rmtree(copy / maps.FOLDER)
            (copy / maps.PAGE).unlink()
        return copy

    def tiles(self) -> set[str]:
        return {file.stem for file in (self.gallery / "map" / "tiles").rglob("*.webp")}

    def maps(self) -> set[str]:
        return {file.name for file in (self.gallery / "map").iterdir() if file.is_dir()} - {"tiles"}


def draw(file: Path, seed: int) -> None:
    """A picture of two colours: of each eight seeds one hue."""
    hue = np.random.default_rng(seed % 8).integers(0, 200, 3)
    shade = np.random.default_rng(1000 + seed).integers(0, 56, 3)
    pixels = np.full((40, 60, 3), hue + shade, np.uint8)
    pixels[:20] = 255 - hue
    Image.fromarray(pixels).save(file)


@pytest.fixture(scope="module")
def mapped(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A collection with a copy, and its map."""
    place = Place(spark, tmp_path_factory.mktemp("mapped"))
    for seed in range(IMAGES):
        draw(place.images / f"{seed:02}.png", seed)
    shutil.copy(place.images / "05.png", place.images / "copy.png")
    place.compare()
    place.render()
    assert place.run(render_map) == 0
    return place


@pytest.fixture
def place(mapped: Place, tmp_path: Path) -> Iterator[Place]:
    """A copy of it, to change."""
    for part in ("w", "gallery"):
        shutil.copytree(mapped.folder / part, tmp_path / "copy" / part)
    copy = Place(mapped.spark, tmp_path / "copy")
    copy.images.rmdir()
    copy.images = mapped.images
    yield copy


def test_a_map_of_all_images(mapped: Place) -> None:
    layout, (run,) = mapped.layout, mapped.snapshot.run_ids("layout", SLOT)
    assert set(layout) == {file.name for file in mapped.images.iterdir()}
    cells = [cell[2:] for cell in layout.values()]
    assert len(set(cells)) == IMAGES + 1 and min(map(min, cells)) == 0
    assert layout["05.png"][:2] == layout["copy.png"][:2], "copies have one place"
    record = mapped.snapshot.runs[run]
    counts = record.counts
    assert (counts["images"], counts["nodes"], counts["new_layout"]) == (IMAGES + 1, IMAGES, True)
    assert counts["tiles"] == counts["drawn"] == len(mapped.tiles()) and counts["absent"] == 0
    assert 0 < counts["by_chance"] < 1 and 0.3 < counts["kept_on_layout"] <= 1
    assert 0 < counts["trustworthy_grid"] <= 1 and 0.5 < counts["trustworthy_layout"] <= 1
    assert record.settings["arrangement"]["columns"] == counts["columns"]
    assert record.inputs["neighbours"] == mapped.snapshot.run_ids("neighbours", SLOT)


def test_its_page_is_one_of_the_gallery(mapped: Place) -> None:
    found = crawl(mapped.gallery, [mapped.gallery / maps.PAGE])
    assert found.dead == [] and found.outside == []
    page = (mapped.gallery / maps.PAGE).read_text()
    run = mapped.pointer["run"]
    assert f'data-run="{run}"' in page and f"map/{run}/wall.webp" in page
    assert mapped.pointer["rendering"] in {folder.name for folder in mapped.gallery.iterdir()}
    link = maps.link((mapped.gallery / maps.LINK).read_bytes())
    assert link is not None and link.images == IMAGES + 1
    with Image.open(mapped.gallery / link.picture) as wall:
        assert wall.size == (link.width, link.height)


def test_a_second_run_keeps_all_places_and_draws_nothing(place: Place, capsys: Any) -> None:
    before, first, tiles = place.layout, place.pointer["run"], place.tiles()
    counts = place.map()
    assert place.layout == before and place.tiles() == tiles
    assert (counts["new_layout"], counts["placed"], counts["drawn"]) == (False, 0, 0)
    second = place.pointer["run"]
    assert place.maps() == {first, second}, "the map before stays for its readers"
    said = capsys.readouterr().out
    assert " cells, all where they were, in " in said and ", 0 drawn now, " in said
    place.map()
    assert place.maps() == {second, place.pointer["run"]}


def add(place: Place, seeds: range) -> None:
    """More pictures."""
    more = place.folder / "more"
    shutil.copytree(place.images, more)
    place.images = more
    for seed in seeds:
        draw(more / f"{seed:02}.png", seed)
    place.compare()
    place.render()


def test_few_new_images_hang_among_the_others(place: Place, capsys: Any) -> None:
    before = place.layout
    add(place, range(90, 93))
    counts = place.map()
    after = place.layout
    assert {name: after[name][:2] for name in before} == {name: at[:2] for name, at in before.items()}
    assert sum(after[name] != at for name, at in before.items()) == counts["moved"]
    assert (counts["new_layout"], counts["placed"], counts["images"]) == (False, 3, IMAGES + 4)
    assert len({cell[2:] for cell in after.values()}) == len(after)
    assert 0 < counts["drawn"] < counts["tiles"] or counts["tiles"] <= 4
    assert "3 of them new, the others where they were, in " in capsys.readouterr().out
    assert "layout" in place.snapshot.runs[place.pointer["run"]].inputs


def test_a_replaced_file_is_placed_anew_and_a_renamed_one_stays(place: Place) -> None:
    before, more = place.layout, place.folder / "more"
    shutil.copytree(place.images, more)
    place.images = more
    draw(more / "03.png", 92)
    (more / "07.png").rename(more / "renamed.png")
    place.compare()
    place.render()
    counts = place.map()
    after = place.layout
    assert after.pop("03.png")[:2] != before.pop("03.png")[:2]
    after["07.png"] = after.pop("renamed.png")
    assert counts["placed"] == 1 and sum(after[name] != at for name, at in before.items()) == counts["moved"] <= 2


def test_many_new_images_are_a_new_layout(place: Place, capsys: Any) -> None:
    """Those that came in runs before count, too."""
    add(place, range(90, 93))
    place.map()
    add_more = place.folder / "again"
    shutil.copytree(place.images, add_more)
    place.images = add_more
    for seed in (95, 96):
        draw(add_more / f"{seed}.png", seed)
    place.compare()
    place.render()
    assert place.map()["new_layout"] is True
    assert "5 of 46 images are new since the last layout: map.relayout = 0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "why"),
    [("map.seed=3", "map.seed was 0, and is 3"), ("map.relayout=0", "map.relayout = 0")],
)
def test_settings_that_ask_for_new_places(place: Place, setting: str, why: str, capsys: Any) -> None:
    assert place.map("--set", setting)["new_layout"] is True
    assert why in capsys.readouterr().out


def test_the_same_places_in_each_run_and_for_any_number_of_tasks(place: Place) -> None:
    before, tiles = place.layout, place.tiles()
    place.map("--set", "map.relayout=0")
    assert place.layout == before and place.tiles() == tiles


def test_other_vectors_of_one_s_own_are_another_map(place: Place, tmp_path: Path, capsys: Any) -> None:
    """Of the same ids. And they may be gone when the map is made: they only serve to measure it."""
    own, names = tmp_path / "own.parquet", sorted(place.layout)
    external = ("--fingerprint", "external")

    def map_of(seed: int) -> bool:
        values = np.random.default_rng(seed).normal(size=(len(names), 8)).astype(np.float32)
        pq.write_table(pa.table({"image_id": names, "embedding": values.tolist()}), own)
        assert place.run(find_neighbours, "--embeddings", own, *external, "-k", 8, "--dissimilar", 0) == 0
        own.unlink()
        assert place.run(render_map, *external) == 0
        (run,) = place.snapshot.run_ids("layout", "external/cosine")
        counts = place.snapshot.runs[run].counts
        assert counts["trustworthy_grid"] is None and counts["kept_on_grid"] is not None
        return bool(counts["new_layout"])

    assert [map_of(seed) for seed in (1, 1, 2)] == [True, False, True]
    said = capsys.readouterr().out
    assert "the vectors are others than those of the map before" in said
    notes = [line for line in said.splitlines() if "trustworthiness is not measured: " in line]
    assert len(notes) == 3 and all(str(own) in line for line in notes)


def test_images_that_left_are_free_cells_and_their_tiles_go(place: Place) -> None:
    before = place.layout
    fewer = place.folder / "fewer"
    shutil.copytree(place.images, fewer)
    for seed in range(4):
        (fewer / f"{seed:02}.png").unlink()
    place.images = fewer
    place.compare()
    place.render()
    counts = place.map()
    assert counts["new_layout"] is False and counts["images"] == IMAGES - 3
    assert place.layout == {name: cell for name, cell in before.items() if (fewer / name).exists()}
    tiles = place.tiles()
    place.map()
    assert place.tiles() < tiles, "the first map's tiles are nobody's now"


def test_a_picture_that_is_gone_is_a_quiet_cell(place: Place, capsys: Any) -> None:
    (picture, *_) = sorted((place.gallery / "pictures").rglob("*-small.webp"))
    shutil.rmtree(place.gallery / "map" / "tiles")
    picture.write_bytes(b"no picture")
    absent = place.map()["absent"]
    assert absent in (1, 2), "it may be that of the copy, too"
    said = capsys.readouterr().out
    one, two = "an empty cell on the map: 1 image whose small picture", "empty cells on the map: 2 images whose small"
    assert f"{one if absent == 1 else f'{two} pictures'} cannot be read: run render_gallery again" in said
    assert "not on the map" not in said


def test_images_that_failed_or_are_not_in_the_gallery_are_counted(place: Place, capsys: Any) -> None:
    more = place.folder / "more"
    shutil.copytree(place.images, more)
    place.images = more
    (more / "broken.png").write_bytes(b"no picture")
    draw(more / "90.png", 90)
    assert place.run(build_manifest, "--images", more) == 0
    assert place.run(embed_images, "--set", "embeddings.max_failed_fraction=1") == 0
    assert place.run(find_neighbours, "-k", 8, "--dissimilar", 0) == 0
    counts = place.map()
    assert (counts["not_in_gallery"], counts["failed"]) == (1, 1)
    printed = capsys.readouterr().out
    assert "not on the map: 1 compared image not in the gallery: run render_gallery" in printed
    assert "not on the map: 1 image that could not be read or compared: the view failures says why" in printed
    place.render()
    assert place.map()["not_in_gallery"] == 0


def test_the_seconds_that_are_printed_are_those_that_are_recorded(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Removing what no map shows comes after, as a step of its own."""
    monkeypatch.setattr(render_map._Making, "_tidy_up", lambda _: time.sleep(1))
    place.map("--verbose")
    printed = capsys.readouterr()
    assert f", in {place.snapshot.runs[place.pointer['run']].seconds:.1f} s" in printed.out
    assert "remove what no map shows: 1." in printed.out + printed.err


def test_what_a_label_has_published_is_not_done_again(place: Place, capsys: Any) -> None:
    place.map("--run-id", "tonight")
    run = place.pointer["run"]
    assert place.run(render_map, "--run-id", "tonight") == 0
    assert place.pointer["run"] == run
    assert "already published under the label 'tonight'" in capsys.readouterr().out


def test_a_label_is_done_where_its_map_is(place: Place, capsys: Any) -> None:
    """The same neighbours may be on the maps of several galleries."""
    place.map("--run-id", "tonight")
    of_one = place.gallery
    place.gallery = place.copy_of_gallery("other", with_map=False)
    place.map("--run-id", "tonight")
    assert (place.gallery / maps.PAGE).exists() and "already published" not in capsys.readouterr().out
    for gallery in (of_one, place.gallery):
        place.gallery = gallery
        before = place.pointer
        place.map("--run-id", "tonight")
        assert place.pointer == before and "already published" in capsys.readouterr().out
    (place.gallery / maps.POINTER).unlink()
    place.map("--run-id", "tonight")
    assert place.pointer != before


def test_a_pipeline_makes_the_map_of_its_gallery(place: Place, capsys: Any) -> None:
    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert place.run(run_pipeline, "--images", place.images, "--gallery", place.gallery, *arguments) == 0
        return str(capsys.readouterr().out)

    assert "is of an earlier rendering" not in run("--run-id", "tonight")
    of_one, place.gallery = place.gallery, place.folder / "other"
    run("--run-id", "tonight")
    assert (place.gallery / maps.PAGE).exists()
    place.gallery = of_one
    for without in (["map.enabled=false"], ["neighbours.similar=0", "neighbours.dissimilar=2"]):
        said = run(*(word for setting in without for word in ("--set", setting)))
        assert f"the map of {of_one} is of an earlier rendering: run render_map" in said


def test_a_dry_run_writes_nothing(place: Place, capsys: Any) -> None:
    before = sorted(place.folder.rglob("*"))
    assert place.run(render_map, "--dry-run") == 0
    assert "lay out the images of" in capsys.readouterr().out
    assert [path for path in sorted(place.folder.rglob("*")) if path.name != ".lock"] == [
        path for path in before if path.name != ".lock"
    ]


@pytest.mark.parametrize("count", [1, 2, 20])
@pytest.mark.parametrize("equal", [False, True])
def test_few_images_and_equal_ones(spark: "SparkSession", tmp_path: Path, count: int, equal: bool, capsys: Any) -> None:
    place = Place(spark, tmp_path)
    for seed in range(count):
        draw(place.images / f"{seed:02}.png", 0 if equal else seed)
    place.compare()
    place.render()
    counts = place.map()
    assert (counts["images"], counts["nodes"]) == (count, 1 if equal else count)
    printed = capsys.readouterr().out
    assert "of the 10 most similar" not in printed and " 0.0 MiB" not in printed
    assert ("1 image on 1 cell, " in printed) == ("1 tile, 1 drawn now" in printed and count == 1) == (count == 1)
    assert len({cell[2:] for cell in place.layout.values()}) == count
    assert crawl(place.gallery, [place.gallery / maps.PAGE]).dead == []


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(place: Place, capsys: Any, code: int = 2) -> str:
    capsys.readouterr()
    assert place.run(render_map) == code
    *_, line = capsys.readouterr().err.strip().splitlines()
    return str(line)


def test_a_gallery_that_is_not_rendered(place: Place, capsys: Any) -> None:
    shutil.rmtree(place.gallery)
    command = f"run render_gallery --warehouse {place.warehouse} --gallery {place.gallery} first"
    assert command in refused(place, capsys)
    assert not place.gallery.exists()


def test_a_gallery_of_an_earlier_version(place: Place, capsys: Any) -> None:
    shutil.rmtree(place.gallery / place.pointer["rendering"] / maps.CARDS)
    assert "it was rendered by an earlier version" in refused(place, capsys)


def test_a_gallery_without_pictures(place: Place, capsys: Any) -> None:
    shutil.rmtree(place.gallery)
    moved = place.folder / "elsewhere"
    shutil.copytree(place.images, moved)
    assert place.run(build_manifest, "--images", moved) == 0
    shutil.rmtree(moved)
    assert place.run(render_gallery) == 0
    said = refused(place, capsys)
    assert "no image has a picture there" in said and "render_gallery --warehouse" in said


def test_a_gallery_of_another_warehouse(place: Place, spark: "SparkSession", tmp_path: Path, capsys: Any) -> None:
    other = Place(spark, tmp_path / "other")
    for seed in range(4):
        draw(other.images / f"other {seed}.png", seed)
    shutil.copy(place.images / "05.png", other.images)
    other.compare()
    own, layout = place.warehouse, place.layout
    place.warehouse = other.warehouse
    said = refused(place, capsys)
    assert f"--gallery {place.gallery}: it was not rendered from {other.warehouse}, which has no run" in said
    assert "name the warehouse that it shows" in said and "Spark" not in said
    assert not place.snapshot.slots("layout")
    place.warehouse = own
    assert place.layout == layout
    shutil.copytree(own, tmp_path / "moved")
    place.warehouse = tmp_path / "moved"
    assert place.map()["new_layout"] is False, "a copy has the same runs"


def test_a_gallery_of_which_no_image_is_among_the_neighbours(place: Place, capsys: Any) -> None:
    others = place.folder / "others"
    others.mkdir()
    for seed in range(4):
        draw(others / f"other {seed}.png", seed)
    place.images = others
    place.compare()
    said = refused(place, capsys)
    assert "none of its images is among the neighbours colours/cosine: run render_gallery --warehouse" in said


def test_no_neighbours(place: Place, capsys: Any) -> None:
    shutil.rmtree(place.warehouse)
    assert place.run(build_manifest, "--images", place.images) == 0
    assert "no neighbours 'colours/cosine'" in refused(place, capsys)


def test_neighbours_without_similar_ones(place: Place, capsys: Any) -> None:
    assert place.run(find_neighbours, "-k", 0, "--dissimilar", 3) == 0
    assert "has no similar neighbours: run find_neighbours with -k 12" in refused(place, capsys)


def test_a_gallery_that_is_rendered_meanwhile(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from image_similarity.stages.map import wall

    def render_too(*arguments: Any) -> Any:
        assert place.run(render_gallery) == 0
        return write(*arguments)

    write = wall.write
    monkeypatch.setattr(wall, "write", render_too)
    before, layout = place.pointer, place.snapshot.run_ids("layout", SLOT)
    assert "another job rendered" in refused(place, capsys, 1)
    assert place.pointer == before and place.snapshot.run_ids("layout", SLOT) == layout
    assert place.maps() == {before["run"]}, "what was drawn for nobody is gone"


def test_a_map_that_another_job_makes_meanwhile(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """It removes the folder in which this one works."""
    from image_similarity.stages.map import tiles

    def map_too(*arguments: Any) -> Any:
        monkeypatch.setattr(tiles, "inventory", inventory)
        assert place.run(render_map) == 0
        return inventory(*arguments)

    inventory, before = tiles.inventory, place.pointer["run"]
    monkeypatch.setattr(tiles, "inventory", map_too)
    assert "another job made a map of" in refused(place, capsys, 1)
    assert place.pointer["run"] != before and place.maps() == {before, place.pointer["run"]}
    assert crawl(place.gallery, [place.gallery / maps.PAGE]).dead == []


def test_a_layout_that_another_job_publishes_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """That of another gallery, say. The map is whole, though its table is not published; the next run does both."""
    from image_similarity.stages.map import wall

    def map_too(*arguments: Any) -> Any:
        monkeypatch.setattr(wall, "write", write)
        gallery, place.gallery = place.gallery, place.copy_of_gallery("other")
        assert place.run(render_map) == 0
        place.gallery = gallery
        return write(*arguments)

    write, before = wall.write, place.pointer["run"]
    monkeypatch.setattr(wall, "write", map_too)
    said = refused(place, capsys, 1)
    assert f"{place.gallery}/map.html is new, but not the table layout: another job published layout {SLOT}" in said
    assert "no table of this run was published: run it again" in said
    run = place.pointer["run"]
    assert run != before and (place.gallery / "map" / run / "wall.webp").exists()
    assert crawl(place.gallery, [place.gallery / maps.PAGE]).dead == []
    assert place.map()["drawn"] == 0


def test_a_damaged_pointer_is_no_map(place: Place) -> None:
    before = place.layout
    (place.gallery / maps.POINTER).write_bytes(b"{")
    assert place.map()["new_layout"] is False
    assert place.layout == before and place.maps() == {place.pointer["run"]}
    assert crawl(place.gallery, [place.gallery / maps.PAGE]).dead == []


OTHER_COLUMNS = parquet_of(pa.table({"a": [1]}))


@pytest.mark.parametrize("content", [None, b"", b"no Parquet", OTHER_COLUMNS])
def test_damaged_cards(place: Place, content: bytes | None, capsys: Any) -> None:
    cards = place.gallery / place.pointer["rendering"] / maps.CARDS
    for file in cards.glob("*.parquet"):
        file.unlink() if content is None else file.write_bytes(content)
    command = f"render_gallery --warehouse {place.warehouse} --gallery {place.gallery}"
    assert f"{cards} is damaged: run {command} again" in refused(place, capsys)


@pytest.mark.parametrize("content", [b"\xff", b"x", b""])
def test_a_damaged_shell(place: Place, content: bytes, capsys: Any) -> None:
    shell = place.gallery / place.pointer["rendering"] / maps.SHELL
    shell.write_bytes(content)
    command = f"render_gallery --warehouse {place.warehouse} --gallery {place.gallery}"
    assert f"{shell} is damaged: run {command} again" in refused(place, capsys)
    assert place.run(render_gallery) == 0
    place.map()


@pytest.mark.parametrize("content", [None, b"no Parquet", OTHER_COLUMNS])
def test_a_damaged_layout_gets_new_places(place: Place, content: bytes | None, capsys: Any) -> None:
    (run,) = place.snapshot.run_ids("layout", SLOT)
    for file in (place.warehouse / "layout" / f"run_id={run}").glob("*.parquet"):
        file.unlink() if content is None else file.write_bytes(content)
    assert place.map()["new_layout"] is True
    assert f"all at new places (the table layout of {run} is gone or damaged)" in capsys.readouterr().out
    assert "layout" not in place.snapshot.runs[place.pointer["run"]].inputs
    assert place.map()["new_layout"] is False


def test_the_map_of_the_rendering_before_stays_good(place: Place, capsys: Any) -> None:
    for _ in range(3):
        place.render()
    assert "run render_map" in capsys.readouterr().out
    assert crawl(place.gallery, [place.gallery / maps.PAGE]).dead == []
    assert files_of(str(place.gallery)).entries(f"{place.gallery}/{place.pointer['rendering']}")
    place.map()
    assert crawl(place.gallery, [place.gallery / maps.PAGE]).dead == []
