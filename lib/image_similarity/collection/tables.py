"""Published tables, one fingerprint and one metric at a time, as pyarrow tables in an order that is documented."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.collection import defaults
from image_similarity.collection.vectors import dimensions_of, key_of, large
from image_similarity.errors import WrongInput, listed
from image_similarity.warehouse import current_tags
from image_similarity.warehouse.schemas import (
    ALIKE,
    DISSIMILAR,
    IDENTICAL,
    NEAR_DUPLICATES,
    SCHEMAS,
    SIMILAR,
)
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_BLOCK_ROWS = 2**16
"""Of texts that are put into one array, which holds 2 GiB."""

RELATIONS = (SIMILAR, DISSIMILAR)
KINDS = (NEAR_DUPLICATES, IDENTICAL, ALIKE)

FINGERPRINTS = pa.schema(
    [
        ("fingerprint", pa.string()),
        ("kind", pa.string()),
        ("network", pa.string()),
        ("layer", pa.string()),
        ("weights", pa.string()),
        ("trained", pa.bool_()),
        ("dimensions", pa.int32()),
        ("images", pa.int64()),
        ("fingerprint_key", pa.string()),
        ("run_id", pa.string()),
    ]
)
EXTERNAL = "external"
"""The kind of vectors of one's own (``find_neighbours --embeddings``)."""

