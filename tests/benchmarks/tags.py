"""What a network says of pictures, with and without the parents of its classes, to be looked at.

    .venv/bin/python tests/benchmarks/tags.py FOLDER [...] --weights efficientnet-lite0-imagenet.pt2 [--sheets FOLDER]

Of each folder of pictures: how many have no tag, which tags are the most and the least certain, and what is gained by
parents. ``--sheets`` writes the same as pictures with their tags below them. The program takes pictures as
EfficientNet-Lite0 does, and its last output are logits of ImageNet's 1,000 classes.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from image_similarity.imaging.framing import Framing
from image_similarity.tagging.hierarchy import Hierarchy
from image_similarity.tagging.scores import Scores, kept
from image_similarity.tagging.tags import Tags, tags_of

FRAMING = Framing(256, 224, "bicubic", scaled=False)
MEAN, DEVIATION = 0.498, 0.502
BATCH = 25
LISTED = 10
MANY = 100_000
PICTURES = (".jpg", ".jpeg", ".png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="a program of torch.export")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--keep", type=int, default=3)
    parser.add_argument("--sheets", type=Path, metavar="FOLDER", help="where to write pictures with their tags")
    given = parser.parse_args()
    hierarchy = imagenet()
    for folder in given.folders:
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)
        scores = kept(logits_of(files, given.weights))
        tags = tags_of(scores, hierarchy, given.threshold, given.temperature, given.keep)
        report(folder.name, files, tags, hierarchy, given.sheets)
    speed(scores, hierarchy)


def imagenet() -> Hierarchy:
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return Hierarchy.imagenet(_IMAGENET_CATEGORIES)


def logits_of(files: Sequence[Path], weights: Path) -> NDArray[np.float32]:
    """(n, 1000): in a plain loop, without any of the library's own inference."""
    network = torch.export.load(weights).module()
    logits = []
    with torch.inference_mode():
        for start in range(0, len(files), BATCH):
            squares = [FRAMING.fit(Image.open(file).convert("RGB")) for file in files[start : start + BATCH]]
            pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2) / 255
            logits.append(network((pixels - MEAN) / DEVIATION)[-1].numpy())
    return np.concatenate(logits)


def report(name: str, files: Sequence[Path], tags: Tags, hierarchy: Hierarchy, sheets: Path | None) -> None:
    """Print what is said of the pictures of one folder."""
    first = np.flatnonzero(tags.rank == 1)
    tagged, none = first[tags.accepted[first]], first[~tags.accepted[first]]
    is_class = tags.node[tagged] < hierarchy.class_count
    falling = tagged[np.argsort(-tags.probability[tagged], kind="stable")]
    lists = {
        "most certain": falling[:LISTED],
        "least certain": falling[-LISTED:],
        "a class": tagged[is_class],
        "gained by parents": tagged[~is_class],
        "no tag (best guess)": none,
    }
    print(f"\n## {name}: {len(files)} pictures\n")
    print(f"{len(none)} have no tag. {is_class.sum()} have a class, {(~is_class).sum()} a parent.")
    for title, entries in lists.items():
        print(f"\n{title}:\n")
        for entry in entries:
            print(f"    {_line(files, tags, entry)}")
        if sheets:
            sheets.mkdir(parents=True, exist_ok=True)
            sheet(files, tags, entries).save(sheets / f"{name} {title.partition(' (')[0]}.png")


def _line(files: Sequence[Path], tags: Tags, entry: int) -> str:
    return f"{files[tags.row[entry]].name}  {tags.name[entry]} {tags.probability[entry]:.2f}"


def sheet(files: Sequence[Path], tags: Tags, entries: NDArray[np.int64]) -> Image.Image:
    """The pictures of ``entries``, five in a row, with all that is said of each."""
    side, text, across = 200, 80, 5
    down = max(-(-len(entries) // across), 1)
    page = Image.new("RGB", (across * side, down * (side + text)), "white")
    draw = ImageDraw.Draw(page)
    for place, entry in enumerate(entries):
        left, top = place % across * side, place // across * (side + text)
        picture = Image.open(files[tags.row[entry]]).convert("RGB")
        picture.thumbnail((side - 4, side - 4))
        page.paste(picture, (left, top))
        of = [other for other in np.flatnonzero(tags.row == tags.row[entry])]
        lines = [files[tags.row[entry]].stem]
        lines += [f"{'*' if tags.accepted[o] else ' '} {tags.name[o]} {tags.probability[o]:.2f}" for o in of]
        draw.text((left, top + side), "\n".join(lines[:6]), fill="black")
    return page


def speed(scores: Scores, hierarchy: Hierarchy) -> None:
    """Print how long tags of many images take, drawn from those of ``scores``."""
    rows = np.random.default_rng(0).integers(0, len(scores), MANY)
    many = scores.rows(rows)
    start = time.perf_counter()
    entries = len(tags_of(many, hierarchy, 0.5, 1.0, 3))
    seconds = time.perf_counter() - start
    print(f"\n{MANY} images of {scores.classes.shape[1]} classes: {seconds:.2f} s, {entries} entries")


if __name__ == "__main__":
    main()
