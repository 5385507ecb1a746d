"""Labels of the map say what the images of a region have in common, and stand where they can be read."""

from collections import defaultdict
from itertools import combinations
from math import log

import numpy as np
import pytest

from image_similarity.mapping.pyramid import TILE_NODES as TILE
from image_similarity.mapping.regions import Label, Terms, _apart, _overlap, _size, regions

Tile = tuple[int, int]
WALL = (50, 37)
"""Columns and rows of `a_map`."""
CORNERS = [("the upper left corner", 0, 0), ("the lower right corner", 46, 33)]
"""Words, and the column and row of the tile's worth of cells that has them."""


def terms_of(has: dict[str, set[int]]) -> Terms:
    pairs = [(image, term) for term, having in enumerate(has.values()) for image in sorted(having)]
    image, term = np.array(pairs, np.int64).reshape(-1, 2).T
    return Terms(list(has), image, term)


def best_word(images: set[int], has: dict[str, set[int]], collection: int) -> str | None:
    """By the definition: of words that two have, half have (of many .35), and that are twice as common here, the most
    telling.
    """
    counts = {word: len(having & images) for word, having in has.items() if len(having & images) >= 2}
    best, best_score = None, 0.0
    for word, count in counts.items():
        share, rate = count / len(images), len(has[word]) / collection
        if share < (0.5 if len(images) <= 16 else 0.35) or share < 2 * rate:
            continue
        rest = (1 - share) * log((1 - share) / (1 - rate)) if share < 1 else 0
        score = len(images) * (share * log(share / rate) + rest)
        if score >= log(len(counts) / 0.01) and score > best_score * (1 + 1e-9):
            best, best_score = word, score
    return best


def reached(tile: Tile, named: dict[Tile, str]) -> set[Tile]:
    """The region of a tile, by a flood."""
    region, waiting = {tile}, [tile]
    while waiting:
        column, row = waiting.pop()
        for beside in ((column + right, row + down) for right in (-1, 0, 1) for down in (-1, 0, 1)):
            if beside not in region and named.get(beside) == named[tile]:
                region.add(beside)
                waiting.append(beside)
    return region


