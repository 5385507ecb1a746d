"""How work is cut, and what is told before it begins."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.knn.calibration import Rate
from image_similarity.knn.scoring import SCREENS
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours import plan, resources
from image_similarity.stages.neighbours.plan import Plan, Tiles
from image_similarity.stages.neighbours.resources import Disk
from image_similarity.storage import disk_space


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
    little = NeighboursSettings(runner="spark", task_bytes=2**29, similar=10_000)
    with pytest.raises(WrongInput, match=r"neighbours.task_bytes = .* set it to [\d,]+ or more"):
        plan.tiled(100_000, 64, 2, "float32", 8192, little)
    with pytest.raises(WrongInput, match=r"neighbours.task_bytes = "):
        plan.least_disk(100_000, 64, little)


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
    return Plan("exact", 1000, 8, Rate("float32", 1.0, 1.0), Tiles(2, 500, task_bytes), 500, 2, 1.0, Disk(disk_bytes))


def test_disk_and_memory_that_do_not_suffice_are_told_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Any = Place(tmp_path)
    plan.check(big(2**20, 2**20), place, local=True)
    with pytest.raises(JobFailed, match="needs about 4,194,304.00 GiB of disk for --warehouse"):
        plan.check(big(2**20, 2**52), place, local=True)
    monkeypatch.setattr(plan, "available_memory", lambda: 2**30)
    with pytest.raises(JobFailed, match="needs about 2.00 GiB of memory .2 tasks at once., but 1.00 GiB are available"):
        plan.check(big(2**30, 0), place, local=True)
    plan.check(big(2**30, 0), place, local=False)


def test_what_shuffles_write_is_looked_for_where_they_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = tmp_path / "w", tmp_path / "spark"
    free = {str(own): 10 * 2**20, str(other): 2**20}
    monkeypatch.setattr(disk_space, "_disk_of", lambda folder: list(free).index(folder))
    monkeypatch.setattr(disk_space, "existing", lambda folder: folder)
    monkeypatch.setattr(disk_space, "_free", free.get)
    resources.check_disk(Disk(10 * 2**20, 2**20), str(own), [str(other)])
    with pytest.raises(JobFailed, match=f"2.0 MiB of disk for spark.local.dir {other}, but {other} has 1.0 MiB free"):
        resources.check_disk(Disk(10 * 2**20, 2**21), str(own), [str(other)])
    monkeypatch.setattr(disk_space, "_disk_of", lambda folder: 0)
    with pytest.raises(JobFailed, match=f"11.0 MiB of disk for --warehouse {own} and spark.local.dir {other}, but"):
        resources.check_disk(Disk(10 * 2**20, 2**20), str(own), [str(other)])


@pytest.mark.parametrize("method", ["exact", "approximate", "auto"])
@pytest.mark.parametrize("screen", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("dissimilar", [0, 12])
def test_no_plan_needs_less_disk_than_the_least(method: Any, screen: Any, dissimilar: int) -> None:
    settings, approximate = (
        NeighboursSettings(runner="spark", method=method, screen=screen, dissimilar=dissimilar),
        ApproximateSettings(),
    )
    for rows, dimensions in ((1, 3), (3_000, 512), (1_000_000, 512)):
        least = plan.least_disk(rows, dimensions, settings)
        plans = [
            plan.estimated(rows, dimensions, Rate(used, 1e9, speed), cores, settings, approximate)
            for used in (SCREENS if screen == "auto" else [screen])
            for cores in (1, 7)
            for speed in (1e3, 1e9)
        ]
        for disk in ("warehouse", "shuffles"):  # they may be two disks
            of_plans = min(getattr(made.disk, disk) for made in plans)
            assert getattr(least, disk) == of_plans or (method == "auto" and getattr(least, disk) < of_plans)
        again = plan.least_disk(rows, dimensions, settings, continues=True)
        assert again.shuffles == 0 and 4 * rows * dimensions < again.warehouse <= least.warehouse
        assert least.warehouse >= 4 * rows * dimensions
        if method != "approximate":
            in_process = settings.model_copy(update={"runner": "process"})
            here = plan.make_here(rows, dimensions, 2, in_process, approximate) if rows < 10_000 else None
            assert plan.least_disk(rows, dimensions, in_process).total <= least.total
            assert here is None or here.disk == plan.least_disk(rows, dimensions, in_process)


def test_of_work_of_seconds_little_is_told() -> None:
    short = big(2**20, 2**20)
    assert short.lines == ["1,000 vectors of 8 values, 499,500 pairs: seconds"]
    long = dataclasses.replace(short, seconds=300.0, tiles=Tiles(1, 1000, 2**30))
    assert len(long.lines) == 2 and "1 task on 2 cores" in long.lines[1] and long.lines[1].endswith("about 5 min")
