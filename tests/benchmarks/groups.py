"""Groups of near-duplicates against what is known to belong together, beside connected components and imagededup.

    .venv/bin/python tests/benchmarks/groups.py [--data FOLDER] [--shares 0 0.05 0.4] [--folder FOLDER]
    [--fingerprints squeezenet efficientnet-lite0 colour-histogram] [--imagededup PYTHON] [--only copies chain]

``copies``: 1,460 paintings and 50 photographs, and edited copies of some of them, as many as are ``--shares`` of all
images (`group_collections`). What belongs together is an original and its copies, files of the same bytes, and three
pairs of paintings that are there twice. More may be: pairs that are counted as false are listed with their files (all
of them in --folder), to be looked at.

- ours: the jobs, as commands, with the limit that group_images chooses by itself; copies are edited here by other code
  than the one by which it chooses.
- components: what our neighbours within a raw distance connect, at the distance that has the best F1. That is an
  oracle's: somebody who knows the answer has chosen it.
- imagededup: PHash, and CNN with the same EfficientNet-Lite0 (weights of its own are not fetched), each with its
  default threshold and with the oracle's. It gives pairs; its groups are what these connect. It is run by
  ``--imagededup``, a Python that has it and torch, and left out where there is none.

Pairs of the same bytes are in no figure: any method finds them.

``chain``: 1,000 drawn pictures, each hardly different from the next, the first and the last nothing alike.

The pictures are in --data (default: $IMAGE_SIMILARITY_TEST_DATA). Without them only the chain is tried, by its colours.
Prints Markdown.
"""

import argparse
import csv
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import group_collections as collections
from benchmarks.group_collections import Collection
from benchmarks.group_scores import Labels, Pairs, Scores, Truth, best_limit, components, numbered, pairs_of, scored
from benchmarks.measuring import command
from benchmarks.published import Published

DECLARED = """
[fingerprints.squeezenet]
network = "squeezenet1_1"
weights = "{weights}/squeezenet1_1-features-caffe.pth"
preprocessing = "caffe"

[fingerprints.efficientnet-lite0]
kind = "exported"
weights = "{weights}/efficientnet-lite0-imagenet.pt2"
mean = [0.498, 0.498, 0.498]
std = [0.502, 0.502, 0.502]
resize = 256
interpolation = "bicubic"
"""
FINGERPRINTS = ("squeezenet", "efficientnet-lite0", "colour-histogram")
LISTED = 10
"""False pairs that are printed."""


@dataclass(frozen=True)
class Answer:
    """What a method says of a collection."""

    fingerprint: str
    method: str
    limit: str
    scores: Scores


