"""How work is cut, and what is told before it begins."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from image_similarity.errors import JobFailed
from image_similarity.knn.calibration import Rate
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours import plan
from image_similarity.stages.neighbours.plan import Plan, Tiles


@pytest.mark.parametrize("strips", [1, 2, 5])
def test_tiles_cover_the_upper_triangle_once(strips: int) -> None:
    pairs = Tiles(strips, 10, 0).pairs
    assert sorted(pairs) == [(i, j) for i in range(strips) for j in range(i, strips)]
    assert [i == j for i, j in pairs] == sorted(i == j for i, j in pairs), "long tasks come first"


def test_memory_sets_the_tiles_whatever_the_size_of_the_collection() -> None:
    for rows in (100_000, 1_000_000, 10_000_000):
        for budget in (2**30, 2**32):
            tiles = plan.tiled(rows, 512, 2, "float32", 2048, NeighboursSettings(task_bytes=budget))
            assert tiles.task_bytes <= budget and tiles.strips * tiles.rows >= rows
    few, many = (
        plan.tiled(1_000_000, 512, 2, "float32", 2048, NeighboursSettings(task_bytes=budget))
        for budget in (2**33, 2**30)
    )
    assert few.strips < many.strips


def test_memory_that_cannot_hold_two_blocks_is_told() -> None:
    with pytest.raises(JobFailed, match=r"neighbours.task_bytes = .* set it to [\d,]+ or more"):
        plan.tiled(100_000, 64, 2, "float32", 8192, NeighboursSettings(task_bytes=2**29, similar=10_000))


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 16])
def test_all_cores_are_busy_nearly_to_the_end(cores: int) -> None:
    tiles = plan.tiled(200_000, 512, cores, "float32", 2048, NeighboursSettings())
    loads: Counter[int] = Counter({core: 0 for core in range(cores)})
    for i, j in tiles.pairs:
        loads[min(loads, key=lambda core: loads[core])] += 1 if i == j else 2
    assert sum(loads.values()) >= 0.9 * cores * max(loads.values())


class Place:
    def __init__(self, folder: Path):
        self.local_root = str(folder / "not" / "there" / "yet")


def big(task_bytes: int, disk_bytes: int) -> Plan:
    return Plan("exact", 1000, 8, Rate("float32", 1.0, 1.0), Tiles(2, 500, task_bytes), 500, 2, 1.0, disk_bytes)


def test_disk_and_memory_that_do_not_suffice_are_told_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Any = Place(tmp_path)
    plan.check(big(2**20, 2**20), place, local=True)
    with pytest.raises(JobFailed, match="needs about 4194304.00 GiB of disk"):
        plan.check(big(2**20, 2**52), place, local=True)
    monkeypatch.setattr(plan, "_available_memory", lambda: 2**30)
    with pytest.raises(JobFailed, match="needs about 2.00 GiB of memory .2 tasks at once., but 1.00 GiB are available"):
        plan.check(big(2**30, 0), place, local=True)
    plan.check(big(2**30, 0), place, local=False)


def test_of_work_of_seconds_little_is_told() -> None:
    short = big(2**20, 2**20)
    assert short.lines == ["1,000 vectors of 8 values, 499,500 pairs: seconds"]
    long = dataclasses.replace(short, seconds=300.0, tiles=Tiles(1, 1000, 2**30))
    assert len(long.lines) == 2 and "1 task on 2 cores" in long.lines[1] and long.lines[1].endswith("about 5 min")