_WORD = pa.dictionary(pa.int32(), pa.string())
"""Of columns with few values: four bytes a row."""
NEIGHBOURS = pa.schema(
    [
        pa.field(column.name, _WORD if column.name in ("fingerprint", "relation", "metric", "method") else column.type)
        for column in SCHEMAS["neighbours"]
    ]
)
IMAGES = pa.schema(
    [
        *SCHEMAS["manifest"],
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("content_sha256", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


# -- fingerprints ------------------------------------------------------------------------------------------------------


def fingerprints(snapshot: Snapshot) -> pa.Table:
    rows = [_fingerprint(snapshot, name) for name in defaults.fingerprints_of(snapshot)]
    return pa.Table.from_pylist(rows, schema=FINGERPRINTS)


def _fingerprint(snapshot: Snapshot, name: str) -> dict[str, Any]:
    runs = snapshot.run_ids("embeddings", name)
    if not runs:
        return _own_vectors(snapshot, name)
    settings = snapshot.runs[runs[-1]].settings if runs[-1] in snapshot.runs else {}
    declared = settings.get("fingerprint", {}).get(name, {})
    description = settings.get("description", {})
    key = key_of(snapshot, name)
    return {
        "fingerprint": name,
        "kind": declared.get("kind") or ("network" if "network" in declared else None),
        "network": declared.get("network"),
        "layer": declared.get("layer") or description.get("layer"),
        "weights": settings.get("weights"),
        "trained": settings.get("trained"),
        "dimensions": dimensions_of(snapshot, key) if key else None,
        "images": snapshot.dataset("embeddings", name).count_rows(),
        "fingerprint_key": key,
        "run_id": runs[-1],
    }


def _own_vectors(snapshot: Snapshot, name: str) -> dict[str, Any]:
    run = max(run for metric in defaults.metrics_of(snapshot, name) for run in _neighbour_runs(snapshot, name, metric))
    counts = snapshot.runs[run].counts if run in snapshot.runs else {}
    numbers = {column: counts.get(column) for column in ("dimensions", "images")}
    return {"fingerprint": name, "kind": EXTERNAL, **numbers, "run_id": run}


def _neighbour_runs(snapshot: Snapshot, fingerprint: str, metric: str) -> list[str]:
    return snapshot.run_ids("neighbours", f"{fingerprint}/{metric}")


# -- neighbours --------------------------------------------------------------------------------------------------------


def neighbours(
    snapshot: Snapshot, fingerprint: str | None, metric: str | None, relation: str | None, k: int | None
) -> pa.Table:
    name = defaults.fingerprint_of(snapshot, fingerprint)
    by = defaults.metric_of(snapshot, name, metric)
    wanted = RELATIONS if relation is None else (defaults.one_of("relation", relation, RELATIONS),)
    slot = f"{name}/{by}"
    runs = _runs_of(snapshot, "neighbours", slot, f"find_neighbours --fingerprint {name} --metric {by}")
    _check_length(snapshot, runs, wanted, k)
    rows = snapshot.dataset("neighbours", slot)
    parts = [_lists(rows, one, k) for one in wanted]
    whole = pa.concat_tables(parts).unify_dictionaries()
    constant = {"fingerprint": name, "metric": by}
    columns = [
        _repeated(constant[column], len(whole)) if column in constant else whole[column] for column in NEIGHBOURS.names
    ]
    return described(pa.table(columns, schema=NEIGHBOURS), fingerprint=name, metric=by, run_id=runs[-1])


def _check_length(snapshot: Snapshot, runs: list[str], relations: Iterable[str], k: int | None) -> None:
    """Raises ``WrongInput`` for relations, or lists of a length, that the run did not make."""
    if k is not None and (isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1):
        raise WrongInput(f"k = {k!r}: should be a whole number, 1 or more")
    records = [snapshot.runs[run].settings.get("neighbours", {}) for run in runs if run in snapshot.runs]
    lengths = [settings.get(relation) for settings in records for relation in relations]
    if not lengths or None in lengths:
        return
    relation = next(iter(relations))
    flag = {SIMILAR: "-k", DISSIMILAR: "--dissimilar"}[relation]
    if not max(lengths):
        raise WrongInput(
            f"{snapshot.uri}: no {relation} neighbours are published: run find_neighbours with {flag} 12, say"
        )
    if k is not None and k > max(lengths):
        raise WrongInput(
            f"{snapshot.uri}: k = {k}, but the published lists hold {max(lengths)}: run find_neighbours with {flag} {k}"
        )


def _lists(rows: "ds.Dataset", relation: str, k: int | None) -> pa.Table:
    """The lists of one relation, in the order of image_id, then rank."""
    wanted = pc.field("relation") == relation
    if k is not None:
        wanted &= pc.field("rank") <= k
    columns = ["image_id", "rank", "neighbour_id", "distance", "method"]
    lists = rows.to_table(columns=columns, filter=wanted)
    lists = lists.set_column(columns.index("method"), "method", lists["method"].cast(_WORD))
    lists = lists.append_column("relation", _repeated(relation, len(lists)))
    # Tables that this machine alone has made are in order. To sort 12 million rows takes seconds.
    return lists if _is_in_order(lists["image_id"], lists["rank"]) else lists.sort_by(_ascending("image_id", "rank"))


def _is_in_order(names: pa.ChunkedArray, ranks: pa.ChunkedArray) -> bool:
    rows = len(names)
    if rows < 2:
        return True
    before, after = names.slice(0, rows - 1), names.slice(1)
    next_rank = pc.less(ranks.slice(0, rows - 1), ranks.slice(1))
    in_order = pc.or_(pc.less(before, after), pc.and_(pc.equal(before, after), next_rank))
    return bool(pc.all(in_order).as_py())


def _repeated(word: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([word]))


# -- images ------------------------------------------------------------------------------------------------------------


def images(snapshot: Snapshot, fingerprint: str | None) -> pa.Table:
    _runs_of(snapshot, "manifest", "", "build_manifest")
    name = _embedded_by(snapshot, fingerprint)
    manifest = snapshot.table("manifest")
    order = pc.sort_indices(manifest["image_id"]).to_numpy().astype(np.int64)
    manifest = pa.table([_rows(column, order) for column in manifest.columns], schema=manifest.schema)
    ids = manifest["image_id"]
    embedded = _looked_up(snapshot, "embeddings", name, ["content_sha256"], ids)
    failed = _looked_up(snapshot, "failures", name, ["reason", "detail"], ids)
    # An image that is embedded has not failed: of an earlier version of its file, say.
    has_failed = pc.is_null(embedded["content_sha256"])
    for column in ("reason", "detail"):
        failed[column] = pc.if_else(has_failed, failed[column], pa.scalar(None, pa.string()))
    sizes = _sizes(snapshot, name, embedded["content_sha256"])
    columns = {**dict(zip(manifest.column_names, manifest.columns)), **sizes, **embedded, **failed}
    table = pa.table([columns[column] for column in IMAGES.names], schema=IMAGES)
    return described(table, fingerprint=name, run_id=snapshot.run_ids("manifest", "")[-1])


def _embedded_by(snapshot: Snapshot, fingerprint: str | None) -> str | None:
    """The fingerprint whose embeddings say what was read of each image; None if nothing is embedded yet."""
    if fingerprint is not None:
        return defaults.fingerprint_of(snapshot, fingerprint)
    return next((name for name in defaults.fingerprints_of(snapshot) if snapshot.run_ids("embeddings", name)), None)


def _looked_up(
    snapshot: Snapshot, table: str, slot: str | None, columns: list[str], ids: pa.ChunkedArray
) -> dict[str, Any]:
    """``columns`` of the rows of ``table`` with each of ``ids``; null where there is none."""
    if slot is None:
        return {column: pa.nulls(len(ids), pa.string()) for column in columns}
    rows = snapshot.table(table, slot, ["image_id", *columns])
    return _taken(rows, "image_id", columns, ids)


def _sizes(snapshot: Snapshot, fingerprint: str | None, contents: Any) -> dict[str, Any]:
    key = None if fingerprint is None else key_of(snapshot, fingerprint)
    if key is None:
        return {column: pa.nulls(len(contents), pa.int32()) for column in ("width", "height")}
    rows = snapshot.table("vectors", key, ["content_sha256", "width", "height"])
    return _taken(rows, "content_sha256", ["width", "height"], contents)


def _taken(rows: pa.Table, key: str, columns: list[str], wanted: Any) -> dict[str, Any]:
    places = pc.index_in(wanted.cast(pa.large_string()), value_set=large(rows[key]), skip_nulls=True)
    place = pc.fill_null(places, -1).to_numpy().astype(np.int64)
    return {column: _rows(rows[column], place) for column in columns}


def _rows(column: pa.ChunkedArray, place: NDArray[np.int64]) -> pa.ChunkedArray:
    """The rows ``place`` of ``column``; null for -1. Few rows at a time: pyarrow would put the texts of all of them, or
    all that they are taken from, into one array, which holds 2 GiB.
    """
    chunks = [pa.nulls(1, column.type), *column.chunks]
    start = np.cumsum([0, *(len(chunk) for chunk in chunks)]) - 1  # the null is row -1
    blocks = [_block(chunks, start, place[first : first + _BLOCK_ROWS]) for first in range(0, len(place), _BLOCK_ROWS)]
    return pa.chunked_array(blocks, column.type)


def _block(chunks: list[pa.Array], start: NDArray[np.int64], place: NDArray[np.int64]) -> pa.Array:
    chunk = np.searchsorted(start, place, side="right") - 1
    order = np.argsort(chunk, kind="stable")
    parts = [
        chunks[number].take(pa.array(place[chunk == number] - start[number])) for number in np.unique(chunk).tolist()
    ]
    back = np.empty(len(place), np.int64)
    back[order] = np.arange(len(place))
    return pa.concat_arrays(parts).take(pa.array(back))


# -- groups ------------------------------------------------------------------------------------------------------------

_ORDERS = {
    "groups": [("level", "ascending"), ("group_id", "ascending"), ("position", "ascending")],
    "group_summary": [("level", "ascending"), ("size", "descending"), ("group_id", "ascending")],
}


def groups(
    snapshot: Snapshot, table: str, kind: str, fingerprint: str | None, metric: str | None, level: int | None
) -> pa.Table:
    """Rows of ``groups`` or ``group_summary``."""
    defaults.one_of("kind", kind, KINDS)
    levels = (0, 1, 2) if kind == ALIKE else (0,)
    if level is not None and level not in levels:
        raise WrongInput(f"level {level!r}: groups of kind {kind!r} have {listed(f'level {one}' for one in levels)}")
    name = defaults.fingerprint_of(snapshot, fingerprint)
    by = defaults.metric_of(snapshot, name, metric)
    asked = ALIKE if kind == ALIKE else NEAR_DUPLICATES  # one run makes both: identical files are near-duplicates
    job = f"group_images --fingerprint {name} --metric {by} --kind {asked}"
    runs = _runs_of(snapshot, table, f"{name}/{by}/{kind}", job)
    rows = snapshot.dataset(table, f"{name}/{by}/{kind}")
    wanted = pc.field("kind") == kind  # the files of a run hold several
    chosen = rows.to_table(filter=wanted if level is None else wanted & (pc.field("level") == level))
    return described(chosen.sort_by(_ORDERS[table]), fingerprint=name, metric=by, run_id=runs[-1])


# -- quality and tags --------------------------------------------------------------------------------------------------


def quality(snapshot: Snapshot) -> pa.Table:
    rows = published(snapshot, "quality", "", "embed_images")
    return described(rows.sort_by(_ascending("image_id")), run_id=snapshot.run_ids("quality", "")[-1])


def tags(snapshot: Snapshot, fingerprint: str | None) -> pa.Table:
    slots = snapshot.slots("tags")
    if not slots:
        raise WrongInput(f"{snapshot.uri}: no tags are published: run tag_images first")
    name = defaults.chosen(snapshot, "fingerprint with tags", fingerprint, slots)
    rows, _ = current_tags.split(snapshot, name, SCHEMAS["tags"].names)
    return described(rows.sort_by(_ascending("image_id", "rank")), fingerprint=name, run_id=slots[name][-1])


# -- the map -----------------------------------------------------------------------------------------------------------


def layout(snapshot: Snapshot, fingerprint: str | None, metric: str | None) -> pa.Table:
    slots = [slot.partition("/") for slot in snapshot.slots("layout")]
    if not slots:
        raise WrongInput(f"{snapshot.uri}: no layout is published: run render_map first")
    run = f"name one, or run render_map --fingerprint {fingerprint} first"
    name = defaults.chosen(snapshot, "fingerprint with a layout", fingerprint, [of for of, _, _ in slots], run)
    by = None if metric is None else defaults.one_of("metric", metric, defaults.METRICS)
    run = f"name one, or run render_map --fingerprint {name} --metric {by} first"
    by = defaults.chosen(snapshot, "metric", by, [metric for of, _, metric in slots if of == name], run)
    slot = f"{name}/{by}"
    rows = snapshot.table("layout", slot).sort_by(_ascending("image_id"))
    return described(rows, fingerprint=name, metric=by, run_id=snapshot.run_ids("layout", slot)[-1])


# -- matches -----------------------------------------------------------------------------------------------------------


def matches(snapshot: Snapshot, queries: str | None, fingerprint: str | None, metric: str | None) -> pa.Table:
    slots = [slot.rsplit("/", 2) for slot in snapshot.slots("matches")]
    known = sorted({named for named, _, _ in slots})
    if not known:
        raise WrongInput(f"{snapshot.uri}: no matches are published: run search_images first")
    if queries is None and len(known) > 1:
        raise WrongInput(f"{snapshot.uri}: matches of several queries are published: name one of {listed(known)}")
    wanted = known[0] if queries is None else queries
    if wanted not in known:
        raise WrongInput(defaults.not_published(snapshot.uri, "matches of", wanted, known))
    name = defaults.chosen(snapshot, "fingerprint", fingerprint, [of for named, of, _ in slots if named == wanted])
    metrics = [by for named, of, by in slots if (named, of) == (wanted, name)]
    of_metric = defaults.chosen(snapshot, "metric", metric, metrics)
    slot = f"{wanted}/{name}/{of_metric}"
    rows = snapshot.table("matches", slot)
    in_order = rows.sort_by([("query_id", "ascending"), ("relation", "descending"), ("rank", "ascending")])
    run = snapshot.run_ids("matches", slot)[-1]
    return described(in_order, queries=wanted, fingerprint=name, metric=of_metric, run_id=run)


# -- what they share ---------------------------------------------------------------------------------------------------


def _runs_of(snapshot: Snapshot, table: str, slot: str, job: str) -> list[str]:
    """The current runs of a slot. Raises ``WrongInput``, with the slots that are published, if there are none."""
    runs = snapshot.run_ids(table, slot)
    if not runs and not slot:
        raise WrongInput(f"{snapshot.uri}: no {table} is published: run {job} first")
    if not runs:
        published = listed(sorted(snapshot.slots(table)))
        raise WrongInput(f"{snapshot.uri}: no {table} {slot} (published: {published}): name one, or run {job} first")
    return runs


def published(snapshot: Snapshot, table: str, slot: str, job: str, columns: list[str] | None = None) -> pa.Table:
    """The rows of a slot. Raises ``WrongInput`` where none is published, with the ``job`` that makes it."""
    _runs_of(snapshot, table, slot, job)
    return snapshot.table(table, slot, columns)


def _ascending(*columns: str) -> list[tuple[str, str]]:
    return [(column, "ascending") for column in columns]


def described(table: pa.Table, **about: str | None) -> pa.Table:
    """``table`` with what it is about in the metadata of its schema."""
    known: Mapping[str, str] = {name: value for name, value in about.items() if value is not None}
    return table.replace_schema_metadata(known)