def by_hand(cell: np.ndarray, has: dict[str, set[int]], level: int, levels: int) -> list[tuple[set[Tile], Label]]:
    """Each region of a level, and its label. Labels may overlap."""
    side = TILE * 2 ** (levels - level)
    of_tile: dict[Tile, set[int]] = defaultdict(set)
    for image, (column, row) in enumerate(cell.tolist()):
        of_tile[column // side, row // side].add(image)
    named = {tile: word for tile, images in of_tile.items() if (word := best_word(images, has, len(cell)))}
    labelled = []
    for region in {frozenset(reached(tile, named)) for tile in named}:
        word = named[min(region)]
        images = sorted(set.union(*(of_tile[tile] for tile in region)) & has[word])
        if len(images) < side**2 / 4:
            continue
        away = np.round(((cell[images] - cell[images].mean(axis=0)) ** 2).sum(axis=1), 6).tolist()
        nearest = min(zip(away, cell[images, 1].tolist(), cell[images, 0].tolist()))
        place = [(at + 0.5) / (side / TILE) for at in nearest[:0:-1]]
        width, height = _size(word)
        ends = [(extent / 2, cells / (side / TILE) - extent / 2) for extent, cells in zip((width, height), WALL)]
        column, row = (
            round(sum(ends_of) / 2 if ends_of[0] > ends_of[1] else min(max(at, ends_of[0]), ends_of[1]), 2)
            for at, ends_of in zip(place, ends)
        )
        labelled.append((set(region), Label(column, row, word, len(images))))
    return labelled


def a_map(seed: int) -> tuple[np.ndarray, dict[str, set[int]]]:
    """Cells of a map with some free ones, and words that cluster in discs, with noise; one that all have."""
    rng, (columns, rows) = np.random.default_rng(seed), WALL
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    cell = rng.permutation(cells)[: int(len(cells) * 0.85)].astype(np.int32)
    has = {"everything": set(range(len(cell)))}
    for number in range(14):
        away = np.linalg.norm(cell - rng.uniform((0, 0), (columns, rows)), axis=1)
        is_near = (away < rng.uniform(3, 14)) & (rng.random(len(cell)) < 0.85)
        has[f"word {number}"] = set(np.nonzero(is_near | (rng.random(len(cell)) < 0.02))[0].tolist())
    return cell, has


@pytest.mark.parametrize("seed", range(6))
def test_labels_are_those_that_counting_by_hand_gives(seed: int) -> None:
    cell, has = a_map(seed)
    labelled = regions(cell, *WALL, terms_of(has), 4)
    assert len(labelled) == 5 and labelled[0] == [] and sum(map(len, labelled)) > 20
    for level, labels in enumerate(labelled):
        every = [label for _, label in by_hand(cell, has, level, 4)]
        assert set(labels) <= set(every)
        assert all(not _overlap(*pair) for pair in combinations(labels, 2))
        for hidden in set(every) - set(labels):
            assert any(label.images >= hidden.images and _overlap(label, hidden) for label in labels)
        assert [label.images for label in labels] == sorted((label.images for label in labels), reverse=True)


@pytest.mark.parametrize("seed", range(6))
def test_a_label_stands_on_its_region(seed: int) -> None:
    cell, has = a_map(seed)
    labelled = regions(cell, *WALL, terms_of(has), 4)
    for level in range(5):
        places = {label: region for region, label in by_hand(cell, has, level, 4)}
        for label in labelled[level]:
            left, upper, right, lower = plate(label)
            assert any(
                TILE * column < right and TILE * (column + 1) > left and TILE * row < lower and TILE * (row + 1) > upper
                for column, row in places[label]
            )


def plate(label: Label) -> tuple[float, float, float, float]:
    """Its left, upper, right and lower edge, in nodes."""
    width, height = (extent / 2 for extent in _size(label.text))
    return label.column - width, label.row - height, label.column + width, label.row + height


@pytest.mark.parametrize("seed", range(6))
def test_a_label_hangs_over_no_edge_of_the_wall(seed: int) -> None:
    cell, has = a_map(seed)
    corners = {name: within(cell, left, left + 4, top, top + 4) for name, left, top in CORNERS}
    for level, found in enumerate(regions(cell, *WALL, terms_of(has | corners), 4)):
        columns, rows = (cells / 2 ** (4 - level) for cells in WALL)
        for label in found:
            left, upper, right, lower = plate(label)
            assert left >= -0.01 and upper >= -0.01 and right <= columns + 0.01 and lower <= rows + 0.01
        assert level < 4 or {name for name, *_ in CORNERS} <= {label.text for label in found}


def test_the_middle_of_a_wall_has_a_label_that_is_longer_than_the_wall() -> None:
    cell = np.concatenate([square(4, 40)[:16], square(4, 40)[80:]])
    text = "a label that is long for the wall"
    assert regions(cell, 4, 40, terms_of({text: set(range(16))}), 4)[4] == [Label(2, 1.5, text, 16)]


def square(columns: int, rows: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2).astype(np.int32)


def within(cell: np.ndarray, left: int, right: int, top: int, bottom: int) -> set[int]:
    column, row = cell.T
    return set(np.nonzero((column >= left) & (column < right) & (row >= top) & (row < bottom))[0].tolist())


def test_adjacent_tiles_have_one_label_in_their_middle() -> None:
    cell = square(32, 32)
    has = {"cat": within(cell, 8, 16, 8, 12), "dog": within(cell, 24, 28, 24, 28) | within(cell, 28, 32, 28, 32)}
    finest = regions(cell, 32, 32, terms_of(has), 3)[3]
    assert finest == [Label(11.5, 9.5, "cat", 32), Label(27.5, 27.5, "dog", 32)], "a corner is enough"


def test_the_edges_of_the_wall_are_not_adjacent() -> None:
    cell = square(32, 32)
    has = {"cat": within(cell, 28, 32, 8, 12) | within(cell, 0, 4, 12, 16)}
    assert regions(cell, 32, 32, terms_of(has), 3)[3] == [Label(29.5, 9.5, "cat", 16), Label(1.5, 13.5, "cat", 16)]


def test_the_middle_of_a_ring_is_on_the_ring() -> None:
    cell = square(32, 32)
    has = {"ring": within(cell, 8, 20, 8, 20) - within(cell, 12, 16, 12, 16)}
    assert regions(cell, 32, 32, terms_of(has), 3)[3] == [Label(13.5, 11.5, "ring", 128)]


def test_a_label_stands_where_the_images_are_and_not_in_the_middle_of_a_tile() -> None:
    cell = square(32, 32)
    few = within(cell, 16, 20, 18, 20)
    assert regions(cell, 32, 32, terms_of({"few": few}), 3)[3] == [Label(17.5, 18.5, "few", 8)]


def test_a_name_needs_four_images() -> None:
    """As in the last column of a wall, whose tiles have few images."""
    cell = np.concatenate([square(32, 32), [[32, 0], [32, 1], [32, 2], [33, 0]]]).astype(np.int32)
    edge = set(range(1024, 1028))
    assert [label.text for label in regions(cell, 34, 32, terms_of({"edge": edge}), 4)[4]] == ["edge"]
    assert regions(cell, 34, 32, terms_of({"edge": edge - {1024}}), 4)[4] == []


def test_a_name_from_afar_needs_a_quarter_of_a_tile_there() -> None:
    """A tile at the edge, with few images, is soon of one word: its name would be the only one of the wall."""
    cell = np.concatenate([square(32, 32), square(34, 16)[square(34, 16)[:, 0] >= 32]])
    edge = set(range(1024, 1024 + 32))
    labelled = regions(cell, 34, 32, terms_of({"edge": edge}), 4)
    assert [[label.images for label in found] for found in labelled] == [[], [], [], [32], [32]]


def test_of_many_images_a_third_with_a_word_is_a_name_and_half_of_few() -> None:
    cell = square(32, 32)
    many, few = within(cell, 0, 8, 0, 3), within(cell, 16, 20, 16, 18) - {16 + 32 * 16}
    labelled = regions(cell, 32, 32, terms_of({"many": many, "few": few}), 3)
    assert [label.text for label in labelled[2]] == ["many"]
    assert [label.text for label in labelled[3]] == ["many"], "7 of 16 are too few"
    assert regions(cell, 32, 32, terms_of({"many": within(cell, 0, 8, 0, 3) - set(range(2))}), 3)[2] == []


def test_coarse_levels_say_what_is_general() -> None:
    cell = square(32, 32)
    tabby, cat = within(cell, 0, 4, 0, 4), within(cell, 0, 8, 0, 8)
    labelled = regions(cell, 32, 32, terms_of({"tabby": tabby, "cat": cat}), 3)
    assert labelled[2] == [Label(1.75, 1.75, "cat", 64)]
    assert {label.text for label in labelled[3]} == {"tabby", "cat"}


def test_what_is_everywhere_and_what_may_be_chance_are_no_labels() -> None:
    cell = square(8, 8)
    half = set(range(0, 64, 2))
    assert regions(cell, 8, 8, terms_of({"everywhere": set(range(64)), "half": half, "rare": {0, 5}}), 1) == [[], []]


@pytest.mark.parametrize("images", [0, 1, 2])
def test_few_images_have_no_labels(images: int) -> None:
    assert regions(square(images, 1), images, 1, terms_of({"cat": set(range(images))}), 0) == [[]]
    assert regions(square(images, 1), images, 1, terms_of({}), 0) == [[]]


def test_of_labels_that_overlap_the_one_of_more_images_stays() -> None:
    many, few = Label(10, 10, "many", 9), Label(10.5, 10.2, "few", 3)
    assert _apart([few, many]) == [many]
    assert _apart([few._replace(row=12), many]) == [many, few._replace(row=12)]
    long, beside = Label(10, 10, "a long label as it is", 9), Label(12.2, 10, "b", 3)
    assert _apart([beside, long]) == [long] and len(_apart([beside, long._replace(text="a")])) == 2
    again = Label(10, 10, "equal", 9)
    assert _apart([again, many]) == [again], "of equals the first by its text"


def test_a_word_that_ties_comes_first_by_its_place() -> None:
    cell = square(32, 32)
    same = within(cell, 0, 4, 0, 4)
    assert [label.text for label in regions(cell, 32, 32, terms_of({"b": same, "a": same}), 3)[3]] == ["b"]


def test_images_in_another_order_give_the_same_labels() -> None:
    cell, has = a_map(7)
    order = np.random.default_rng(0).permutation(len(cell))
    place = np.argsort(order)
    moved = {word: set(place[sorted(images)].tolist()) for word, images in has.items()}
    assert regions(cell[order], *WALL, terms_of(moved), 4) == regions(cell, *WALL, terms_of(has), 4)
