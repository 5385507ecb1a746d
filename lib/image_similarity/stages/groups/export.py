"""Lists to clean a collection by: which images to keep, and which to remove. Nothing is ever removed here.

``keep.csv`` has every image of the collection that stays. ``remove.csv`` has the others, each with the image that is
kept instead of it. ``groups.parquet`` has the groups of both. A marker, ``export.json``, says that the folder is an
export, and which bytes were written: what somebody has changed since is never replaced.
"""

import hashlib
import json
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from image_similarity.errors import JobFailed, WrongInput, counted, listed
from image_similarity.pages import site
from image_similarity.stages.groups import attributes, keep
from image_similarity.stages.groups.attributes import Columns
from image_similarity.stages.groups.facts import facts, in_blocks
from image_similarity.stages.groups.ordering import Ordered
from image_similarity.storage import blobs, disk_space, uris
from image_similarity.storage.files import Files
from image_similarity.storage.filesystems import OBJECT_STORES, files_of
from image_similarity.warehouse.snapshot import POINTER, Snapshot

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

KEEP_CSV, REMOVE_CSV, GROUPS_PARQUET, MARKER = "keep.csv", "remove.csv", "groups.parquet", "export.json"
KEEP, REMOVE = "keep", "remove"
"""The values of ``action`` in ``groups.parquet``."""

ROWS_AT_ONCE = 1 << 18
"""Rows of images with their attributes that are in memory together."""
SAMPLED = 64
"""Of so many names one is looked at to divide the collection into ranges."""

_ATTRIBUTES = pa.map_(pa.string(), pa.string())
_KEPT = pa.schema(
    [("image_id", pa.string()), ("uri", pa.string()), ("group_id", pa.string()), ("group_size", pa.int32())]
)
_REMOVED = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("kept_id", pa.string()),
        ("kept_uri", pa.string()),
        ("distance", pa.float32()),
        ("kind", pa.string()),
        ("group_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("size_bytes", pa.int64()),
        ("kept_width", pa.int32()),
        ("kept_height", pa.int32()),
        ("kept_size_bytes", pa.int64()),
    ]
)
_GROUPS = pa.schema(
    [
        ("action", pa.string()),
        *_REMOVED,
        ("group_size", pa.int32()),
        ("position", pa.int32()),
        ("attributes", _ATTRIBUTES),
    ]
)
_TAKEN = {*_KEPT.names, *_REMOVED.names}


@dataclass(frozen=True)
class Written:
    """What was written."""

    folder: str
    kept: int
    """Images in keep.csv."""
    removed: int
    """Images in remove.csv."""
    removed_bytes: int
    """Of their files, as far as the manifest knows."""
    groups: int
    """Groups that have an image in remove.csv."""
    left_out: int
    """Images that would be in remove.csv, if they and the kept one were still as they were when they were embedded."""
    formulas: int
    """Cells that a spreadsheet would take for formulas."""

    def lines(self) -> list[str]:
        """What people want to know of it; a line each."""
        lines = [
            f"export: {counted(self.removed, 'image')} can be removed ({disk_space.shown(self.removed_bytes)}), "
            f"{counted(self.kept, 'stays', 'stay')}: {self.folder}"
        ]
        if self.left_out:
            they, are, were = ("it", "is", "was") if self.left_out == 1 else ("they", "are", "were")
            lines.append(
                f"{counted(self.left_out, 'image')} in groups {are} not in {REMOVE_CSV}, because {they}, or the kept "
                f"one, {are} gone or changed since {they} {were} embedded: run embed_images and find_neighbours"
            )
        if self.formulas:
            lines.append(
                f"{counted(self.formulas, 'cell begins', 'cells begin')} with = + - or @: in a spreadsheet, import the "
                'files as text ("In a spreadsheet" in docs/cleaning.md)'
            )
        return lines


# -- the folder --------------------------------------------------------------------------------------------------------


