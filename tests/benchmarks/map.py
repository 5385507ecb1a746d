"""The map of many pictures: drawn the first time, drawn once more, and when one picture in a hundred has changed.

    .venv/bin/python tests/benchmarks/map.py FOLDER [--images 30000]

Pictures are drawn samples, cropped and brightened at random, at 160 pixels, compared by their colours. They, their
tables and their gallery are made in FOLDER once, and are not measured. The map is measured by the records of its runs:
seconds of each step, files and bytes below map/, and the most memory that this process and a worker have held.

    .venv/bin/python tests/benchmarks/map.py FOLDER --pan

Opens that map from disk in Chromium: how long until the first view is whole, and, from traces of panning at six depths,
which tasks of script and layout last longest, and how far frames are apart. Keys zoom in between.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import time
from multiprocessing import Pool
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.measuring import Peak
from benchmarks.render_gallery import CHEAP_SIDE, COLOURS, peak_of_process, vary
from image_similarity.jobs import build_manifest, command_line, embed_images, find_neighbours, render_gallery
from image_similarity.runtime.session import open_session
from image_similarity.warehouse.snapshot import open_snapshot
from tools import samples

OPTIONS = ["--set", COLOURS, "--set", "neighbours.fingerprint=tiny"]
LONGEST_TASK_MS = 16.0
DEPTHS = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--pan", action="store_true")
    given = parser.parse_args()
    return pan(given.folder / "gallery" / "map.html") if given.pan else draw(given.folder, given.images)


# -- drawing -----------------------------------------------------------------------------------------------------------


def draw(folder: Path, count: int) -> int:
    sources = make_pictures(folder, count)
    session = open_session("bench")
    job = Jobs(session, folder)
    if not (folder / "gallery" / "index.html").exists():
        job.tabulate()
        job(render_gallery, "--gallery", folder / "gallery")
    shutil.rmtree(folder / "gallery" / "map", ignore_errors=True)
    job.report("the first time")
    job.report("nothing changed")
    chance = random.Random(len(open_snapshot(str(folder / "warehouse")).runs))  # other pictures each time it is run
    for number in chance.sample(range(count), count // 100):
        vary((sources[number], picture(folder, number), chance.randrange(2**31), CHEAP_SIDE))
    job.tabulate()
    job(render_gallery, "--gallery", folder / "gallery")
    job.report("1 % changed")
    session.stop()
    return 0


def picture(folder: Path, number: int) -> Path:
    return folder / "pictures" / f"{number % 100:02d}" / f"{number:06d}.jpg"


def make_pictures(folder: Path, count: int) -> list[Path]:
    """The drawn sample that each picture is a variant of; the pictures that are not there yet are made."""
    drawn = sorted(samples.write_collection(folder / "drawn").parent.rglob("*.[jp][pn]g"))
    sources = [drawn[number % len(drawn)] for number in range(count)]
    for number in range(100):
        (folder / "pictures" / f"{number:02d}").mkdir(parents=True, exist_ok=True)
    wanted = [(sources[n], picture(folder, n), n, CHEAP_SIDE) for n in range(count) if not picture(folder, n).exists()]
    with Pool() as pool:
        pool.map(vary, wanted, chunksize=50)
    return sources


class Jobs:
    """Jobs on the tables in a folder, in one session."""

    def __init__(self, session: Any, folder: Path):
        self.session, self.folder = session, folder

    def __call__(self, job: Any, *arguments: object) -> None:
        words = ["--warehouse", str(self.folder / "warehouse"), *OPTIONS, *map(str, arguments)]
        if code := command_line.main(job, words, session=self.session):
            raise SystemExit(code)

    def tabulate(self) -> None:
        self(build_manifest, "--images", self.folder / "pictures")
        self(embed_images)
        self(find_neighbours)

    def report(self, title: str) -> None:
        from image_similarity.jobs import render_map

        began = time.perf_counter()
        with Peak() as peak:
            self(render_map, "--gallery", self.folder / "gallery")
        seconds = time.perf_counter() - began
        snapshot = open_snapshot(str(self.folder / "warehouse"))
        record = max((run for run in snapshot.runs.values() if run.job == "render_map"), key=lambda run: run.run_id)
        files = [path.stat().st_size for path in (self.folder / "gallery" / "map").rglob("*") if path.is_file()]
        memory = [("this process", peak_of_process("self")), ("largest worker", peak.bytes)]
        print(f"\n## {title}: {seconds:.1f} s; {len(files):,} files, {sum(files) / 1e6:,.1f} MB below map/")
        print("peak: " + ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in memory))
        print("steps: " + ", ".join(f"{step} {spent:.1f} s" for step, spent in record.stages.items()))
        print(f"counts: {json.dumps(record.counts)}", flush=True)


# -- panning -----------------------------------------------------------------------------------------------------------

_ALL_SHOWN = """() => { const tiles = [...document.querySelectorAll('.leaflet-tile')];
return tiles.length && tiles.every((tile) => tile.classList.contains('leaflet-tile-loaded')) && performance.now(); }"""


def pan(page: Path) -> int:
    """Opens the map, and prints what the browser's trace says of panning at several depths."""
    from playwright.sync_api import sync_playwright

    trace = page.parent.parent / "trace.json"
    with sync_playwright() as playwright:
        program = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=os.getuid() != 0)
        for size in ((1920, 1080), (390, 844)):
            tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
            tab.goto(page.resolve().as_uri())
            shown = tab.wait_for_function(_ALL_SHOWN, polling="raf").json_value()
            painted = tab.evaluate("performance.getEntriesByType('paint').map((entry) => entry.startTime)")
            print(f"\n{size[0]} x {size[1]}: first paint {min(painted or [0]):.0f} ms, whole first view {shown:.0f} ms")
            for depth in range(DEPTHS):
                tab.wait_for_timeout(1500)
                browser.start_tracing(page=tab, path=str(trace), categories=["devtools.timeline", "toplevel"])
                drag(tab, *size)
                browser.stop_tracing()
                report_trace(depth, json.loads(trace.read_text())["traceEvents"])
                tab.locator("#map").press("+")
            tab.close()
        browser.close()
    return 0


