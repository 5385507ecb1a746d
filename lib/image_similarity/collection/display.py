"""Rows of small pictures with their titles and distances, as a notebook shows them.

Files are fetched, and decoded in child processes, when the notebook asks for the HTML. Pictures are part of it (data:
addresses), so that a saved notebook shows them wherever it is opened.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.collection import reading
from image_similarity.errors import Unreadable, WrongInput, counted, did_you_mean
from image_similarity.pages import captions, originals
from image_similarity.pages.originals import Original, Originals
from image_similarity.settings.sections import EmbeddingsSettings, GallerySettings, HttpSettings
from image_similarity.warehouse.snapshot import Snapshot

MOST = 200
"""Rows of a table that are shown at most. A picture takes about 30 KB of the notebook."""

_HEIGHT, _MOST_HEIGHT, _LEAST_WIDTH, _MOST_WIDTH = 120, 240, 80, 240
"""Of a picture in the page, in pixels. A wide one is lower than `_HEIGHT`, and a narrow one higher."""
_PROCESSES = 2

_PARTS = ("change", "what", "fingerprint", "metric", "relation", "kind", "level")
"""Columns that divide a table into strips. One that has several values is told above each strip."""
_NOTES: Mapping[str, Callable[[Any], str]] = {
    "distance": "{:,.4f}".format,
    "distance_to_representative": "{:,.4f}".format,
    "size": lambda size: counted(size, "image"),
    "verdict": captions.of_verdict,
    "reason": lambda reason: originals.words(Unreadable(reason)),
}
"""Columns that are told below a picture."""


@dataclass(frozen=True)
class Image:
    """What the collection knows of an image."""

    original: Original
    attributes: Mapping[str, str] = field(default_factory=dict)


Images = Callable[[Sequence[str]], Mapping[str, Image]]
"""What is known of images, by their ids. Those that nothing is known of are left out."""


@dataclass(frozen=True)
class Picture:
    image_id: str
    title: str
    alt: str
    notes: tuple[str, ...]
    image: Image


@dataclass(frozen=True)
class Strip:
    """Pictures that belong together: an image with its neighbours, a group, or all of them."""

    label: str
    first: Picture | None
    """The image that the others are neighbours of."""
    others: list[Picture]


_UNKNOWN = Image(Original(None))


class Pictures:
    """Small pictures with titles and distances. A notebook shows them; elsewhere it is their list as text."""

    def __init__(self, strips: Sequence[Strip], rest: str):
        self._strips, self._rest = strips, rest
        self._html: str | None = None

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._all())

    def __repr__(self) -> str:
        lines, label = [], ""
        for number, strip in enumerate(self._strips):
            if strip.label != label:
                lines.append(f"{strip.label}:")
            elif number and strip.first is None:  # nothing else divides two groups
                lines.append("")
            lines += _as_text(strip)
            label = strip.label
        return "\n".join([*lines, *filter(None, [self._rest])])

    def _repr_html_(self) -> str:
        """Reads the files, the first time. One that cannot be read leaves an empty frame that says why."""
        if self._html is None:
            from jinja2 import Environment, PackageLoader  # pages need it, programs without them do not

            environment = Environment(
                loader=PackageLoader("image_similarity.collection"), autoescape=True, trim_blocks=True
            )
            page = environment.get_template("pictures.html")
            thumbnails = _thumbnails(self._all())
            self._html = page.render(
                strips=self._strips, rest=self._rest, thumbnail_of=lambda picture: thumbnails[picture.image.original]
            )
        return self._html

    def _all(self) -> list[Picture]:
        return [picture for strip in self._strips for picture in (strip.first, *strip.others) if picture is not None]


def pictures(rows: Any, images: Images, limit: int, notes: str | Sequence[str] | None = None) -> Pictures:
    """The pictures of the first ``limit`` of ``rows``, with titles, distances and verdicts below them.

    ``rows``: a table (Arrow, pandas, or a DuckDB relation) with ``image_id`` or ``representative_id``. With
    ``neighbour_id`` or ``query_id`` besides, each image begins a strip of what was found for it; with ``group_id`` each
    group is a strip. Or an image_id, the ``Path`` of a file, or several of them. An image that ``images`` does not know
    gets an empty frame. ``notes``: the columns that are told below pictures in the place of distances and verdicts.
    Raises ``WrongInput`` for other rows or columns, and for a limit that is not between 1 and `MOST`.
    """
    if not hasattr(limit, "__index__") or not 1 <= limit <= MOST:
        raise WrongInput(
            f"limit={limit!r}: should be a whole number between 1 and {MOST}; filter the table to choose what is shown"
        )
    table, files = _table(rows)
    first, other = _sides(table.schema.names)
    writers = _writers(notes, table.schema.names)
    labelled = [name for name in _PARTS if name in table.schema.names and _several(table, name)]
    few = table.slice(0, limit).to_pylist()
    known = {**images(sorted({row[side] for row in few for side in (first, other) if side and row[side]})), **files}
    strips: dict[tuple[Any, ...], Strip] = {}
    for row in few:
        group = row.get("group_id") if other == "image_id" else None
        key = (row.get(first), group, *(row[name] for name in labelled))
        if key not in strips:
            label = ", ".join(_said(name, row[name]) for name in labelled)
            strips[key] = Strip(label, _head(row, first, known) if first else None, [])
        strips[key].others.append(_picture(row[other], row, known, writers))
    return Pictures(list(strips.values()), _rest(table.num_rows, limit))


def of_snapshot(snapshot: Snapshot, fingerprint: str | None = None) -> Images:
    """Looks images up in the published manifest, without reading all of its rows into memory.

    ``fingerprint``: the one whose originals are shown; None: those of all.
    """

    def images(ids: Sequence[str]) -> Mapping[str, Image]:
        with reading.named_errors(snapshot):
            return _looked_up(snapshot, fingerprint, pc.field("image_id").isin(pa.array(ids, pa.string())))

    return images


def _looked_up(snapshot: Snapshot, fingerprint: str | None, wanted: pc.Expression) -> Mapping[str, Image]:
    columns = ["image_id", "content_sha256"]
    embedded = snapshot.dataset("embeddings", fingerprint).to_table(columns=columns, filter=wanted)
    contents: dict[str, set[str]] = defaultdict(set)
    for image_id, content in zip(*(column.to_pylist() for column in embedded.columns)):
        contents[image_id].add(content)
    rows = snapshot.dataset("manifest").to_table(columns=["image_id", "uri", "attributes"], filter=wanted).to_pylist()
    place = {row["image_id"]: Original(row["uri"], frozenset(contents[row["image_id"]])) for row in rows}
    return {row["image_id"]: Image(place[row["image_id"]], dict(row["attributes"] or ())) for row in rows}


# -- tables ------------------------------------------------------------------------------------------------------------


def _table(rows: Any) -> tuple[pa.Table, dict[str, Image]]:
    """``rows`` as a table, and the files among them."""
    if isinstance(rows, str | Path):
        rows = [rows]
    try:
        if hasattr(rows, "columns"):
            return pa.table(rows), {}
    except (TypeError, ValueError) as error:  # pyarrow's are among them
        raise WrongInput(f"show: this is no table: {error}") from None
    try:
        if isinstance(rows, pa.Array | pa.ChunkedArray):
            rows = rows.to_pylist()
        ids = [str(row) if isinstance(row, Path) else row for row in rows]
        files = {str(row): Image(Original(str(row.absolute()))) for row in rows if isinstance(row, Path)}
        return pa.table({"image_id": pa.array(ids, pa.string())}), files
    except (TypeError, ValueError):
        kind = f"list of {type(rows[0]).__name__}" if isinstance(rows, list) and rows else type(rows).__name__
        raise WrongInput(f"show: give it a table, an image_id, a Path, or a list of these, not {kind}") from None


def _sides(columns: Sequence[str]) -> tuple[str | None, str]:
    """The column whose images begin a strip, if any, and that of the others."""
    for first, other in (("image_id", "neighbour_id"), ("query_id", "image_id"), (None, "image_id")):
        if other in columns and (first is None or first in columns):
            return first, other
    if "representative_id" in columns:
        return None, "representative_id"
    raise WrongInput(
        f"show: the table has no column image_id, neighbour_id or representative_id ({', '.join(columns) or 'none'})"
    )


def _rest(rows: int, limit: int) -> str:
    if not rows:
        return "no rows"
    return f"the first {limit:,} of {counted(rows, 'row')}: show(rows, limit=N) shows more" if rows > limit else ""


def _several(table: pa.Table, name: str) -> bool:
    return len(table[name].unique()) > 1


def _said(name: str, value: Any) -> str:
    return captions.clean(f"{name} {value}" if name == "level" else str(value))


def _writers(notes: str | Sequence[str] | None, columns: Sequence[str]) -> Mapping[str, Callable[[Any], str]]:
    """What writes the values of columns below pictures, by their names."""
    if notes is None:
        return _NOTES
    names = [notes] if isinstance(notes, str) else list(notes)
    for name in names:
        if name not in columns:
            raise WrongInput(f"notes: the table has no column {name!r}{did_you_mean(name, columns)}")
    return {name: partial(_note, name) for name in names}


def _note(name: str, value: Any) -> str:
    return f"{name} {value:,.4f}" if isinstance(value, float) else f"{name} {value}"


def _head(row: Mapping[str, Any], first: str, known: Mapping[str, Image]) -> Picture:
    """The picture that begins a strip: an image of the collection, or a query from outside."""
    name = row[first]
    if first == "query_id":
        known = {name: Image(Original(row.get("query_uri")))}
    return _picture(name, {}, known, {})


def _picture(
    image_id: Any, row: Mapping[str, Any], known: Mapping[str, Image], writers: Mapping[str, Callable[[Any], str]]
) -> Picture:
    image = known.get(image_id, _UNKNOWN)
    gallery = GallerySettings()
    text = captions.of_image(str(image_id), image.attributes, gallery.title_attributes, gallery.subtitle_attributes)
    values = {name: row.get(name) for name in writers}
    if row.get("representative"):
        values.pop("distance_to_representative", None)  # to itself
    texts = (captions.clean(writers[name](value)) for name, value in values.items() if value is not None)
    return Picture(str(image_id), captions.short(text.title), text.alt, tuple(filter(None, texts)), image)


def _as_text(strip: Strip) -> list[str]:
    indent = "  " if strip.first or strip.label else ""
    lines = [_line(strip.first)] if strip.first else []
    return lines + [indent + _line(picture) for picture in strip.others]


def _line(picture: Picture) -> str:
    unknown = [f"({originals.REASONS[originals.UNKNOWN]})"] if picture.image.original.uri is None else []
    return "  ".join([picture.title, *picture.notes, *unknown])


# -- pictures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Thumbnail:
    width: int = _HEIGHT
    """In pixels of the page."""
    height: int = _HEIGHT
    address: str = ""
    """A data: address; empty where there is no picture."""
    problem: str = ""


def _thumbnails(wanted: Sequence[Picture]) -> dict[Original, _Thumbnail]:
    """The thumbnails of ``wanted``. Each file is read once, a few at a time."""
    distinct = list(dict.fromkeys(picture.image.original for picture in wanted))
    with Originals(_PROCESSES, EmbeddingsSettings(), HttpSettings()) as opened:
        return dict(zip(distinct, opened.each(partial(_thumbnail, opened), distinct)))


def _thumbnail(opened: Originals, original: Original) -> _Thumbnail:
    try:
        thumbnails = opened.of(original)
    except Unreadable as error:
        return _Thumbnail(problem=originals.words(error))
    width = min(max(round(_HEIGHT * thumbnails.width / thumbnails.height), _LEAST_WIDTH), _MOST_WIDTH)
    height = min(max(round(width * thumbnails.height / thumbnails.width), 1), _MOST_HEIGHT)
    return _Thumbnail(width, height, originals.data_address(thumbnails))
