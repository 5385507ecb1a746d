"""Pages that compare two images: the one that a group of near-duplicates keeps, and another of its members.

    rows = compare.rows(groups)                     # by Spark; in this process: compare.pairs(group), for each group
    filled = pages.fill(rows, "compare.html", book, compare.context(book))
    compare.write_list(rows, site, rendering)       # which difference pictures this rendering shows
    compare.remove_unused(spark, site, kept, warehouse)

`context` makes the difference picture of a pair, unless it is there: ``differences/<ab>/<name>-difference.webp``, named
by the two pictures, and beside it what was measured, as JSON.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import counted
from image_similarity.imaging import thumbnails
from image_similarity.imaging.differences import Differences, Sides, compared
from image_similarity.pages import paths
from image_similarity.pages.site import Site
from image_similarity.runtime import shelves
from image_similarity.stages.gallery import members
from image_similarity.stages.gallery.members import NO_BREAK
from image_similarity.storage import blobs, uris
from image_similarity.warehouse import parquet
from image_similarity.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from image_similarity.stages.gallery.pages import Book

FOLDER = "compare"
"""The folder of these pages. Its shelves are those of ``images``: two digits."""

DIFFERENCES = "differences"
"""The folder of difference pictures."""
LIST = "_differences"
"""A folder below each rendering: the names of the difference pictures that it shows."""
_LIST = pa.schema([("picture", pa.string())])

TOLD_BRIGHTNESS = 12
"""Differences of mean luminance, of 255, below which nothing is said: they are hard to see."""

_QUALITY = 60
_RECIPE = f"difference-2-{_QUALITY}"
"""Its number changes if anything else would be measured, or drawn."""

MEMBER = pa.struct(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("page", pa.string()),
        ("title", pa.string()),
        ("subtitle", pa.string()),
        ("alt", pa.string()),
        ("picture", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("pixel_width", pa.int32()),
        ("pixel_height", pa.int32()),
        ("size_bytes", pa.int64()),
        ("format", pa.string()),
        ("distance", pa.float32()),
    ]
)
"""An image of a group: `cards.CARD`; the size of its file's picture, its bytes and its format (null: unknown); its
distance to the kept one (null for this one).
"""
GROUP = pa.schema(
    [
        ("group_id", pa.string()),
        ("kind", pa.string()),
        ("path", pa.string()),
        ("members", pa.list_(MEMBER)),
    ]
)
"""A group as it is shown: its name, its kind, the address of its page, and its members, the kept one first."""
PAIR = pa.schema(
    [
        ("path", pa.string()),
        ("group_id", pa.string()),
        ("kind", pa.string()),
        ("group_path", pa.string()),
        ("kept", MEMBER),
        ("other", MEMBER),
        ("number", pa.int32()),
        ("last", pa.int32()),
        ("previous", pa.string()),
        ("next", pa.string()),
    ]
)
"""The row of a page: its address, its group, the two images, its place among the pages of the group (from 1), and the
addresses of the pages before and after it."""


def compare_path(kept_page: str, other_page: str) -> str:
    """The address of the page that compares two images, from the names of their pages. Their order does not matter."""
    name = hashlib.sha256("\n".join(sorted((kept_page, other_page))).encode()).hexdigest()[:32]
    return f"{FOLDER}/{name[:2]}/{name}.html"


def has_page(kept: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether there is a page for these members: both have a picture, and not the same one (copies of a file do)."""
    return kept["width"] is not None and other["width"] is not None and kept["picture"] != other["picture"]