def check_folder(folder: str, warehouse: str, images: str = "", spark: "SparkSession | None" = None) -> None:
    """Raises ``WrongInput`` if no export can be written to ``folder``, a path or URI. Nothing is written.

    It must be new or empty, or hold an earlier export that nobody has changed. It may be in no warehouse, gallery or
    report, and not in the folder of the ``images`` (as build_manifest takes them; empty if not known). Places that
    need ``spark`` are not looked at without.
    """
    if not uris.is_local(folder) and uris.scheme_of(folder) not in OBJECT_STORES and spark is None:
        return
    _Folder.open(folder, spark).check_place(images, warehouse)


@dataclass(frozen=True)
class _Folder:
    """The folder of an export, with the digests of the files that an earlier one may have left there."""

    uri: str
    files: Files
    digests: dict[str, list[str]]
    """name of a file -> its possible digests: two while a file is replaced. Empty for a new folder."""

    @classmethod
    def open(cls, folder: str, spark: "SparkSession | None") -> "_Folder":
        """Raises ``WrongInput`` if the folder has content that no export wrote, or that was changed since."""
        try:
            uri = uris.absolute(folder) if uris.is_local(folder) else uris.for_spark(folder.rstrip("/"))
            files = files_of(uri, spark)
            names = sorted(name for name in files.entries(uri) if not name.startswith("."))
            opened = cls(uri, files, _digests(files.read(f"{uri}/{MARKER}")) if MARKER in names else {})
            foreign = [name for name in names if name not in opened.digests and not _LEFT_OVER.fullmatch(name)]
            changed = [name for name in names if name in opened.digests and not opened._is_as_written(name)]
        except NotADirectoryError:
            raise WrongInput(f"--export {folder}: is a file; name a folder") from None
        except (OSError, ValueError) as error:
            raise WrongInput(f"--export {folder}: {error}") from None
        if foreign:
            raise WrongInput(
                f"--export {folder}: the folder has other content ({listed(map(repr, foreign))}); "
                "name a new or an empty folder, or that of an earlier export"
            )
        if changed:
            raise WrongInput(
                f"--export {folder}: {listed(changed)} was changed since it was exported; move it to another place, or "
                "name another folder"
            )
        return opened

    def _is_as_written(self, name: str) -> bool:
        return name == MARKER or _digest(f"{self.uri}/{name}") in self.digests[name]

    def check_place(self, images: str, warehouse: str) -> None:
        """Raises ``WrongInput`` if the folder is in one that jobs write to or list."""
        site.Site("export", self.uri, self.files).check_place(images, warehouse)
        above = uris.parent(self.uri)
        while above and not above.endswith("/"):
            with suppress(OSError):  # a folder that may not be read is none of ours
                if self.files.read(f"{above}/{POINTER}") is not None:
                    raise WrongInput(f"--export {self.uri} is in the warehouse {above}: name a folder outside it")
                if (kind := site.kind_at(self.files, above)) is not None:
                    raise WrongInput(f"--export {self.uri} is in the {kind} {above}: name a folder outside it")
            above = uris.parent(above)

    def replace(self, partials: dict[str, str]) -> None:
        """Gives the files at ``partials`` (name -> URI) their names. Each is replaced in one step.

        The marker has the digests of old and new files meanwhile. So a job that is killed here leaves an export that
        the next one replaces. remove.csv comes last: whatever is in it, the image that is kept instead stays in place.
        """
        new = {name: [_digest(uri)] for name, uri in partials.items()}
        self._mark({name: [*digests, *self.digests.get(name, [])] for name, digests in new.items()})
        self.files.sync(self.uri)
        for name, partial in partials.items():
            _rename(partial, f"{self.uri}/{name}")
        self._mark(new)

    def begin(self) -> None:
        """Marks the folder, and removes what a killed job was writing."""
        self._mark(self.digests)
        for name in self.files.entries(self.uri):
            if _LEFT_OVER.fullmatch(name):
                self.files.delete(f"{self.uri}/{name}")

    def _mark(self, digests: dict[str, list[str]]) -> None:
        content = {"kind": _KIND, "sha256": {name: of for name, of in digests.items() if name != MARKER}}
        self.files.write(f"{self.uri}/{MARKER}", json.dumps(content, indent=1).encode())


