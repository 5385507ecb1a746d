"""The gallery of many pictures: the first time, and when one in a hundred has changed; against a bare loop of Pillow.

    .venv/bin/python tests/benchmarks/render_gallery.py [--images 3000]

Pictures are drawn samples, cropped and brightened at random, each another file. Ours is the whole job: reading the
tables, the two files of each picture, pages, search data, publication, tidying up; the session and the start of the
workers are not counted. The bare loop makes the two files of each picture and no pages, in as many processes as there
are cores.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageEnhance
from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[2]

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
from tools import samples

TINY = 'fingerprints.tiny={network="squeezenet1_1",weights="untrained",layer="features.3",pooling="average"}'


def vary(task: tuple[Path, Path, int]) -> None:
    source, target, seed = task
    chance = random.Random(seed)
    picture = Image.open(source).convert("RGB")
    width, height = picture.size
    left, top = int(chance.uniform(0, 0.2) * width), int(chance.uniform(0, 0.2) * height)
    picture = picture.crop((left, top, left + int(0.8 * width), top + int(0.8 * height)))
    ImageEnhance.Brightness(picture).enhance(chance.uniform(0.7, 1.2)).save(target, quality=88)


def bare(task: tuple[Path, Path]) -> None:
    """As one would write it: two files of one picture."""
    source, target = task
    picture = Image.open(source).convert("RGB")
    for side in (LARGE, SMALL):
        picture.thumbnail((side, side))
        picture.save(target.with_suffix(f".{side}.webp"), quality=80, method=2)  # as ours


def seconds_of(job: object, session: SparkSession, *arguments: object) -> float:
    start = time.perf_counter()
    code = command_line.main(job, [str(argument) for argument in arguments], session=session)
    assert code == 0
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = sorted(samples.write_collection(folder / "drawn").parent.rglob("*.[jp][pn]g"))
        files = [folder / "pictures" / f"{number % 100:02d}" / f"{number:06d}.jpg" for number in range(count)]
        for file in files[:100]:
            file.parent.mkdir(parents=True, exist_ok=True)
        (folder / "bare").mkdir()
        with multiprocessing.Pool() as pool:
            pool.map(
                vary, [(drawn[number % len(drawn)], file, number) for number, file in enumerate(files)], chunksize=20
            )
            start = time.perf_counter()
            pool.map(bare, [(file, folder / "bare" / file.name) for file in files], chunksize=20)
            loop = time.perf_counter() - start
        session = open_session("bench")
        tables = ["--warehouse", folder / "w", "--set", TINY, "--set", "neighbours.fingerprint=tiny"]

        def tabulate() -> None:
            seconds_of(build_manifest, session, *tables, "--images", folder / "pictures")
            seconds_of(embed_images, session, *tables)
            seconds_of(find_neighbours, session, *tables)

        tabulate()
        first = seconds_of(render_gallery, session, *tables, "--gallery", folder / "g")
        for number, file in list(enumerate(files))[::100]:
            vary((drawn[number % len(drawn)], file, number + count))
        tabulate()
        second = seconds_of(render_gallery, session, *tables, "--gallery", folder / "g")
        session.stop()
        found = [path.stat().st_size for path in (folder / "g").rglob("*") if path.is_file()]
    report(count, loop, first, second, found)
    return 0


def report(count: int, loop: float, first: float, second: float, found: list[int]) -> None:
    print(
        f"\n{count:,} images, {os.cpu_count()} cores; two renderings: {len(found):,} files, "
        f"{sum(found) / 1e6:,.0f} MB\n"
    )
    print("| | seconds | images/s | ours / this |\n|---|---|---|---|")
    rows = {"render_gallery": first, "the same, 1 % changed": second, "bare loop, pictures only": loop}
    for name, seconds in rows.items():
        print(f"| {name} | {seconds:.1f} | {count / seconds:.1f} | {seconds / first:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
