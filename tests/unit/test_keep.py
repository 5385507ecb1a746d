"""Which image of a group is kept, and what becomes of the others."""

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from image_similarity.errors import WrongInput
from image_similarity.stages.groups import keep
from image_similarity.warehouse.schemas import ALIKE, IDENTICAL, NEAR_DUPLICATES, SCHEMAS

Image = tuple[str, int | None, int | None, int | None]


def images(*rows: Image) -> pa.Table:
    names, types = ["image_id", "width", "height", "size_bytes"], [pa.string(), pa.int32(), pa.int32(), pa.int64()]
    return pa.table([pa.array(column, kind) for column, kind in zip(zip(*rows), types)], names=names)


def names(rule: str, table: pa.Table) -> list[str]:
    ordered: list[str] = table["image_id"].take(pa.array(keep.order(rule, table))).to_pylist()
    return ordered


def test_the_largest_is_that_of_most_pixels_then_bytes_then_by_name() -> None:
    table = images(("c", 10, 20, 5), ("b", 20, 10, 5), ("d", 10, 20, 6), ("e", 30, 10, 1), ("a", 1, 1, 10**12))
    assert names("largest", table) == ["e", "d", "b", "c", "a"]
    assert names("first", table) == ["a", "b", "c", "d", "e"]


def test_what_is_not_known_comes_last() -> None:
    table = images(("a", None, 10, 9), ("b", 10, None, 9), ("c", None, None, None), ("d", 1, 1, None), ("e", 1, 1, 1))
    assert names("largest", table) == ["e", "d", "a", "b", "c"]


def test_pixels_are_counted_beyond_32_bits() -> None:
    assert names("largest", images(("a", 65536, 65536, 1), ("b", 10, 10, 1))) == ["a", "b"]


def test_names_are_ordered_by_their_bytes() -> None:
    wanted = ["", "A", "Z", "a", "\u00e9", "\uffee", "\U0001f600"]  # UTF-16 has the last two the other way round
    assert names("first", images(*((name, 1, 1, 1) for name in reversed(wanted)))) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_representatives_are_those_of_a_plain_sort(seed: int) -> None:
    random_ = random.Random(seed)
    some = [None, 1, 2, 3]
    rows: list[Image] = [
        (f"i{number}", random_.choice(some), random_.choice(some), random_.choice(some)) for number in range(300)
    ]
    random_.shuffle(rows)
    group = np.array([random_.randrange(-1, 40) for _ in rows])
    group[group == 7] = 8

    def rank(number: int) -> tuple[int, int, str]:
        name, width, height, size = rows[number]
        return -(width or 0) * (height or 0), -(size or 0), name

    members = [[number for number in range(len(rows)) if group[number] == wanted] for wanted in range(40)]
    kept = keep.representatives("largest", group, images(*rows))
    assert kept.tolist() == [min(of, key=rank) if of else -1 for of in members] and kept[7] == -1
    first = keep.representatives("first", group, images(*rows))
    assert first.tolist() == [min(of, key=lambda number: rows[number][0]) if of else -1 for of in members]


def test_no_groups_have_no_representatives() -> None:
    assert keep.representatives("largest", np.array([-1, -1]), images(("a", 1, 1, 1), ("b", 1, 1, 1))).tolist() == []
    assert keep.representatives("first", np.array([], int), images(("a", 1, 1, 1)).slice(0, 0)).tolist() == []


@pytest.mark.parametrize(
    "rule, message", [("best", "groups do not use the sharpness of images yet"), ("larges", "did you mean largest")]
)
def test_rules_that_there_are_not_yet_are_refused(rule: str, message: str) -> None:
    with pytest.raises(WrongInput, match=rf"^--keep {rule}: .*{message}.*largest \(.*first \(") as caught:
        keep.order(rule, images(("a", 1, 1, 1)))
    assert "\n" not in str(caught.value)


# -- what becomes of images --------------------------------------------------------------------------------------------


