"""The pyramid of the map, cut into blocks: what each shows, and that nothing is lost or depends on the cutting."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest

from image_similarity.stages.map import blocks, places, wall
from image_similarity.stages.map.blocks import Block, Label, Nodes
from walls import images, pyramid


def scattered(n: int, columns: int, rows: int, seed: int = 0) -> list[Nodes]:
    """A pyramid of ``n`` images in random cells."""
    taken = np.random.default_rng(seed).permutation(columns * rows)[:n]
    return pyramid(columns, rows, np.stack([taken % columns, taken // columns], axis=1).astype(np.int32))


def all_blocks(levels: list[Nodes], labels: list[list[Label]], pictures: int) -> list[Block]:
    table = images([f"{n:032x}" for n in range(int(levels[-1].max()) + 1)])
    return [block for chunk in blocks.chunks(levels, table, labels, pictures) for block in chunk.blocks()]


@pytest.mark.parametrize(
    ("n", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (20, 6, 4), (300, 23, 17), (900, 70, 50), (5, 140, 9)]
)
def test_the_tiles_of_all_blocks_are_the_pyramid(n: int, columns: int, rows: int) -> None:
    levels = scattered(n, columns, rows)
    shown = [np.full_like(nodes, -1) for nodes in levels]
    drawn, starts = [], {block.level for block in all_blocks(levels, [], 64)}
    for block in all_blocks(levels, [], 64):
        assert block.level + len(block.nodes) == len(levels) or block.level + len(block.nodes) in starts
        assert len(block.nodes) == 3 or block.level == 0
        own = [int(page[8:], 16) for page in block.images["picture"].to_pylist()]
        assert sorted(own) == own and len(set(own)) == len(own), "each picture is there once"
        for level, x, y, nodes in block.tiles():
            drawn.append((level, x, y))
            for at in np.flatnonzero(nodes >= 0).tolist():
                shown[level][y * 4 + at // 4, x * 4 + at % 4] = own[nodes[at]]
    assert all((one == other).all() for one, other in zip(shown, levels))
    assert len(drawn) == len(set(drawn)) == blocks.count(levels)


def test_blocks_do_not_depend_on_chunks() -> None:
    levels = scattered(700, 66, 40)
    table = images([f"{n:032x}" for n in range(700)])
    cuts = [list(blocks.chunks(levels, table, [], pictures)) for pictures in (1, 100, 10**6)]
    scripts = [{block.name: blocks.script(block, {}, ()) for chunk in cut for block in chunk.blocks()} for cut in cuts]
    assert scripts[0] == scripts[1] == scripts[2]
    assert len(cuts[0]) == len(scripts[0]) > len(cuts[1]) > len(cuts[2]) == len(blocks.first_levels(len(levels) - 1))
    of_chunks = [sum(int((of.nodes[-1] >= 0).sum()) for of in cut) for cut in cuts]
    assert len(set(of_chunks)) == 1
    # A chunk is as large as asked for, but for the block in which it ends.
    assert max(int((of.nodes[-1] >= 0).sum()) for of in cuts[1]) < 100 + 16**2


def test_a_block_s_data() -> None:
    levels = scattered(20, 6, 4)
    labels: list[list[Label]] = [[(1.5, 0.5, "ships & seas", 12)], [(3.0, 2.5, "été", 7)]]
    (block,) = all_blocks(levels, labels, 64)
    text = blocks.script(block, {(0, 0, 0): "a" * 32, (1, 1, 0): "b" * 32}, absent=[3])
    data = json.loads(re.fullmatch(r'map\.block\("0-0-0",(.*)\)', text)[1])  # type: ignore[index]
    assert text.isascii() and len(data["images"]) == 20
    assert data["images"][2] == [block.images["page"][2].as_py(), f"{2:032x}", 480, 320, "Picture 2", ""]
    assert data["images"][3][1] == "" and data["images"][3][4] == "Picture 3"
    assert [level["tiles"] for level in data["levels"]] == [{"0-0": "a" * 32}, {"1-0": "b" * 32}]
    assert [len(level["nodes"]) for level in data["levels"]] == [16, 64]
    assert [level["labels"] for level in data["levels"]] == [[[1.5, 0.5, "ships & seas", 12]], [[3.0, 2.5, "été", 7]]]


def test_an_image_without_a_title_has_none() -> None:
    table, levels = images([f"{0:032x}"]), scattered(1, 1, 1)
    for name in ("title", "subtitle"):
        table = table.set_column(table.column_names.index(name), name, pa.array([None], pa.string()))
    (chunk,) = blocks.chunks(levels, table, [], 64)
    ((block,), page) = list(chunk.blocks()), table["page"][0].as_py()
    text = blocks.script(block, {}, ())
    data = json.loads(re.fullmatch(r'map\.block\("0-0-0",(.*)\)', text)[1])  # type: ignore[index]
    assert data["images"] == [[page, f"{0:032x}", 480, 320, "", ""]]


def test_a_label_is_in_the_block_that_it_lies_in() -> None:
    levels = scattered(2000, 80, 60)  # down to level 5: blocks of level 3 have 4 by 4 nodes there, 16 by 16 on level 5
    labels: list[list[Label]] = [[] for _ in levels]
    labels[4] = [(8.5, 7.9, "a", 3), (7.9, 8.0, "b", 4)]
    labels[5] = [(31.0, 15.5, "c", 5)]
    named = {
        block.name: [[label[2] for label in of_level] for of_level in block.labels]
        for block in all_blocks(levels, labels, 64)
        if any(block.labels)
    }
    assert named == {"3-1-0": [[], ["a"], ["c"]], "3-0-1": [[], ["b"], []]}


def test_a_tile_s_name_tells_its_pictures_and_their_places() -> None:
    names = {blocks.tile_name(pictures) for pictures in (["a", "b"], ["b", "a"], ["a", ""], ["", "a"], ["ab", ""])}
    assert len(names) == 5 and all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


@pytest.mark.parametrize(("images", "digits"), [(0, 0), (4000, 0), (4001, 1), (64_000, 1), (64_001, 2), (10**6, 2)])
def test_the_digits_of_shards_of_places(images: int, digits: int) -> None:
    assert places.digits(images) == digits


@pytest.mark.parametrize(
    ("columns", "rows", "level", "size"),
    [(1, 1, 0, (1, 1)), (30, 20, 3, (30, 20)), (32, 24, 3, (32, 24)), (33, 24, 3, (17, 12)), (400, 300, 3, (25, 19))],
)
def test_the_wall_s_level(columns: int, rows: int, level: int, size: tuple[int, int]) -> None:
    assert wall._used(scattered(columns * rows, columns, rows)) == (level, *size)