def drag(tab: Any, width: int, height: int) -> None:
    """Drags the map about for a second, there and back."""
    tab.mouse.move(width / 2, height / 2)
    tab.mouse.down()
    for step in [*range(40), *range(40, 0, -1)]:
        tab.mouse.move(width / 2 - width / 100 * step, height / 2 - height / 200 * step)
        tab.wait_for_timeout(12)
    tab.mouse.up()
    tab.wait_for_timeout(300)


_SCRIPT_AND_LAYOUT = {"FunctionCall", "EvaluateScript", "Layout", "UpdateLayoutTree", "TimerFire", "FireAnimationFrame"}


def report_trace(depth: int, events: list[dict[str, Any]]) -> None:
    main = max(
        (event for event in events if event.get("args", {}).get("name") == "CrRendererMain"),
        key=lambda event: sum(other.get("tid") == event["tid"] and other["pid"] == event["pid"] for other in events),
    )
    of_page = [event for event in events if (event.get("pid"), event.get("tid")) == (main["pid"], main["tid"])]
    tasks = [event for event in of_page if event.get("name") in _SCRIPT_AND_LAYOUT and "dur" in event]
    spent = sorted((event["dur"] / 1000, event["name"]) for event in tasks)
    over = [f"{name} {milliseconds:.1f} ms" for milliseconds, name in spent if milliseconds > LONGEST_TASK_MS]
    longest, name = spent[-1] if spent else (0.0, "none")
    frames = sorted(event["ts"] / 1000 for event in of_page if event.get("name") == "FireAnimationFrame")
    gaps = sorted(after - before for before, after in zip(frames, frames[1:]) if after - before < 200)
    apart = (
        f"{statistics.median(gaps):.1f} ms apart, 95 % within {gaps[int(0.95 * len(gaps))]:.1f} ms" if gaps else "none"
    )
    print(
        f"depth {depth}: {len(spent):,} tasks of script and layout, longest {name} {longest:.1f} ms; "
        f"over {LONGEST_TASK_MS:.0f} ms: {', '.join(over) or 'none'}; frames {apart}"
    )


if __name__ == "__main__":
    sys.exit(main())