def groups(*members: tuple[str, str, str, int, float | None]) -> pa.Table:
    """kind, group_id, image_id, position, distance; the one at position 0 is the kept one."""
    rows: list[dict[str, Any]] = [
        {
            **{"kind": kind, "group_id": group, "image_id": image, "position": position, "level": 0},
            **{"distance_to_representative": distance, "representative": position == 0},
        }
        for kind, group, image, position, distance in members
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["groups"])


def told(table: pa.Table) -> dict[str, tuple[Any, ...]]:
    """image -> kept one, kind, distance, group, position."""
    rows = keep.fates(table).to_pylist()
    return {
        row["image_id"]: (rows[row["kept"]]["image_id"], row["kind"], row["distance"], row["group_id"], row["position"])
        for row in rows
    }


COPIES = [(IDENTICAL, "i1", "c", 0, 0.0), (IDENTICAL, "i1", "b", 1, 0.0), (IDENTICAL, "i1", "d", 2, 0.0)]
ALONE = [(IDENTICAL, "i2", "x", 0, 0.0), (IDENTICAL, "i2", "y", 1, 0.0)]


def test_copies_follow_the_group_that_has_one_of_them() -> None:
    """Whether the group of near-duplicates lists all copies, or one of them."""
    one = [
        (NEAR_DUPLICATES, "n", "a", 0, 0.0),
        (NEAR_DUPLICATES, "n", "b", 1, 0.25),
        (NEAR_DUPLICATES, "n", "e", 2, 0.5),
    ]
    fates = told(groups(*COPIES, *ALONE, *one))
    assert fates == {
        "a": ("a", None, 0.0, "n", 0),
        **{"b": ("a", NEAR_DUPLICATES, 0.25, "n", 2), "c": ("a", NEAR_DUPLICATES, 0.25, "n", 1)},
        **{"d": ("a", NEAR_DUPLICATES, 0.25, "n", 3), "e": ("a", NEAR_DUPLICATES, 0.5, "n", 4)},
        **{"x": ("x", None, 0.0, "i2", 0), "y": ("x", IDENTICAL, 0.0, "i2", 1)},
    }
    every = [*one, (NEAR_DUPLICATES, "n", "c", 3, 0.25), (NEAR_DUPLICATES, "n", "d", 4, 0.25)]
    assert {name: fate[:4] for name, fate in told(groups(*COPIES, *ALONE, *every)).items()} == {
        name: fate[:4] for name, fate in fates.items()
    }


def test_a_copy_of_the_kept_one_is_identical_to_it() -> None:
    near = [(NEAR_DUPLICATES, "n", "b", 0, 0.0), (NEAR_DUPLICATES, "n", "e", 1, 0.5)]
    fates = told(groups(*COPIES, *near))
    assert fates["b"] == ("b", None, 0.0, "n", 0), "though c is the first of its identical group"
    assert fates["c"][:4] == fates["d"][:4] == ("b", IDENTICAL, 0.0, "n")
    assert fates["e"][:4] == ("b", NEAR_DUPLICATES, 0.5, "n")


def test_the_order_of_rows_makes_no_difference_and_other_kinds_none() -> None:
    near = [(NEAR_DUPLICATES, "n", "a", 0, 0.0), (NEAR_DUPLICATES, "n", "b", 1, None), (ALIKE, "s", "b", 0, 0.0)]
    rows = [*COPIES, *ALONE, *near]
    fates = told(groups(*rows))
    for seed in range(5):
        assert told(groups(*random.Random(seed).sample(rows, len(rows)))) == fates
    assert fates["b"] == ("a", NEAR_DUPLICATES, None, "n", 2) and told(groups()) == {}


def test_a_group_has_one_representative() -> None:
    with pytest.raises(ValueError, match="n .*not one representative"):
        keep.fates(groups((NEAR_DUPLICATES, "n", "a", 1, 0.0), (NEAR_DUPLICATES, "n", "b", 2, 0.0)))
    with pytest.raises(ValueError, match="i .*not one representative"):
        keep.fates(groups((IDENTICAL, "i", "a", 0, 0.0), (IDENTICAL, "i", "b", 0, 0.0)))