def main() -> None:
    parser = argparse.ArgumentParser(description="Groups of near-duplicates.")
    data = os.environ.get("IMAGE_SIMILARITY_TEST_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.05, 0.4], help="of copies in all images")
    parser.add_argument("--fingerprints", nargs="+", choices=FINGERPRINTS, default=FINGERPRINTS)
    parser.add_argument("--folder", type=Path, help="where pictures, tables and false pairs stay")
    parser.add_argument("--imagededup", help="a Python that has it (default: this one, if it has)")
    parser.add_argument("--only", nargs="+", choices=("copies", "chain"), default=("copies", "chain"))
    arguments = parser.parse_args()
    if not (arguments.data / "images/wikiart").is_dir():
        print(f"no pictures at {arguments.data}: all but the chain, by its colours, is left out", file=sys.stderr)
        arguments.only, arguments.fingerprints = ["chain"], ["colour-histogram"]
    with tempfile.TemporaryDirectory(prefix="groups-") as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        if "copies" in arguments.only:
            for share in sorted(arguments.shares, reverse=True):  # so that nothing is embedded twice
                copies(arguments, folder / "copies", share)
        if "chain" in arguments.only:
            chain(arguments, folder / "chain")


def copies(arguments: argparse.Namespace, folder: Path, share: float) -> None:
    collection = collections.edited(arguments.data.resolve(), folder / f"pictures-{share:g}", share)
    truth = Truth.of(collection)
    group(arguments, folder, collection)
    answers = []
    for fingerprint in arguments.fingerprints:
        answers += ours(folder, truth, fingerprint)
    answers += imagededup(arguments, folder, truth)
    print(f"\n## {len(truth.images):,} images, {len(collection.edits):,} of them copies\n")
    print(f"{truth.positives:,} pairs of files that show the same and differ in their bytes\n")
    table(answers)
    if collection.edits:
        table_of_edits(answers)
    for answer in answers:
        if answer.method == "ours":
            false_pairs(folder, folder / f"false-pairs-{share:g}-{answer.fingerprint}.csv", truth, answer)


def group(arguments: argparse.Namespace, folder: Path, collection: Collection) -> None:
    """From pictures to published groups, with a limit that is chosen on these pictures."""
    (folder / "fingerprints.toml").write_text(DECLARED.format(weights=arguments.data.resolve() / "weights"))
    job(folder, "build_manifest", "--images", str(collection.folder))
    names = [text for fingerprint in arguments.fingerprints for text in ("--fingerprint", fingerprint)]
    job(folder, "embed_images", *names)
    for fingerprint in arguments.fingerprints:
        job(folder, "find_neighbours", "--fingerprint", fingerprint, "--dissimilar", "0")
        job(folder, "group_images", "--fingerprint", fingerprint, "--recalibrate")


def job(folder: Path, name: str, *options: str) -> None:
    configured = [] if name == "build_manifest" else ["--config", str(folder / "fingerprints.toml")]
    measured = command(name, "--warehouse", str(folder / "warehouse"), *configured, *options)
    print(f"{name} {' '.join(options)}: {measured.seconds:.1f} s", file=sys.stderr, flush=True)


def ours(folder: Path, truth: Truth, fingerprint: str) -> list[Answer]:
    """The groups that were published, and connected components of the neighbours at the oracle's limit."""
    published = Published(folder / "warehouse")
    images, vectors = published.vectors(fingerprint)
    if images != truth.images:
        raise SystemExit(f"{len(truth.images)} images, and vectors of {len(images)}: some have failed")
    groups = published_groups(published, truth, fingerprint)
    limit = limit_text(published.record("group_images", f"{fingerprint}/cosine")["settings"])
    answers = [Answer(fingerprint, "ours", limit, scored(truth, pairs_of(groups), groups, vectors))]
    entries = published.neighbours(fingerprint)
    number = {image: place for place, image in enumerate(truth.images)}
    pairs = np.array([[number[image] for image in entries[name]] for name in ("image_id", "neighbour_id")]).T
    limit_of_oracle = best_limit(truth, pairs, entries["distance"])
    within = np.concatenate([pairs[entries["distance"] <= limit_of_oracle], same_bytes(truth)])
    groups = components(len(truth.images), within)
    scores = scored(truth, pairs_of(groups), groups, vectors)
    return [*answers, Answer(fingerprint, "components, oracle", f"{limit_of_oracle:.3f} raw", scores)]


def published_groups(published: Published, truth: Truth, fingerprint: str) -> Labels:
    """The group of each image, (n,), -1 for none: of near-duplicates, with the files of the same bytes."""
    number = {image: place for place, image in enumerate(truth.images)}
    named = published.groups(fingerprint, "near-duplicates")
    groups = np.full(len(truth.images), -1, dtype=np.int64)
    if named:
        groups[[number[image] for image in named]] = numbered(list(named.values()))
    for content in np.unique(truth.content):
        members = np.nonzero(truth.content == content)[0]
        of_members = set(groups[members].tolist()) - {-1}
        if len(of_members) > 1:
            raise SystemExit(f"files of the same bytes are in different groups: {[truth.images[m] for m in members]}")
        if len(members) > 1:
            groups[members] = of_members.pop() if of_members else groups.max() + 1
    return groups


def same_bytes(truth: Truth) -> Pairs:
    return pairs_of(truth.content)


def limit_text(settings: dict[str, Any]) -> str:
    """The limit that was chosen, on the local scale."""
    limit = settings.get("limit")
    if not isinstance(limit, dict):
        return str(limit)
    return ", ".join(f"{name} {value:.3g}" for name, value in limit.items() if isinstance(value, float))


def imagededup(arguments: argparse.Namespace, folder: Path, truth: Truth) -> list[Answer]:
    """Its pairs of the largest collection: among the images of a smaller one it finds the same."""
    python = arguments.imagededup or (sys.executable if importlib.util.find_spec("imagededup") else None)
    if python is None:
        print("imagededup is not installed, and left out", file=sys.stderr)
        return []
    out = folder / "imagededup"
    if not (out / "cnn.npz").exists():  # written last
        pictures = folder / f"pictures-{max(arguments.shares):g}"
        program = Path(__file__).parent / "imagededup_pairs.py"
        weights = arguments.data.resolve() / "weights/efficientnet-lite0-imagenet.pt2"
        command_line = [python, str(program), str(pictures), str(out), str(weights)]
        finished = subprocess.run(command_line, capture_output=True, text=True)
        if finished.returncode:
            raise SystemExit(f"imagededup failed:\n{finished.stderr[-2000:]}")
    answers = []
    for method, fingerprint in (("phash", "pHash"), ("cnn", "efficientnet-lite0")):
        default, found = pairs_by_threshold(out / f"{method}.npz", truth.images)
        scores = {threshold: scores_of_pairs(truth, some) for threshold, some in found.items()}
        best = max(scores, key=lambda threshold: scores[threshold].f1 if scores[threshold].pairs else -1.0)
        answers.append(Answer(fingerprint, "imagededup, default", default, scores[default]))
        answers.append(Answer(fingerprint, "imagededup, oracle", best, scores[best]))
    return answers


def pairs_by_threshold(file: Path, images: list[str]) -> tuple[str, dict[str, Pairs]]:
    """The default threshold, and of each threshold the pairs among ``images``, as their numbers."""
    number = {image: place for place, image in enumerate(images)}
    with np.load(file) as arrays:
        about = json.loads(str(arrays["about"]))
        here = np.array([number.get(image, -1) for image in about["images"]])
        assert set(number) <= set(about["images"]), "it has read every image"
        found = {name.removeprefix("pairs "): here[arrays[name]] for name in arrays.files if name != "about"}
    return str(about["default"]), {threshold: pairs[(pairs >= 0).all(axis=1)] for threshold, pairs in found.items()}


def scores_of_pairs(truth: Truth, pairs: Pairs) -> Scores:
    return scored(truth, pairs, components(len(truth.images), pairs), None)


def table(answers: Iterable[Answer]) -> None:
    columns = ["fingerprint", "", "limit", "pairs", "false", "precision", "copy and original", "recall", "F1"]
    heading([*columns, "largest group", "widest pair", "bridge"], 3)
    for answer in answers:
        scores = answer.scores
        shares = (scores.precision, scores.copies_recall, scores.recall, scores.f1)
        cells = [answer.fingerprint, answer.method, answer.limit, f"{scores.pairs:,}", f"{scores.false:,}"]
        cells += [*map(number, shares), f"{scores.largest:,}", number(scores.widest), str(scores.bridge)]
        print(f"| {' | '.join(cells)} |")


def table_of_edits(answers: Sequence[Answer]) -> None:
    """The share of copies that are found with their original."""
    print()
    heading(["", *(f"{answer.fingerprint}, {answer.method}" for answer in answers)], 1)
    for kind in collections.EDITS:
        shares = (number(answer.scores.copies.get(kind, math.nan)) for answer in answers)
        print(f"| {kind} | {' | '.join(shares)} |")


def heading(columns: Sequence[str], texts: int) -> None:
    """The first two lines of a table. The first ``texts`` columns are texts, the others numbers."""
    print(f"| {' | '.join(columns)} |")
    print(f"|{' :-- |' * texts}{' --: |' * (len(columns) - texts)}")


def number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def false_pairs(folder: Path, to: Path, truth: Truth, answer: Answer) -> None:
    """Writes all, prints some."""
    images, vectors = Published(folder / "warehouse").vectors(answer.fingerprint)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    rows = [(1 - float(unit[a] @ unit[b]), images[a], images[b]) for a, b in answer.scores.false_pairs.tolist()]
    rows.sort()
    with open(to, "w", newline="") as file:
        csv.writer(file).writerows([("distance", "image", "other"), *rows])
    between = [row for row in rows if not any(image.startswith("copies/") for image in row[1:])]
    print(f"\n{answer.fingerprint}: {len(rows)} pairs counted as false, {len(between)} of them between originals\n")
    for distance, image, other in between[:LISTED]:
        print(f"- {distance:.3f} {image} {other}")


def chain(arguments: argparse.Namespace, folder: Path) -> None:
    collection = collections.chain(folder / "pictures")
    truth = Truth.of(collection)
    group(arguments, folder, collection)
    print(f"\n## A chain of {len(truth.images):,} pictures\n")
    columns = ["fingerprint", "limit", "next to each other", "first and last", "groups", "images in groups"]
    heading([*columns, "largest group", "widest pair"], 2)
    for fingerprint in arguments.fingerprints:
        answer = ours(folder, truth, fingerprint)[0]
        published = Published(folder / "warehouse")
        groups = published_groups(published, truth, fingerprint)
        _, vectors = published.vectors(fingerprint)
        unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        steps = 1 - (unit[1:] * unit[:-1]).sum(axis=1)
        cells = [fingerprint, answer.limit, f"{np.median(steps):.4f}", number(1 - float(unit[0] @ unit[-1]))]
        cells += [f"{len(np.unique(groups[groups >= 0])):,}", f"{int((groups >= 0).sum()):,}"]
        cells += [f"{answer.scores.largest:,}", number(answer.scores.widest)]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
