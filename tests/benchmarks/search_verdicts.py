"""What search_images says of pictures from outside: of edited copies of a collection's pictures, of other photographs
of its objects, and of strangers.

    .venv/bin/python tests/benchmarks/search_verdicts.py [--data FOLDER] [--folder FOLDER]
    [--fingerprints squeezenet efficientnet-lite0 colour-histogram]

The collection: half of 1,460 paintings, those that have copies among them, and one photograph of each of 50 objects.
The queries: edited copies of its pictures (`group_collections`, with other edits than those by which the library
chooses its limit); three more photographs of each object; and the other paintings, none of which is in the collection.

The pictures are in --data (default: $IMAGE_SIMILARITY_TEST_DATA). Prints Markdown.
"""

import argparse
import csv
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import group_collections as collections
from benchmarks.group_collections import BRIDGE, Collection
from benchmarks.groups import DECLARED, FINGERPRINTS, heading
from benchmarks.measuring import command
from benchmarks.published import Published

KINDS = COPIES, VIEWS, STRANGERS = "copies", "views", "strangers"
"""Of queries."""
VERDICTS = ("yes", "near", "no")
SHARE = 0.4
"""Of copies in all images of `group_collections.edited`."""


def main() -> None:
    parser = argparse.ArgumentParser(description="What searches say of copies and of strangers.")
    data = os.environ.get("IMAGE_SIMILARITY_TEST_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--fingerprints", nargs="+", choices=FINGERPRINTS, default=FINGERPRINTS)
    parser.add_argument("--folder", type=Path, help="where pictures and tables stay")
    arguments = parser.parse_args()
    if not (arguments.data / "images/wikiart").is_dir():
        raise SystemExit(f"no pictures at {arguments.data}")
    with tempfile.TemporaryDirectory(prefix="search-") as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        pictures = collections.edited(arguments.data.resolve(), folder / "pictures", SHARE)
        (folder / "fingerprints.toml").write_text(DECLARED.format(weights=arguments.data.resolve() / "weights"))
        sides = divided(pictures, arguments.data.resolve())
        for name, files in sides.items():
            with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([("image_id", "uri"), *sorted(files.items())])
        print(f"{len(sides['collection']):,} images; queries: ", end="")
        print(", ".join(f"{len(sides[name]):,} {name}" for name in KINDS), end="\n\n")
        measured(folder, pictures, arguments.fingerprints)


def divided(pictures: Collection, data: Path) -> dict[str, dict[str, Path]]:
    """The files of the collection, and of each kind of queries, by their names."""
    originals = {original for _, original in pictures.edits.values()}
    plain = [image for image in pictures.images if image not in pictures.edits and not image.startswith(BRIDGE)]
    inside = {image for number, image in enumerate(plain) if image in originals or number % 2 == 0}
    inside |= {image for image in plain if image.startswith("photographs/")}
    there = {pictures.truth[image] for image in inside}
    outside = [image for image in plain if image not in inside and pictures.truth[image] not in there]
    views = [file for number, file in enumerate(sorted((data / "images/ukbench").glob("*.jpg"))) if number % 4]
    return {
        "collection": {image: pictures.folder / image for image in inside},
        COPIES: {image: pictures.folder / image for image in pictures.edits},
        VIEWS: {file.name: file for file in views},
        STRANGERS: {image: pictures.folder / image for image in outside},
    }


def measured(folder: Path, pictures: Collection, fingerprints: Sequence[str]) -> None:
    job(folder, "build_manifest", "--images", str(folder / "collection.csv"))
    job(folder, "embed_images", *(text for name in fingerprints for text in ("--fingerprint", name)))
    answers: dict[str, dict[str, dict[str, str]]] = {}
    for fingerprint in fingerprints:
        job(folder, "find_neighbours", "--fingerprint", fingerprint, "--dissimilar", "0")
        job(folder, "group_images", "--fingerprint", fingerprint)
        for kind in KINDS:
            job(folder, "search_images", "--fingerprint", fingerprint, "--images", str(folder / f"{kind}.csv"))
        answers[fingerprint] = {
            kind: verdicts(folder, pictures, fingerprint, kind) for kind in (COPIES, VIEWS, STRANGERS)
        }
    heading(["fingerprint", "queries", *VERDICTS, "yes to another picture"], 2)
    for fingerprint, by_kind in answers.items():
        for kind, of_queries in by_kind.items():
            counts = Counter(of_queries.values())
            cells = [fingerprint, kind, *(f"{counts[verdict]:,}" for verdict in VERDICTS), f"{counts['wrong']:,}"]
            print(f"| {' | '.join(cells)} |")
    print()
    by_edit(pictures, {name: by_kind[COPIES] for name, by_kind in answers.items()})


def job(folder: Path, name: str, *options: str) -> None:
    configured = [] if name == "build_manifest" else ["--config", str(folder / "fingerprints.toml")]
    done = command(name, "--warehouse", str(folder / "warehouse"), *configured, *options)
    print(f"{name} {' '.join(options)}: {done.seconds:.1f} s", file=sys.stderr, flush=True)


def verdicts(folder: Path, pictures: Collection, fingerprint: str, kind: str) -> dict[str, str]:
    """The best verdict on each query; ``wrong`` where yes is said, and to no picture that shows the same."""
    rows = Published(folder / "warehouse").columns(
        "SELECT query_id, image_id, verdict FROM matches WHERE fingerprint = ? AND queries = ?",
        fingerprint,
        kind,
    )
    said: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for query, image, verdict in zip(rows["query_id"], rows["image_id"], rows["verdict"]):
        said[query][verdict].append(image)
    return {query: _best(query, by_verdict, pictures) for query, by_verdict in said.items()}


def _best(query: str, by_verdict: Mapping[str, Iterable[str]], pictures: Collection) -> str:
    best = next(verdict for verdict in VERDICTS if verdict in by_verdict)
    shows = pictures.truth.get(query)
    if best == "yes" and shows is not None and not any(pictures.truth[image] == shows for image in by_verdict["yes"]):
        return "wrong"
    return best


def by_edit(pictures: Collection, answers: Mapping[str, Mapping[str, str]]) -> None:
    """The share of copies that are said to be there, by the kind of edit."""
    heading(["copies that are said to be there", *answers], 1)
    for edit in collections.EDITS:
        copies = [copy for copy, (kind, _) in pictures.edits.items() if kind == edit]
        found = (sum(said.get(copy) == "yes" for copy in copies) / max(1, len(copies)) for said in answers.values())
        print(f"| {edit} | {' | '.join(f'{share:.3f}' for share in found)} |")


if __name__ == "__main__":
    main()
