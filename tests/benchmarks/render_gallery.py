"""The gallery of many pictures: the first time, and when one in a hundred has changed; against a bare loop of Pillow.

    .venv/bin/python tests/benchmarks/render_gallery.py [--images 3000] [--rounds 3] [--cheap] [--groups]

Pictures are drawn samples, cropped and brightened at random, each another file of 256 to 384 pixels. Ours is the whole
job: reading the tables, the files of each picture, pages, search data, publication, tidying up; the session and the
start of the workers are not counted. The bare loop makes two files of each picture and no pages, in as many processes
as there are cores. Ours makes one where the picture fits into the small one, as these do: so there is the loop that
does the same, too. Medians of interleaved rounds. ``--cheap``: for many images, pictures of 160 pixels, compared by
their colours. ``--groups``: also with groups, in which are about a tenth of the pictures as nearly the same, and half
of them as what belongs together; the first time and once more.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from PIL import Image, ImageEnhance
from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import grouping_tables
from benchmarks.measuring import Peak
from image_similarity.imaging.thumbnails import (
    LARGE,
    SMALL,
)
from image_similarity.jobs import (
    build_manifest,
    command_line,
    embed_images,
    find_neighbours,
    render_gallery,
)
from image_similarity.runtime.session import open_session
from image_similarity.warehouse.snapshot import open_snapshot
from tools import samples

COLOURS = 'fingerprints.tiny={kind="colour-histogram"}'
CHEAP_SIDE = 160
TINY = 'fingerprints.tiny={network="squeezenet1_1",weights="untrained",layer="features.3",pooling="average"}'


def vary(task: tuple[Path, Path, int, int | None]) -> None:
    """Writes a variant of a picture. The last of ``task``: its longest side in pixels; None: as it is."""
    source, target, seed, side = task
    chance = random.Random(seed)
    picture = Image.open(source).convert("RGB")
    width, height = picture.size
    left, top = int(chance.uniform(0, 0.2) * width), int(chance.uniform(0, 0.2) * height)
    picture = picture.crop((left, top, left + int(0.8 * width), top + int(0.8 * height)))
    if side is not None:
        picture.thumbnail((side, side))
    ImageEnhance.Brightness(picture).enhance(chance.uniform(0.7, 1.2)).save(target, quality=88)


def bare(task: tuple[Path, Path]) -> None:
    """As one would write it: two files of one picture."""
    source, target = task
    picture = Image.open(source).convert("RGB")
    for side in (LARGE, SMALL):
        picture.thumbnail((side, side))
        picture.save(target.with_suffix(f".{side}.webp"), quality=80, method=2)  # as ours


def bare_as_ours(task: tuple[Path, Path]) -> None:
    """The same, without the large file of a picture that fits into the small one."""
    source, target = task
    picture = Image.open(source).convert("RGB")
    for side in (LARGE, SMALL) if max(picture.size) > SMALL else (SMALL,):
        picture.thumbnail((side, side))
        picture.save(target.with_suffix(f".{side}.webp"), quality=80, method=2)


def loop(pool: Any, work: Callable[[tuple[Path, Path]], None], files: list[Path], target: Path) -> float:
    start = time.perf_counter()
    pool.map(work, [(file, target / file.name) for file in files], chunksize=20)
    return time.perf_counter() - start


def seconds_of(job: object, session: SparkSession, *arguments: object) -> float:
    start = time.perf_counter()
    code = command_line.main(job, [str(argument) for argument in arguments], session=session)
    assert code == 0
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cheap", action="store_true")
    parser.add_argument("--groups", action="store_true")
    given = parser.parse_args()
    count, rounds = given.images, range(given.rounds)
    side, fingerprint = (CHEAP_SIDE, COLOURS) if given.cheap else (None, TINY)
    names = (OURS, *((GROUPED, GROUPED_AGAIN) if given.groups else ()), CHANGED, LOOP, LOOP_AS_OURS)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as name, multiprocessing.Pool() as pool:
        folder = Path(name)
        drawn = sorted(samples.write_collection(folder / "drawn").parent.rglob("*.[jp][pn]g"))
        files = [folder / "pictures" / f"{number % 100:02d}" / f"{number:06d}.jpg" for number in range(count)]
        for file in files[:100]:
            file.parent.mkdir(parents=True, exist_ok=True)
        (folder / "bare").mkdir()
        sources = [drawn[number % len(drawn)] for number in range(count)]
        pool.map(vary, [(sources[n], file, n, side) for n, file in enumerate(files)], chunksize=20)
        session = open_session("bench")
        options = ["--set", fingerprint, "--set", "neighbours.fingerprint=tiny"]
        tables = ["--warehouse", folder / "w", *options]

        def tabulate() -> None:
            seconds_of(build_manifest, session, *tables, "--images", folder / "pictures")
            seconds_of(embed_images, session, *tables)
            seconds_of(find_neighbours, session, *tables)

        tabulate()
        if given.groups:
            print(publish_groups(folder / "w", folder / "grouped"))
        with Peak() as peak:
            for number in rounds:
                seconds[LOOP].append(loop(pool, bare, files, folder / "bare"))
                seconds[OURS].append(seconds_of(render_gallery, session, *tables, "--gallery", folder / f"g{number}"))
                if given.groups:
                    grouped = ["--warehouse", folder / "grouped", *options, "--gallery", folder / f"grouped-{number}"]
                    seconds[GROUPED].append(seconds_of(render_gallery, session, *grouped))
                    seconds[GROUPED_AGAIN].append(seconds_of(render_gallery, session, *grouped))
                seconds[LOOP_AS_OURS].append(loop(pool, bare_as_ours, files, folder / "bare"))
        for number, file in list(enumerate(files))[::100]:
            vary((sources[number], file, number + count, side))
        tabulate()
        for number in rounds:
            seconds[CHANGED].append(seconds_of(render_gallery, session, *tables, "--gallery", folder / f"g{number}"))
        memory = [peak_of_process("self"), *map(peak_of_process, javas()), peak.bytes]
        session.stop()
        found = [path.stat().st_size for path in (folder / "g0").rglob("*") if path.is_file()]
    report(count, {name: statistics.median(of) for name, of in seconds.items()}, found, memory)
    return 0


OURS, CHANGED = "render_gallery", "the same, 1 % changed"
GROUPED, GROUPED_AGAIN = "render_gallery with groups", "the same again, nothing changed"
LOOP, LOOP_AS_OURS = "bare loop, two files of each picture", "bare loop, one file where it suffices"


def publish_groups(warehouse: Path, copy: Path) -> str:
    """Makes a copy of a warehouse that has groups. Returns what they are."""
    shutil.copytree(warehouse, copy)
    first = open_snapshot(str(copy)).table("neighbours", SLOT).filter(pc.field("rank") == 1)
    first = first.filter(pc.field("relation") == "similar")
    limits = pc.quantile(first["distance"], [0.1, 0.4, 0.6]).to_pylist()
    groups = grouping_tables.likely(copy, SLOT, limits)
    grouping_tables.publish(copy, SLOT, groups)
    sizes: dict[tuple[str, int], list[int]] = {}
    for group in groups:
        sizes.setdefault((group.kind, group.level), []).append(len(group.members))
    return ", ".join(f"{len(of)} of {kind} ({sum(of)} images, level {level})" for (kind, level), of in sizes.items())


SLOT = "tiny/cosine"


def javas() -> list[str]:
    """The process of the driver's JVM."""
    listed = (path for path in Path("/proc").iterdir() if path.name.isdigit())
    return [path.name for path in listed if _is_our_java(path)]


def _is_our_java(process: Path) -> bool:
    try:
        name, _, rest = (process / "stat").read_text().partition("(")[2].rpartition(")")
        return name == "java" and int(rest.split()[1]) == os.getpid()
    except (OSError, ValueError, IndexError):  # gone meanwhile
        return False


def peak_of_process(process: str) -> int:
    """The most memory that a process has held, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def report(count: int, seconds: dict[str, float], found: list[int], memory: list[int]) -> None:
    print(
        f"\n{count:,} images, {os.cpu_count()} cores; two renderings: {len(found):,} files, "
        f"{sum(found) / 1e6:,.0f} MB; peak memory: "
        + ", ".join(
            f"{name} {size / 2**20:,.0f} MiB" for name, size in zip(("driver", "its JVM", "largest worker"), memory)
        )
    )
    print("\n| | seconds | images/s | this / ours |\n|---|---|---|---|")
    for name, spent in seconds.items():
        print(f"| {name} | {spent:.1f} | {count / spent:.1f} | {spent / seconds[OURS]:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