_KIND = "image-similarity export"
_LEFT_OVER = re.compile(r"(keep\.csv|remove\.csv|groups\.parquet|export\.json)\.[0-9a-f]{8}\.tmp")
"""Files that a job was writing when it was killed."""


def _digests(content: bytes | None) -> dict[str, list[str]]:
    """What a marker says: a list of digests for each file that an export may have written. Empty if it is not ours."""
    try:
        marker = json.loads(content or b"")
        if marker["kind"] != _KIND:
            return {}
        return {**{name: list(of) for name, of in marker["sha256"].items()}, MARKER: []}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _digest(uri: str) -> str:
    digest = hashlib.sha256()
    with blobs.open_stream(uri) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _rename(source: str, target: str) -> None:
    filesystem, path = blobs.filesystem_of(source)
    _, target_path = blobs.filesystem_of(target)
    if not uris.is_local(source) and uris.scheme_of(source) not in OBJECT_STORES:
        blobs.delete(target)  # Hadoop renames to no name that is taken
    filesystem.move(path, target_path)


# -- the lists ---------------------------------------------------------------------------------------------------------


def write(
    folder: str, published: Snapshot, fingerprint: str, groups: pa.Table, spark: "SparkSession | None" = None
) -> Written:
    """Writes the lists of ``groups`` to ``folder``: all files, or none if anything fails before they are complete.

    ``published``: the warehouse, with the manifest and the embeddings by ``fingerprint`` that the groups were made of.
    ``groups``: rows of the table ``groups`` of one fingerprint and metric, in any order; kinds other than identical and
    near-duplicates are not looked at. The files depend on neither the rows' order nor that of the tables. Raises
    ``WrongInput`` as `check_folder` does, but for the place, or if the folder cannot be written; ``OSError``.
    """
    place = _Folder.open(folder, spark)
    lists = _Lists.of(groups, published, fingerprint)
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        rows = _Rows.of(lists, published, Path(scratch))
        with ExitStack() as stack:
            try:
                stack.enter_context(place.files.locked(f"{place.uri}/{site.LOCK}"))
                place = _Folder.open(folder, spark)  # another job may have written to it meanwhile
                place.begin()
            except OSError as error:
                raise WrongInput(f"--export {folder}: cannot be written: {error}") from None
            return _write(place, lists, rows)


def _write(place: _Folder, lists: "_Lists", rows: "_Rows") -> Written:
    token = secrets.token_hex(4)
    partials = {name: f"{place.uri}/{name}.{token}.tmp" for name in (KEEP_CSV, GROUPS_PARQUET, REMOVE_CSV)}
    try:
        with blobs.create(partials[KEEP_CSV]) as file:
            kept = _CsvFile(file, pa.schema([*_KEPT, *rows.columns.schema]))
            for part in rows.kept.tables():
                kept.write([part[name] for name in _KEPT.names], rows.columns, part["attributes"])
            kept.close()
        with blobs.create(partials[REMOVE_CSV]) as file, blobs.create(partials[GROUPS_PARQUET]) as other:
            removed = _CsvFile(file, pa.schema([*_REMOVED, *rows.columns.schema]))
            with pq.ParquetWriter(other, _GROUPS, compression="zstd") as both:
                for part in lists.tables(rows.listed):
                    both.write_table(part)
                    part = part.filter(pc.equal(part["action"], REMOVE))
                    removed.write([part[name] for name in _REMOVED.names], rows.columns, part["attributes"])
            removed.close()
        place.replace(partials)
    except BaseException:
        for uri in partials.values():
            with suppress(OSError):
                blobs.delete(uri)
        raise
    return Written(
        place.uri,
        kept.rows,
        removed.rows,
        lists.removed_bytes,
        lists.groups,
        lists.left_out,
        kept.formulas + removed.formulas,
    )