def pairs(group: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows (`PAIR`) of the pages of ``group`` (`GROUP`): the kept one with each other that `has_page`."""
    kept = group["members"][0]
    others = [member for member in group["members"][1:] if has_page(kept, member)]
    paths = [compare_path(kept["page"], other["page"]) for other in others]
    for place, (path, other) in enumerate(zip(paths, others)):
        yield {
            "path": path,
            "group_id": group["group_id"],
            "kind": group["kind"],
            "group_path": group["path"],
            "kept": kept,
            "other": other,
            "number": place + 1,
            "last": len(others),
            "previous": paths[place - 1] if place else None,
            "next": paths[place + 1] if place + 1 < len(others) else None,
        }


def rows(groups: DataFrame) -> DataFrame:
    """As `pairs`, of all ``groups`` (`GROUP`), by Spark."""

    def paired(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for group in batch.to_pylist():
                yield pa.RecordBatch.from_pylist(list(pairs(group)), schema=PAIR)

    return groups.mapInArrow(paired, from_arrow_schema(PAIR))


# -- which difference pictures are shown -------------------------------------------------------------------------------


def write_list(rows: DataFrame, site: Site, rendering: str) -> None:
    """Writes which difference pictures ``rendering`` shows, into its folder. ``rows``: `PAIR`."""

    def named(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _list([difference_name(row["kept"], row["other"]) for row in batch.to_pylist()])

    listed = rows.select("kept", "other").mapInArrow(named, from_arrow_schema(_LIST))
    parquet.write_folder(f"{uris.for_spark(site.uri)}/{rendering}/{LIST}", listed)


def write_list_here(pairs: Iterable[Mapping[str, Any]], site: Site, rendering: str) -> None:
    """As `write_list`, by this process."""
    names = [difference_name(row["kept"], row["other"]) for row in pairs]
    parquet.write_file(f"{site.uri}/{rendering}/{LIST}/part-00000.parquet", _LIST, [_list(names)])


def _list(names: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"picture": names}, schema=_LIST)


def remove_unused(spark: SparkSession, site: Site, kept: list[str], warehouse: Warehouse) -> int:
    """Removes the difference pictures that no rendering in ``kept`` shows; the first of these is this one.

    Returns their number. A damaged list of an earlier rendering lists nothing: its pictures are made again.
    """
    if not blobs.exists(f"{site.uri}/{DIFFERENCES}"):
        return 0
    own, *earlier = ([uris.for_spark(folder) for folder in _lists(site, [rendering])] for rendering in kept)
    shown = warehouse.read_folders(own, from_arrow_schema(_LIST))
    if folders := [parquet.escape_glob(folder) for of in earlier for folder in of]:
        reader = spark.read.schema(from_arrow_schema(_LIST)).option("ignoreCorruptFiles", "true")
        shown = shown.unionByName(reader.parquet(*folders))
    return shelves.remove_others(spark, f"{site.uri}/{DIFFERENCES}", shown)


def remove_unused_here(site: Site, kept: list[str]) -> int:
    """As `remove_unused`, by this process."""
    if not blobs.exists(f"{site.uri}/{DIFFERENCES}"):
        return 0
    own, *earlier = kept
    shown = [name for file in _files(site, own) for name in _names(file)]
    for rendering in earlier:
        for file in _files(site, rendering):
            try:
                shown += _names(file)
            except (OSError, pa.ArrowException, KeyError):
                pass  # damaged: what it listed is made again when it is needed
    return shelves.remove_others_here(f"{site.uri}/{DIFFERENCES}", shown)


def _lists(site: Site, renderings: list[str]) -> list[str]:
    folders = [f"{site.uri}/{rendering}/{LIST}" for rendering in renderings]
    return [folder for folder in folders if blobs.exists(folder)]


def _files(site: Site, rendering: str) -> list[str]:
    listed = (file.uri for folder in _lists(site, [rendering]) for file in blobs.list_files(folder))
    return [uri for uri in listed if uri.endswith(".parquet")]


def _names(file: str) -> list[str]:
    with blobs.open_input_file(file) as opened:
        names: list[str] = pq.read_table(opened)["picture"].to_pylist()
    return names


# -- in the workers ----------------------------------------------------------------------------------------------------


def context(book: "Book") -> Callable[[dict[str, Any]], dict[str, Any]]:
    """In a worker: a function from a row of `PAIR` to the variables of compare.html. It makes missing pictures."""

    def of_row(row: dict[str, Any]) -> dict[str, Any]:
        kept, other = row["kept"], row["other"]
        shown = _shown(book.gallery, kept, other)
        found = shown.found if shown else None
        return {
            **row,
            "sentences": sentences(kept, other, found),
            "difference": shown and {"path": shown.path, "width": shown.width, "height": shown.height},
            "found": found,
            "alignment": alignment_of(found),
            "frame": _frame(kept, other, found),
            "matrix": " ".join(f"{value:.5g}" for value in _matrix(kept, other, found)),
        }

    return of_row


@dataclass(frozen=True)
class _Shown:
    """A difference picture that is there."""

    path: str
    width: int
    height: int
    found: Differences


def difference_name(kept: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The name of a difference picture: a hash of the two pictures, and of how it is made."""
    return hashlib.sha256("\n".join((_RECIPE, kept["picture"], other["picture"])).encode()).hexdigest()[:32]


def difference_path(name: str) -> str:
    """The path of a difference picture below the gallery."""
    return f"{DIFFERENCES}/{name[:2]}/{name}-difference.webp"


def _shown(gallery: str, kept: Mapping[str, Any], other: Mapping[str, Any]) -> _Shown | None:
    """The difference picture of two members; made, if it is not there. None if their pictures cannot be read."""
    name = difference_name(kept, other)
    if known := _known(gallery, name):
        return known
    try:
        first, second = _opened(f"{gallery}/{_largest(kept)}"), _opened(f"{gallery}/{_largest(other)}")
    except (OSError, ValueError):
        return None  # a file of the gallery was removed or damaged meanwhile: the next rendering makes it again
    found, picture = compared(first, second)
    out, path = io.BytesIO(), difference_path(name)
    picture.save(out, "WEBP", quality=_QUALITY, method=0)
    blobs.write(f"{gallery}/{path}", out.getvalue(), "image/webp")
    shown = _Shown(path, *picture.size, found)
    about = {"bytes": len(out.getvalue()), "width": shown.width, "height": shown.height, "found": asdict(found)}
    blobs.write(f"{gallery}/{_about(path)}", json.dumps(about).encode(), "application/json")
    return shown


def _known(gallery: str, name: str) -> _Shown | None:
    """The difference picture that is there, and whole; None if it is to be made."""
    path = difference_path(name)
    try:
        about = json.loads(blobs.read(f"{gallery}/{_about(path)}"))
        status = blobs.status(f"{gallery}/{path}")
        found = about["found"]
        found |= {side: Sides(**found[side]) for side in ("cut", "added")}
        found |= {pair: tuple(found[pair]) for pair in ("grey", "matrix")}
        is_whole = status is not None and status.size_bytes == about["bytes"]
        return _Shown(path, about["width"], about["height"], Differences(**found)) if is_whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _about(path: str) -> str:
    return f"{path.removesuffix('.webp')}.json"


def _largest(member: Mapping[str, Any]) -> str:
    """The path of the larger file of a member's picture."""
    is_large = thumbnails.has_large(member["width"], member["height"])
    return paths.picture_path(member["picture"], "large" if is_large else "small")


@lru_cache(maxsize=2)
def _opened(uri: str) -> Image.Image:
    """The last ones are remembered: a group's pairs have the kept one in common."""
    with Image.open(io.BytesIO(blobs.read(uri)), formats=("WEBP",)) as picture:
        return picture.convert("RGB")


def _matrix(kept: Mapping[str, Any], other: Mapping[str, Any], found: Differences | None) -> tuple[float, ...]:
    """Puts the other picture over the kept one, as SVG's matrix."""
    if found:
        return found.matrix
    return kept["width"] / other["width"], 0.0, 0.0, kept["height"] / other["height"], 0.0, 0.0


def _frame(kept: Mapping[str, Any], other: Mapping[str, Any], found: Differences | None) -> tuple[int, int, int, int]:
    """x, y, width and height of what both pictures cover, in pixels of the kept one."""
    a, b, c, d, e, f = _matrix(kept, other, found)
    corners = [(x, y) for x in (0, other["width"]) for y in (0, other["height"])]
    across = [0, kept["width"], *(a * x + c * y + e for x, y in corners)]
    down = [0, kept["height"], *(b * x + d * y + f for x, y in corners)]
    left, top = round(min(across)), round(min(down))
    return left, top, max(1, round(max(across)) - left), max(1, round(max(down)) - top)


# -- words -------------------------------------------------------------------------------------------------------------


def sentences(kept: Mapping[str, Any], other: Mapping[str, Any], found: Differences | None) -> list[str]:
    """What differs between the kept image and another, in sentences; each is measured, and said only where it is sure.

    ``found``: how the other differs from the kept one; None if the pictures could not be read.
    """
    told = [*_of_files(kept, other)]
    if found is None:
        return [*told, "The pictures could not be read, so nothing is said of what differs in them."]
    if not found.is_edit:
        told += _of_grey(found)
        return [*told, "They may be two pictures of one thing: it is not sure that one is an edit of the other."]
    if found.is_whole and not found.is_recompressed:
        told.append("Neither is cropped.")
    told += [*_of_place(found), *_of_tones(found), *_of_grey(found)]
    if found.sharpness != 1:
        told.append(f"The other one is {'sharper' if found.sharpness > 1 else 'less sharp'}.")
    if found.place:
        told.append(f"They differ in one place only: {found.place}.")
    if found.is_recompressed:
        told.append(
            "The other one is only " + ("saved anew" if _same_size(kept, other) else "resized") + ": the pictures here "
            f"differ by {_of_255(found.mean)} on average, and by {found.largest} of 255 at most."
        )
    return told


def _of_files(kept: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    sizes = [(member["pixel_width"], member["pixel_height"]) for member in (kept, other)]
    if all(width and height for width, height in sizes):
        (one, other_one) = (width * height for width, height in sizes)
        shown = [f"{width:,} × {height:,}" for width, height in sizes]
        if sizes[0] == sizes[1]:
            yield f"Both have {shown[0]} pixels."
        elif one == other_one:
            yield f"Both have as many pixels: {shown[0]} and {shown[1]}."
        else:
            larger, smaller = max(one, other_one), min(one, other_one)
            times = f", {larger / smaller:.1f} times as many" if larger >= 1.1 * smaller else ""
            first, second = shown if one > other_one else shown[::-1]
            yield f"{_ONE[one < other_one]} has more pixels: {first}, against {second}{times}."
    stored = [member["size_bytes"] for member in (kept, other)]
    if None not in stored:
        if stored[0] == stored[1]:
            yield f"Both files have {counted(stored[0], 'byte')}."
        else:
            first, second = sorted(stored, reverse=True)
            yield f"The file of {_ONE[stored[0] < stored[1]].lower()} is larger: {_against(first, second)}."
    formats = [member["format"] and members.format_name(member["format"]) for member in (kept, other)]
    if all(formats) and formats[0] != formats[1]:
        yield f"The kept one is {formats[0]}, the other one {formats[1]}."


def _against(larger: int, smaller: int) -> str:
    """Two numbers of bytes, in full where their short forms are equal."""
    one, other = members.file_size(larger), members.file_size(smaller)
    return f"{one} against {other}" if one != other else f"{larger:,} against {counted(smaller, 'byte')}"


def _of_place(found: Differences) -> Iterator[str]:
    """What became of the frame."""
    if found.mirrored:
        yield "The other one is mirrored" + (_TURNED[found.turned] if found.turned else "") + "."
    elif found.turned:
        yield f"The other one is{_TURNED[found.turned].removeprefix(' and')}."
    if found.angle:
        side = "right" if found.angle > 0 else "left"
        yield (
            f"The other one is turned to the {side} by about {abs(found.angle):.0f}°."
            if abs(found.angle) >= 1
            else (f"The other one is turned to the {side} by less than a degree.")
        )
    if found.stretched != 1:
        percent = round(abs(found.stretched - 1) * 100)
        wider = "wider" if found.stretched > 1 else "narrower"
        yield f"The other one is stretched: for its height it is about {percent}{NO_BREAK}% {wider}."
    for sides, is_plain, whole, part in (
        (found.cut, found.cut_is_plain, "kept one", "other one"),
        (found.added, found.added_is_plain, "other one", "kept one"),
    ):
        if sides.named:
            where, percent = _listed(sides.named), max(1, round(sides.area * 100))
            if is_plain:
                yield f"The {whole} has a border, or plain ground, {where}: {percent}{NO_BREAK}% of it."
            else:
                yield f"The {part} is a part of the {whole}: about {percent}{NO_BREAK}% of it is cut off, {where}."


def _of_tones(found: Differences) -> Iterator[str]:
    if abs(found.brightness) >= TOLD_BRIGHTNESS:
        word = "brighter" if found.brightness > 0 else "darker"
        yield f"The other one is {word}: by {_of_255(abs(found.brightness))} on average."
    if found.contrast != 1:
        yield f"The other one has {'more' if found.contrast > 1 else 'less'} contrast."
    if found.colour != 1:
        yield f"The colours of the other one are {'stronger' if found.colour > 1 else 'weaker'}."


def _of_grey(found: Differences) -> Iterator[str]:
    if any(found.grey):
        grey, coloured = ("kept one", "other one") if found.grey[0] else ("other one", "kept one")
        yield f"The {grey} is grey, the {coloured} has colours."


def alignment_of(found: Differences | None) -> str:
    """How the two were put over one another for the difference picture, beside being resized; may be empty."""
    if found is None or not found.is_edit:
        return "The other one was only stretched over the kept one: what lies over another need not be the same place."
    moved = ["mirrored"] * found.mirrored + ["turned"] * bool(found.turned or found.angle)
    moved += ["shifted"] * bool(found.cut.named or found.added.named) + ["stretched"] * (found.stretched != 1)
    return f"For it, the other one was {_and(moved)}, so that both show one place." if moved else ""


def _same_size(kept: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(kept[side] == other[side] for side in ("pixel_width", "pixel_height"))


def _of_255(value: float) -> str:
    return f"{value:.0f} of 255" if value >= 9.5 else f"{value:.1f} of 255"


def _listed(sides: list[str]) -> str:
    if len(sides) == 4:
        return "on all sides"
    return "at the " + _and(sides)


def _and(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


_ONE = {False: "The kept one", True: "The other one"}
_TURNED = {
    1: " and turned to the right by 90°",
    2: " and turned upside down",
    3: " and turned to the left by 90°",
}
