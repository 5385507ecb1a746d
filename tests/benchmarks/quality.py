"""Which numbers of `imaging/quality` tell damaged pictures from good ones, how many good ones are flagged, and the same
of cleanvision.

    .venv/bin/python tests/benchmarks/quality.py [--data FOLDER] [--samples FOLDER] [--folder FOLDER]
    [--cleanvision PYTHON]

200 good photographs (UKBench) are blurred, made darker and brighter, made noisy, and partly filled with one colour,
each at three strengths, by seed. All copies, good ones too, are saved as JPEGs of quality 90. AUROC is the chance that
a damaged picture has the larger number than a good one: 0 and 1 tell all of them apart, 0.5 none. The limits of flags
were chosen on paintings (wikiart) and on the demo's drawn pictures (--samples), not on UKBench and the artworks (cma).

cleanvision is run by --cleanvision, a Python that has it (default: this one, if it has), and left out where there is
none. The pictures are in --data (default: $IMAGE_SIMILARITY_TEST_DATA). Prints Markdown.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]

from benchmarks.groups import heading
from image_similarity.imaging import decoding, quality
from image_similarity.imaging.quality import FLAGS, MEASURES, Limits

GOOD = "good"
FOR_THE_FLAG = "sharpness for the flag"
"""That of a picture whose contrast was raised to that of an ordinary photograph."""
MOST_PIXELS = 2**28
Damage = Callable[[Image.Image, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class Judged:
    """What one program says of the n pictures of a set."""

    numbers: dict[str, NDArray[np.floating]]
    """Of each number, (n,)."""
    raised: dict[str, NDArray[np.bool_]]
    """Of each flag, (n,)."""
    seconds: float
    """Of processor time: reading, decoding and measuring, in one thread."""

    @property
    def any(self) -> NDArray[np.bool_]:
        raised: NDArray[np.bool_] = np.any(list(self.raised.values()), axis=0)
        return raised


def blurred(share: float) -> Damage:
    """By a Gaussian whose deviation is a share of the longer side."""
    return lambda image, _: image.filter(ImageFilter.GaussianBlur(share * max(image.size)))


def exposed(stops: int) -> Damage:
    """As if so many times twice the light had come in; what is brighter than white is white."""
    table = [min(255, round(level * 2 ** (stops / 2.2))) for level in range(256)]
    return lambda image, _: image.point(table * 3)


def noisy(deviation: float) -> Damage:
    def damaged(image: Image.Image, random: np.random.Generator) -> Image.Image:
        pixels = np.asarray(image) + random.normal(0, deviation, (image.height, image.width, 3))
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    return damaged


def filled(share: float) -> Damage:
    """The lower part is one colour, as of a file that was not transferred as a whole."""

    def damaged(image: Image.Image, random: np.random.Generator) -> Image.Image:
        red, green, blue = map(int, random.integers(0, 256, 3))
        image = image.copy()
        image.paste((red, green, blue), (0, round(image.height * (1 - share)), *image.size))
        return image

    return damaged


def blurred_and_noisy(image: Image.Image, random: np.random.Generator) -> Image.Image:
    return noisy(25)(blurred(0.005)(image, random), random)


DAMAGES: dict[str, Damage] = {
    GOOD: lambda image, _: image,
    **{f"blur, {share:.2%} of the longer side": blurred(share) for share in (0.0025, 0.005, 0.01)},
    **{f"dark, {stops} stops": exposed(stops) for stops in (-2, -4, -6)},
    **{f"bright, +{stops} stops": exposed(stops) for stops in (1, 2, 4)},
    **{f"noise, {deviation} levels": noisy(deviation) for deviation in (10, 25, 50)},
    **{f"one colour fills {share:.0%}": filled(share) for share in (0.5, 0.8, 0.97)},
    "blur, 0.50%, then noise, 25 levels": blurred_and_noisy,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What numbers of quality tell.")
    data = os.environ.get("IMAGE_SIMILARITY_TEST_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--samples", type=Path, default=ROOT / "demo" / "samples", help="pictures of make demo")
    parser.add_argument("--folder", type=Path, help="where damaged pictures stay (0.6 GB)")
    parser.add_argument("--cleanvision", help="a Python that has it (default: this one, if it has)")
    arguments = parser.parse_args()
    images = arguments.data.resolve() / "images"
    if not (images / "ukbench").is_dir():
        raise SystemExit(f"no pictures at {arguments.data}")
    collections = {
        "wikiart": sorted((images / "wikiart").glob("*/*.*")),
        "drawn": [file for file in sorted(arguments.samples.resolve().glob("*/*.*")) if "blurred" not in file.name],
        "UKBench": sorted((images / "ukbench").glob("*.jpg")),
        "cma": sorted((images / "cma").glob("*.jpg")),
    }
    collections = {name: files for name, files in collections.items() if files}
    with tempfile.TemporaryDirectory(prefix="quality-") as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        copies = {name: damaged(collections["UKBench"], name, folder) for name in DAMAGES}
        programs = {"ours": {name: ours(files) for name, files in (collections | copies).items()}}
        programs |= cleanvision(arguments.cleanvision, collections | copies, folder)
    for program in programs.values():
        aurocs(program)
    for program in programs.values():
        flag_rates({name: program[name] for name in copies}, "copies of UKBench")
        flag_rates({name: program[name] for name in collections}, "good pictures as they are")
    extremes({name: programs["ours"][name] for name in collections})
    contrast_ignored({name: programs["ours"][name] for name in copies})
    seconds({name: program["UKBench"] for name, program in programs.items()}, collections["UKBench"])


def damaged(files: list[Path], name: str, folder: Path) -> list[Path]:
    target = folder / str(list(DAMAGES).index(name))
    target.mkdir(parents=True, exist_ok=True)

    def write(numbered: tuple[int, Path]) -> Path:
        number, file = numbered
        copy = target / file.name
        image = decoding.decode(file.read_bytes(), MOST_PIXELS).image
        random = np.random.default_rng((number, list(DAMAGES).index(name)))
        DAMAGES[name](image, random).save(copy, "JPEG", quality=90)
        return copy

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(write, enumerate(files)))


def ours(files: list[Path]) -> Judged:
    start = time.process_time()
    pictures, measures = [], []
    for file in files:
        picture = decoding.decode(file.read_bytes(), MOST_PIXELS, quality.DECODE_SIDE)
        pictures.append((picture.width, picture.height))
        measures.append(quality.measure(picture.image))
    widths, heights = zip(*pictures)
    flags = quality.flags(widths, heights, np.array(measures))
    took = time.process_time() - start
    raised = {name: np.array([name in names for names in flags]) for name in FLAGS}
    numbers = dict(zip(MEASURES, np.array(measures).T))
    numbers[FOR_THE_FLAG] = quality.at_ordinary_contrast(numbers["sharpness"], numbers["contrast"])
    return Judged(numbers, raised, took)


def cleanvision(python: str | None, sets: dict[str, list[Path]], folder: Path) -> dict[str, dict[str, Judged]]:
    python = python or (sys.executable if importlib.util.find_spec("cleanvision") else None)
    if python is None:
        print("cleanvision is not installed, and left out", file=sys.stderr)
        return {}
    asked, answered = folder / "sets.json", folder / "issues.json"
    asked.write_text(json.dumps({name: list(map(str, files)) for name, files in sets.items()}), encoding="utf-8")
    program = [python, str(Path(__file__).parent / "cleanvision_issues.py"), str(asked), str(answered)]
    finished = subprocess.run(program, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(f"cleanvision failed:\n{finished.stderr[-2000:]}")
    judged = {}
    for name, answer in json.loads(answered.read_text(encoding="utf-8")).items():
        issues = answer["issues"]
        scores = {issue: np.array(of["score"]) for issue, of in issues.items() if not issue.startswith("odd")}
        raised = {issue: np.array(of["raised"], dtype=bool) for issue, of in issues.items()}
        judged[name] = Judged(scores, raised, answer["seconds"])
    return {"cleanvision": judged}


def aurocs(program: dict[str, Judged]) -> None:
    good = program[GOOD]
    heading(["AUROC", *good.numbers], 1)
    for name in list(DAMAGES)[1:]:
        bad = program[name].numbers
        labels = np.repeat([0, 1], [len(good.any), len(program[name].any)])
        cells = [roc_auc_score(labels, np.r_[good.numbers[key], bad[key]]) for key in bad]
        row(name, (f"{cell:.3f}" for cell in cells))
    print()


def flag_rates(sets: dict[str, Judged], title: str) -> None:
    heading([f"flagged, %: {title}", "pictures", *next(iter(sets.values())).raised, "any"], 1)
    for name, judged in sets.items():
        rates = [*judged.raised.values(), judged.any]
        row(name, [f"{len(judged.any):,}", *(f"{100 * rate.mean():.1f}" for rate in rates)])
    print()


def extremes(sets: dict[str, Judged]) -> None:
    """The number of each collection that is nearest to the limit of each flag."""
    limits = asdict(Limits())
    heading(["nearest to the limit", *list(FLAGS)[:4]], 1)
    row("limit", (f"{limits[name]:g}" for name in list(FLAGS)[:4]))
    for name, judged in sets.items():
        numbers = judged.numbers
        dark, bright, flat = (numbers[key] for key in ("brightness_p95", "brightness_p5", "one_colour_share"))
        row(
            name,
            [f"{dark.min():.3f}", f"{bright.max():.3f}", f"{numbers[FOR_THE_FLAG].min():.1f}", f"{flat.max():.3f}"],
        )
    print()


def contrast_ignored(copies: dict[str, Judged]) -> None:
    """How many pictures would be flagged as blurred if a limit were set on the sharpness as it is."""
    shares = {
        name: 100 * float((judged.numbers["sharpness"] < Limits().blurred).mean())
        for name, judged in copies.items()
        if name == GOOD or name.startswith(("dark", "blur"))
    }
    print(
        "Sharpness as it is, below the limit, %:", "; ".join(f"{name}: {share:.1f}" for name, share in shares.items())
    )
    print()


def seconds(programs: dict[str, Judged], files: list[Path]) -> None:
    images = [decoding.decode(file.read_bytes(), MOST_PIXELS, quality.DECODE_SIDE).image for file in files]
    took = []
    for _ in range(3):
        start = time.process_time()
        for image in images:
            quality.measure(image)
        took.append(time.process_time() - start)
    print(f"Measuring one of {len(files)} decoded pictures: {1000 * np.median(took) / len(files):.2f} ms", end="")
    for name, judged in programs.items():
        print(f"; with reading and decoding, {name}: {1000 * judged.seconds / len(files):.1f} ms", end="")
    print(" (processor time)")


def row(name: str, cells: Iterable[str]) -> None:
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