@dataclass(frozen=True)
class _Lists:
    """The images of groups: what becomes of each, and in which order they are listed."""

    fates: pa.Table
    """`keep.FATES`"""
    facts: pa.Table
    """`FACTS`, of the same images."""
    order: np.ndarray
    """Numbers of the images that are listed: by group (the largest first), then by position."""
    size: np.ndarray
    """The number of listed images in the group of each image."""
    left_out: int

    @classmethod
    def of(cls, groups: pa.Table, published: Snapshot, fingerprint: str) -> "_Lists":
        fates = keep.fates(groups)
        known = facts(published, fingerprint, fates["image_id"].combine_chunks())
        kept, own = fates["kept"].to_numpy(), np.arange(len(fates))
        unchanged = known["unchanged"].to_numpy()
        unchanged &= unchanged[kept]
        # Two names of one file: who removes the one has removed the other.
        one_file = pc.fill_null(pc.equal(known["uri"], known["uri"].take(pa.array(kept))), False).to_numpy()
        removed = unchanged & ~one_file & (kept != own)
        others = np.bincount(kept[removed], minlength=len(fates))[kept]
        is_listed = removed | ((kept == own) & (others > 0))
        name = np.empty(len(fates), np.int64)
        name[pc.sort_indices(fates["image_id"]).to_numpy()] = own
        order = np.lexsort((fates["position"].to_numpy(), name[kept], -others))
        left_out = int(np.count_nonzero(~unchanged & ~one_file & (kept != own)))
        return cls(fates, known, order[is_listed[order]], others + 1, left_out)

    @cached_property
    def removed(self) -> np.ndarray:
        """Whether each image is in remove.csv; a place for each image."""
        removed = np.zeros(len(self.fates), bool)
        removed[self.order] = (self.fates["kept"].to_numpy() != np.arange(len(self.fates)))[self.order]
        return removed

    @property
    def removed_bytes(self) -> int:
        return int(pc.sum(self.facts["size_bytes"].filter(pa.array(self.removed))).as_py() or 0)

    @property
    def groups(self) -> int:
        return len(self.order) - int(np.count_nonzero(self.removed))

    def tables(self, attributes: Ordered) -> Iterator[pa.Table]:
        """Rows of ``groups.parquet``, in order. ``attributes``: place in the order, attributes."""
        first = 0
        for part in attributes.tables():
            yield self._table(self.order[first : first + len(part)], part["attributes"])
            first += len(part)
        if first != len(self.order):
            raise JobFailed(
                f"the manifest has {first:,} of {counted(len(self.order), 'image')} in groups: it is damaged"
            )

    def _table(self, image: np.ndarray, attributes: pa.ChunkedArray) -> pa.Table:
        fates, known = self.fates.take(image), self.facts.take(image)
        of_kept = self.facts.take(fates["kept"])
        columns = {name: known[name] for name in ("image_id", "uri", "width", "height", "size_bytes")}
        columns |= {f"kept_{name}": of_kept[name] for name in ("uri", "width", "height", "size_bytes")}
        columns |= {name: fates[name] for name in ("distance", "kind", "group_id")}
        columns |= {
            "action": pc.if_else(pa.array(self.removed[image]), REMOVE, KEEP),
            "kept_id": of_kept["image_id"],
            "group_size": pa.array(self.size[image], pa.int32()),
            "position": fates["position"].cast(pa.int32()),
            "attributes": attributes,
        }
        return pa.table([columns[name] for name in _GROUPS.names], schema=_GROUPS)


@dataclass(frozen=True)
class _Rows:
    """The rows of the manifest, sorted into lists in files on this machine."""

    columns: Columns
    kept: Ordered
    """`_KEPT` and attributes."""
    listed: Ordered
    """The place in `_Lists.order`, and attributes."""

    @classmethod
    def of(cls, lists: _Lists, published: Snapshot, scratch: Path) -> "_Rows":
        names, sample = set[str](), list[str]()

        def ids() -> Iterator[pa.RecordBatch]:
            for batch in _images(lists, published, ["image_id", "attributes"]):
                names.update(attributes.names_of(batch["attributes"]))
                sample.extend(batch["image_id"][::SAMPLED].to_pylist())
                yield batch.select(["image_id"])

        in_groups = lists.fates["image_id"].combine_chunks()
        found = [pc.index_in(block["image_id"], value_set=in_groups) for block in in_blocks(ids(), len(in_groups))]
        numbers = pc.fill_null(pa.chunked_array(found, pa.int32()), -1).to_numpy()
        step = ROWS_AT_ONCE // SAMPLED
        kept = Ordered(scratch / "kept", "image_id", sorted(sample)[step::step])
        listed = Ordered(scratch / "listed", "place", range(ROWS_AT_ONCE, len(lists.order), ROWS_AT_ONCE))
        place = np.full(len(lists.fates), -1, np.int64)
        place[lists.order] = np.arange(len(lists.order))
        first = 0
        for batch in _images(lists, published, ["image_id", "uri", "attributes"]):  # in the same order again
            number = numbers[first : first + len(batch)]
            first += len(batch)
            kept.add(_kept_rows(lists, batch, number, np.append(place, -1)[number] >= 0))
            in_lists = pa.array(np.append(place, -1)[number])
            of_groups = pa.RecordBatch.from_arrays([in_lists, batch["attributes"]], names=["place", "attributes"])
            listed.add(of_groups.filter(pc.greater_equal(in_lists, 0)))
        return cls(Columns.of(names, _TAKEN), kept, listed)


def _kept_rows(lists: _Lists, images: pa.RecordBatch, number: np.ndarray, is_listed: np.ndarray) -> pa.RecordBatch:
    """The ``images`` that stay, with their groups. ``number``: of each image in ``lists``, -1 if it is in no group."""
    group = lists.fates["group_id"].combine_chunks().take(pa.array(number, mask=~is_listed))
    size = pa.array(np.where(is_listed, np.append(lists.size, 1)[number], 1), pa.int32())
    rows = pa.RecordBatch.from_arrays(
        [images["image_id"], images["uri"], group, size, images["attributes"]],
        schema=_KEPT.append(pa.field("attributes", _ATTRIBUTES)),
    )
    return rows.filter(pa.array(~np.append(lists.removed, False)[number]))


def _images(lists: _Lists, published: Snapshot, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The images of the collection: those of the manifest. Vectors of one's own need none; then, those in groups."""
    if published.run_ids("manifest", ""):
        yield from published.batches("manifest", "", columns)
        return
    known = lists.facts.select(["image_id", "uri"])
    known = known.append_column("attributes", pa.nulls(len(known), _ATTRIBUTES)).select(columns)
    yield from known.to_batches(max_chunksize=ROWS_AT_ONCE)


_FORMULA, _NUMBER = r"^[=+\-@\t\r]", r"^[+-]?[0-9.,]+([eE][+-]?[0-9]+)?%?$"
"""What a spreadsheet evaluates, and what is harmless of it."""


class _CsvFile:
    """A CSV file as RFC 4180 has it, but for its line ends, which are LF: UTF-8, a header, texts in quotes.

    A null is an empty cell, and an empty text is a pair of quotes.
    """

    def __init__(self, file: Any, schema: pa.Schema):
        self._schema, self.rows, self.formulas = schema, 0, 0
        self._writer = csv.CSVWriter(file, schema, write_options=csv.WriteOptions(quoting_style="needed"))

    def write(self, own: list[pa.ChunkedArray], columns: Columns, maps: pa.ChunkedArray) -> None:
        """Writes rows: our ``own`` columns, and those of the attributes in ``maps``."""
        table = pa.table([*own, *columns.fill(maps.combine_chunks())], schema=self._schema)
        for column in table.columns:
            if pa.types.is_string(column.type):
                is_one = pc.and_not(
                    pc.match_substring_regex(column, _FORMULA), pc.match_substring_regex(column, _NUMBER)
                )
                self.formulas += pc.sum(is_one).as_py() or 0
        self._writer.write_table(table)
        self.rows += len(table)

    def close(self) -> None:
        self._writer.close()
